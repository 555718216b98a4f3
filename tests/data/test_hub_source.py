"""A source that is published on the Hub: pinned, checked, and continued after a broken download."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import polars as pl
import pytest

from benchmarks.kills import Job
from fusion.data.errors import IngestError
from fusion.data.ingest.hub import LARGE
from fusion.data.origins import published
from fusion.hashing import file_sha256
from tests.data.workshop import DATASET, Workshop, picture, sample
from tests.hub_server import Hub, Repository, hub_server

COMMIT = "c0ffee" * 6 + "abcd"
REPO = "someone/FUSION-Pretrain-10M"


@pytest.fixture
def source(workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The origin of a source whose files only the Hub has."""
    images = {f"{number}.png": picture(number, (400, 400)) for number in range(3)}
    workshop.add("s", [sample(number) for number in range(3)], images, container="tar")
    data = workshop.settings.data.model_copy(update={"roots": {}})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    origin: dict[str, Any] = workshop.sources["s"]["origin"]
    origin |= {"repo": REPO, "revision": COMMIT}
    monkeypatch.setattr(published, "SCRATCH", tmp_path / "scratch/hub")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    return origin


@pytest.fixture
def hub(source: dict[str, Any], workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The Hub with the source's repository at one commit."""
    with hub_server({REPO: Repository(workshop.published, COMMIT, {"v1": COMMIT})}) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", running.address)
        monkeypatch.setattr(
            huggingface_hub.constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            running.address + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield running


def test_a_source_comes_from_its_commit_and_is_asked_for_once(workshop: Workshop, hub: Hub):
    assert workshop.shard("s")["row"].to_list() == [0, 1, 2]
    lock = json.loads((workshop.folder / "data/raw" / DATASET / "s/images.lock.json").read_text())
    assert lock["base"] == {"kind": "hub", "repo": REPO, "revision": COMMIT}
    for entry, name in ((lock["annotations"][0], "s.json"), (lock["containers"][0], "s.tar")):
        file = workshop.published / name
        assert (entry["path"], entry["sha256"]) == (name, file_sha256(file))
        assert entry["bytes"] == file.stat().st_size
    asked = len(hub.requests)
    (workshop.published / "s.json").write_text("[]")  # what the Hub has now is of no interest
    assert workshop.shard("s")["row"].to_list() == [0, 1, 2]
    assert len(hub.requests) == asked
    hub.repositories.clear()
    assert workshop.shard("s")["row"].to_list() == [0, 1, 2]


def test_a_revision_that_can_move_or_is_gone_is_refused(workshop: Workshop, hub: Hub, source: dict[str, Any]):
    for name in ("main", "v1"):
        source["revision"] = name
        with pytest.raises(IngestError, match=f"@{name}: a branch or tag can move.*`revision: {COMMIT}`"):
            workshop.ingest("s")
    source["revision"] = "d" * 40
    with pytest.raises(IngestError, match=r"no such revision \(any more\): its history was rewritten"):
        workshop.ingest("s")


def test_what_the_repository_lacks_is_named(workshop: Workshop, hub: Hub, source: dict[str, Any]):
    source["images"] = ["gone.tar"]
    with pytest.raises(Exception, match=r"gone\.tar is missing"):
        workshop.ingest("s")
    source["file"] = "gone.json"
    with pytest.raises(IngestError, match=rf"{REPO}@{COMMIT} has no file gone\.json"):
        workshop.ingest("s")
    source["repo"] = "someone/else"
    with pytest.raises(IngestError, match=r"someone/else@\w+ cannot be downloaded"):
        workshop.ingest("s")


def test_pictures_that_lie_elsewhere_in_the_repository_are_told(
    workshop: Workshop, hub: Hub, source: dict[str, Any], tmp_path: Path
):
    """Before anything is loaded where the entry names the place, and at the first picture where it is the usual one."""
    (workshop.published / "parts").mkdir()
    (workshop.published / "s.tar").rename(workshop.published / "parts/s.tar")
    there = r"What is there: parts/, s\.json, with the archives parts/s\.tar\. "
    with pytest.raises(IngestError, match=rf"{REPO}@{COMMIT}: s\.tar is missing: .*{there}.*`images` of .* s\.json in"):
        workshop.ingest("s")
    assert not list(tmp_path.glob("cache/**/*.json"))
    del source["images"]
    told = rf"shapes/s: row 0 names the picture 0\.png, but {REPO}@{COMMIT} has no file in images, .*{there}"
    with pytest.raises(IngestError, match=rf"{told}.*test\.yaml: datasets\.shapes\.sources\.s\.origin\.images"):
        workshop.ingest("s")
    source["images"] = ["parts/s.tar"]
    assert workshop.shard("s")["row"].to_list() == [0, 1, 2]


def test_a_download_that_is_not_what_was_published_is_refused(workshop: Workshop, hub: Hub):
    hub.repositories[REPO].corrupt.add("s.tar")
    with pytest.raises(IngestError, match=r"s\.tar has the sha256 \w+, but was published with \w+.*Delete"):
        workshop.ingest("s")
    assert not (workshop.folder / "data/raw" / DATASET / "s").exists()


def test_a_killed_download_continues(workshop: Workshop, hub: Hub, tmp_path: Path):
    half, go_on = threading.Event(), threading.Event()

    def halfway(name: str) -> None:
        if name == "s.tar":
            half.set()
            go_on.wait(60)

    hub.repositories[REPO].halfway = halfway
    # Large enough to be continued.
    with tarfile.open(workshop.published / "s.tar", "a") as tar:
        info = tarfile.TarInfo("filler")
        info.size = LARGE
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    assert workshop.catalog
    arguments = {"dataset": DATASET, "source": "s"}
    job = Job("fusion.data.ingest:ingest_source", str(workshop.folder), arguments, {"roots": {}})
    command = [sys.executable, "-m", "benchmarks.kills", json.dumps([asdict(job), None])]
    shutil.copy("params.yaml", workshop.folder)
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    with subprocess.Popen(command, cwd=workshop.folder, env=environment) as process:
        assert half.wait(60)
        _until(lambda: any(path.stat().st_size for path in tmp_path.glob("cache/**/*.partial")))
        os.kill(process.pid, signal.SIGKILL)
    go_on.set()
    assert not (workshop.folder / "data/raw" / DATASET / "s").exists()
    assert workshop.ingest("s")["row"].to_list() == [0, 1, 2]
    continued = [start for name, start in hub.ranges if name == "s.tar" and start]
    assert continued and 0 < continued[0] <= LARGE // 2 + 100_000
    assert not list(tmp_path.glob("cache/**/*.partial"))
    table = pl.read_parquet(workshop.folder / "data/raw" / DATASET / "s/samples.parquet")
    assert table["image"].to_list() == ["0.png", "1.png", "2.png"]


def _until(ready: Any, seconds: float = 30.0) -> None:
    waiting = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if ready():
            return
        waiting.wait(0.02)
    raise AssertionError("it did not come to pass")
