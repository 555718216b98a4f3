"""The project, made once and copied for those that change it."""

from pathlib import Path

import pytest

from tests.release.published import PublishedProject


@pytest.fixture(scope="session")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> PublishedProject:
    """Nobody changes it."""
    return PublishedProject(tmp_path_factory.mktemp("release") / "project").build()


@pytest.fixture
def project(shared_project: PublishedProject, tmp_path: Path) -> PublishedProject:
    """A copy of it."""
    return shared_project.copy(tmp_path / "project")
