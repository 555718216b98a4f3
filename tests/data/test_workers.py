"""Processes of the data's stages: none outlives the one that started it, and no two of these do the same work."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.chaos_data import processes_of, tree_hash
from benchmarks.kills import Job
from fusion.data.curate import curate_dataset
from fusion.data.errors import DataError
from fusion.data.ingest import ingest_source
from fusion.data.sharding.shards import shard_source
from fusion.data.store.workers import WORTH_PROCESSES, Workers
from fusion.data.validate import validate_dataset
from tests.data.workshop import DATASET, Workshop, picture, sample

WAIT = 120.0
"""Seconds for a process to start on a machine that has other work."""


def stay(folder: Path, number: int) -> None:
    """A piece of work that says that it has begun, and takes longer than the test."""
    (folder / str(number)).touch()
    time.sleep(600)


def start_pool(folder: Path) -> None:
    """Two workers that work on `stay`."""
    with Workers("test", 2) as workers:
        list(workers.map("staying", stay, [(folder, 1), (folder, 2)], [WORTH_PROCESSES, 1]))


def _wait_for(*paths: Path) -> None:
    end = time.monotonic() + WAIT
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, paths
        time.sleep(0.05)


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path):
    code = f"from pathlib import Path; from tests.data import test_workers as t; t.start_pool(Path({str(tmp_path)!r}))"
    parent = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        _wait_for(tmp_path / "1", tmp_path / "2")
        parent.kill()
        parent.wait()
        end = time.monotonic() + 20
        while processes_of(parent.pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert processes_of(parent.pid) == 0
    finally:
        if processes_of(parent.pid):
            os.killpg(parent.pid, signal.SIGKILL)


STAGES = {
    "ingest": (ingest_source, "fusion.data.ingest.lock_images", ["raw"]),
    "shard": (shard_source, "fusion.data.sharding.shards.link_file", ["shards", "index"]),
    "curate": (curate_dataset, "fusion.data.curate.write_manifest", ["manifests"]),
    "validate": (validate_dataset, "fusion.data.validate.run_sources", ["validation"]),
}
HELD = """
import importlib, sys, time
from pathlib import Path
from unittest import mock
from benchmarks import kills

place = {place!r}
module, _, name = place.rpartition(".")
real = getattr(importlib.import_module(module), name)

def slow(*arguments, **more):
    Path({begun!r}).touch()
    while not Path({go_on!r}).exists():
        time.sleep(0.02)
    return real(*arguments, **more)

with mock.patch(place, slow):
    sys.argv = ["kills", {job!r}]
    kills._main()
"""


@pytest.mark.parametrize("stage", STAGES)
def test_a_second_start_leaves_the_first_one_alone(workshop: Workshop, stage: str):
    function, place, outputs = STAGES[stage]
    workshop.add(
        "s", [sample(number) for number in range(4)], {f"{number}.png": picture(number) for number in range(4)}
    )
    workshop.curate()
    arguments = {"dataset": DATASET, **({"source": "s"} if stage in ("ingest", "shard") else {})}
    call = {"settings": workshop.settings, "catalog": workshop.catalog, **arguments, "root": workshop.folder}
    function(**call)
    expected = [tree_hash(workshop.folder / "data" / name / DATASET) for name in outputs]
    data = workshop.settings.data.model_dump()
    job = Job(f"{function.__module__}:{function.__name__}", str(workshop.folder), arguments, data)
    begun, go_on = workshop.folder / "begun", workshop.folder / "go-on"
    code = HELD.format(place=place, begun=str(begun), go_on=str(go_on), job=json.dumps([asdict(job), None]))
    first = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    try:
        _wait_for(begun)
        with pytest.raises(DataError, match="another process is at the same work"):
            function(**call)
        go_on.touch()
        _, told = first.communicate(timeout=WAIT)
    finally:
        first.kill()
    assert first.returncode == 0, told
    assert [tree_hash(workshop.folder / "data" / name / DATASET) for name in outputs] == expected
    assert not [path for path in (workshop.folder / "scratch").rglob("*") if path.is_file()]
