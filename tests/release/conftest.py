"""The project, made once and copied for those that change it; a Hub of a test's own; keys."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.hub_server import Hub, hub_server
from tests.hub_writes import Account
from tests.hub_xet import XetAccount
from tests.release.published import PublishedProject

TOKEN = "hf_aTokenThatMayBeShownNowhere"


@pytest.fixture(scope="session")
def shared_project(tmp_path_factory: pytest.TempPathFactory) -> PublishedProject:
    """Nobody changes it."""
    return PublishedProject(tmp_path_factory.mktemp("release") / "project").build()


@pytest.fixture
def project(shared_project: PublishedProject, tmp_path: Path) -> PublishedProject:
    """A copy of it."""
    return shared_project.copy(tmp_path / "project")


@pytest.fixture
def account() -> Account:
    """Of a user who belongs to the organisation that params.yaml names."""
    return Account("somebody", TOKEN, ("fusion",))


@pytest.fixture
def hub(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub without repositories, with the environment that leads this process and its children there."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    with _leading_to(account, tmp_path, monkeypatch) as served:
        yield served


@pytest.fixture
def xet_account() -> XetAccount:
    """The same, on a Hub whose large files go to Xet."""
    return XetAccount("somebody", TOKEN, ("fusion",))


@pytest.fixture
def xet_hub(xet_account: XetAccount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub with Xet, for children of this process alone: the client keeps one session a process."""
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "0")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "100ms")
    with _leading_to(xet_account, tmp_path, monkeypatch) as served:
        yield served


@contextmanager
def _leading_to(account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub-cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server({}, account) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        yield served


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """A private key, outside the project; `key.pub` beside it is the public one."""
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    private = tmp_path / "key.pem"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    subprocess.run(make, check=True, capture_output=True)
    show = ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(private.with_suffix(".pub"))]
    subprocess.run(show, check=True, capture_output=True)
    return private
