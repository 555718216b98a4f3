"""The road of a run's data: pushed to a real S3-compatible server, restored from it in another clone, equal hashes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from flows.results import PushError, push
from fusion.lineage.files import sha256_path
from tests.e2e.project import copy_project as copy_pipeline
from tests.storage.s3_server import BUCKET, missing, serve
from tests.stored_project import HERE, StoredProject, copy_project

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(missing() is not None, reason=f"a real S3-compatible server is needed: {missing()}"),
]


def name_remote(project: StoredProject, address: str) -> None:
    """As docs/operations.md says: place and address in .dvc/config.local, credentials only in the environment."""
    project.dvc("remote", "add", "--local", "--default", "s3", f"s3://{BUCKET}/fusion")
    project.dvc("remote", "modify", "--local", "s3", "endpointurl", address)


def clone(origin: StoredProject, root: Path, **environment: str) -> StoredProject:
    origin.git("clone", "--quiet", str(origin.root), str(root))
    return StoredProject(root, **environment)


def make_restore(project: StoredProject, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`make restore` with this environment as the clone's own."""
    if not (project.root / ".venv").exists():
        (project.root / ".venv").symlink_to(HERE / ".venv", target_is_directory=True)
        shutil.copy(HERE / "Makefile", project.root)
        with (project.root / ".git/info/exclude").open("a") as exclude:
            exclude.write("/.venv\n/Makefile\n")
    return project.run("make", "--old-file", ".venv/.complete", "restore", *arguments, check=False)


def test_push_restore_verify(stored: StoredProject, tmp_path: Path) -> None:
    with serve(tmp_path / "served") as server:
        here = copy_project(stored, tmp_path / "here")
        here.environment = server.environment
        name_remote(here, server.address)
        said: list[str] = []
        assert push(here.root, say=said.append, environment=server.environment) == 9
        before = here.objects(server.folder / BUCKET / "fusion")
        assert before == here.objects()

        there = clone(here, tmp_path / "there", **server.environment)
        name_remote(there, server.address)
        restored = make_restore(there, "COMMIT=first", "TO=../back")
        assert restored.returncode == 0, restored.stdout + restored.stderr
        assert "3 outputs" in restored.stdout
        for path in here.lock():
            assert sha256_path(tmp_path / "back" / path) == sha256_path(here.root / path)

        # An object that the remote lost is named; what the remote may not be asked is no reason to try again.
        name = here.lock()["made/b"]
        (server.folder / BUCKET / "fusion/files/md5" / name[:2] / name[2:]).unlink()
        third = clone(here, tmp_path / "third", **server.environment)
        name_remote(third, server.address)
        failed = make_restore(third, "COMMIT=first")
        assert failed.returncode != 0 and f"made/b ({name})" in failed.stderr
        wrong = {**server.environment, "AWS_SECRET_ACCESS_KEY": "wrong"}
        with pytest.raises(PushError) as denied:
            push(here.root, environment=wrong)
        assert not denied.value.retryable and "wrong" not in str(denied.value)

        # On S3 gc sees sizes and ages too; the two objects of an amount that no commit has go.
        here.amount(2)
        here.dvc("repro", "--quiet", "letters@a")
        push(here.root, environment=server.environment)
        here.git("checkout", "--quiet", "--", ".")
        more = here.objects(server.folder / BUCKET / "fusion") - set(before)
        assert here.fusion("gc", "--remote", "-").stdout.count("came within 24 h") == 2
        here.fusion("gc", "--remote", "-", "--older-than", "0", "--yes")
        assert more and not more & here.objects(server.folder / BUCKET / "fusion")
    with pytest.raises(PushError) as gone:
        push(here.root, environment=server.environment)
    assert gone.value.retryable, "nobody listens any more"


def test_the_data_of_the_real_pipeline_comes_back(tmp_path: Path) -> None:
    """Ingest, shards, curation and validation of `micro`, with their records."""
    here = copy_pipeline(tmp_path / "here", "micro")
    here.repro("validate@micro-stage1")
    here.run("git", "add", "--all")
    here.run("git", "commit", "--quiet", "--message", "the data of micro")
    with serve(tmp_path / "served") as server:
        origin = StoredProject(here.root, **server.environment)
        name_remote(origin, server.address)
        assert push(origin.root, environment=server.environment) > 5
        there = clone(origin, tmp_path / "there", **server.environment)
        name_remote(there, server.address)
        assert there.run(os.fspath(HERE / ".venv/bin/fusion"), "restore", "HEAD", "--to", "../back").returncode == 0
        outputs = [path for outs in here.lock().values() for path in outs]
        assert outputs
        for path in outputs:
            assert sha256_path(tmp_path / "back" / path) == sha256_path(here.root / path)
