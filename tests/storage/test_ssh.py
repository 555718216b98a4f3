"""The road of a run's data over a real SSH server: pushed, restored in another clone, equal hashes, refusals."""

from pathlib import Path

import pytest

from flows.results import PushError, push
from fusion.lineage.files import sha256_path
from tests.storage.ssh_server import SshServer, missing, serve
from tests.stored_project import StoredProject, copy_project

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(missing() is not None, reason=f"a real SSH server is needed: {missing()}"),
]


def name_remote(project: StoredProject, server: SshServer, key: Path) -> None:
    """As docs/operations.md says; the key is a setting of this machine, in .dvc/config.local."""
    project.dvc("remote", "add", "--local", "--force", "--default", "box", server.address)
    project.dvc("remote", "modify", "--local", "box", "keyfile", str(key))


def test_push_restore_verify(stored: StoredProject, tmp_path: Path) -> None:
    with serve(tmp_path / "server", tmp_path / "served") as server:
        here = copy_project(stored, tmp_path / "here")
        name_remote(here, server, server.wrong_key)
        with pytest.raises(PushError) as denied:
            push(here.root)
        assert not denied.value.retryable and not here.objects(tmp_path / "served"), "another key opens nothing"

        name_remote(here, server, server.key)
        assert push(here.root) == 9
        assert here.objects(tmp_path / "served") == here.objects()

        here.git("clone", "--quiet", str(here.root), str(tmp_path / "there"))
        there = StoredProject(tmp_path / "there")
        name_remote(there, server, server.key)
        assert "3 outputs" in there.fusion("restore", "first", "--to", "../back").stdout
        for path in here.lock():
            assert sha256_path(tmp_path / "back" / path) == sha256_path(here.root / path)
        assert here.fusion("gc", "--remote", "-").stdout.count("not needed: 0 objects") == 2, "cache and remote"
    with pytest.raises(PushError) as gone:
        push(here.root)
    assert gone.value.retryable, "nobody listens any more"
