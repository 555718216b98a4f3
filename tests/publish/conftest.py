"""A finished run, written once for all tests here and copied for those that change it."""

import os
import shutil
from pathlib import Path

import pytest

from fusion.data.catalog import Catalog
from fusion.settings import Settings
from tests.publish.finished_run import finished_run

Run = tuple[Settings, Catalog, Path]


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Settings, catalog and root of a finished run that no test may change."""
    root = tmp_path_factory.mktemp("run")
    before = Path.cwd()
    os.chdir(root)
    try:
        return (*finished_run(Path(".")), root)
    finally:
        os.chdir(before)


@pytest.fixture
def run(shared_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A copy of it as the current folder."""
    settings, catalog, root = shared_run
    shutil.copytree(root, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    return settings, catalog, Path(".")
