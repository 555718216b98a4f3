"""A throw-away project as the current folder, and one closed Prefect server for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.flow_project import HERE, make_project

AUTH = "tester:not-a-real-secret"


@pytest.fixture(scope="session", autouse=True)
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect reads its home once, at import: set before the first test imports a flow."""
    home = tmp_path_factory.mktemp("prefect")
    os.environ["PREFECT_HOME"] = str(home)
    return home


@pytest.fixture(scope="module")
def server(prefect_home: Path) -> Iterator[str]:
    """The address of a server that asks for FUSION_UI_AUTH. It ends with the tests, also when these are killed."""
    from flows.environment import prepare
    from flows.server import start_server

    before = dict(os.environ)
    os.environ |= {"FUSION_UI_AUTH": AUTH, "FUSION_RETRY_SECONDS": "3"}
    prepare(HERE)
    running = start_server(HERE, os.environ)
    os.environ["PREFECT_API_URL"] = running.url
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    # Where prefect was imported before, by other tests, it has read its settings already.
    with temporary_settings({PREFECT_API_URL: running.url, PREFECT_API_AUTH_STRING: AUTH}):
        yield running.url
    running.end()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project, which is also the current folder."""
    monkeypatch.chdir(make_project(tmp_path / "project"))
    return tmp_path / "project"
