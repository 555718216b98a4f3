"""A throw-away project as the current folder, and one Prefect server for all tests, its home outside of any tree."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.flow_project import HERE, make_project


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server. It ends with the tests, also when these are killed.

    FUSION_TEST_SERVER names one that runs already: starting one takes longer than most of the tests.
    """
    from flows.environment import prepare
    from flows.server import start_server

    before = dict(os.environ)
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    prepare(HERE)
    running = None if (url := os.environ.get("FUSION_TEST_SERVER")) else start_server(HERE, os.environ)
    os.environ["PREFECT_API_URL"] = running.url if running else str(url)
    yield os.environ["PREFECT_API_URL"]
    if running:
        running.end()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, which is also the current folder."""
    monkeypatch.chdir(make_project(tmp_path / "project"))
    return tmp_path / "project"
