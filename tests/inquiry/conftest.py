"""The finished project, made once."""

import pytest

from tests.inquiry.finished import Project


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Nobody changes it: tests that do take a copy."""
    return Project(tmp_path_factory.mktemp("inquiry") / "project").build()
