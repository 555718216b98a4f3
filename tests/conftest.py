"""What tests of several folders share."""

import pytest

from tests.stored_project import StoredProject, make_project


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> StoredProject:
    """A project whose stages were run and committed, tag `first`; tag `as-made` is before. Copy it, never change it."""
    project = make_project(tmp_path_factory.mktemp("stored") / "project")
    project.git("tag", "as-made")
    project.repro()
    project.commit("the first run")
    project.git("tag", "first")
    return project
