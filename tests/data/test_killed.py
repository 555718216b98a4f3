"""Ingest and sharding killed at any moment give, started again, the same bytes as undisturbed."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.kills import Job, Kill, run_killed
from fusion.data.errors import DataError
from fusion.data.ingest import ingest_source
from fusion.data.sharding.shards import shard_source
from fusion.data.store.resume import Resumable
from fusion.hashing import file_sha256
from tests.data.workshop import DATASET, Workshop, picture, sample, talk

ROWS = 160
STAGES = {"ingest": "fusion.data.ingest:ingest_source", "shard": "fusion.data.sharding.shards:shard_source"}


def _records() -> Iterator[object]:
    for number in range(ROWS):
        yield {"id": number} if number % 7 == 3 else sample(number % 60)
        if number % 5 == 0:
            yield {"conversations": talk("what is two and two?", f"four, said {number} times" * 20)}


@pytest.fixture
def small(workshop: Workshop) -> Workshop:
    """A source of several row groups, several shards, rejects of both stages, and random rows."""
    images = {f"{number}.png": picture(number) for number in range(50)}
    workshop.add("s", _records(), images, container="tar", sampling="90%")
    data = workshop.settings.data.model_copy(update={"shard_size_mb": 0.05})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    assert workshop.catalog
    return workshop


def _run(workshop: Workshop, stage: str, kills: list[Kill], workers: int = 1) -> int:
    data = {**workshop.settings.data.model_dump(), "save_seconds": 0.05, "workers": workers}
    arguments = {"dataset": DATASET, "source": "s"}
    return run_killed(Job(STAGES[stage], str(workshop.folder), arguments, data), kills)


def _hashes(workshop: Workshop) -> dict[str, str]:
    files = [path for part in ("raw", "shards", "index") for path in (workshop.folder / "data" / part).rglob("*")]
    return {path.relative_to(workshop.folder).as_posix(): file_sha256(path) for path in files if path.is_file()}


def _undisturbed(workshop: Workshop) -> dict[str, str]:
    workshop.shard("s")
    expected = _hashes(workshop)
    assert len([name for name in expected if name.endswith(".tar")]) > 3
    for part in ("raw", "shards", "index"):
        shutil.rmtree(workshop.folder / "data" / part)
    return expected


def _left_behind(workshop: Workshop) -> list[Path]:
    return [path for path in (workshop.folder / "scratch").rglob("*") if path.is_file()]


def test_killed_stages_end_with_the_same_bytes(small: Workshop):
    expected = _undisturbed(small)
    for stage, event in (("ingest", 15), ("shard", 25)):
        assert _run(small, stage, [Kill(event=event)])
        assert not _left_behind(small)
    assert _hashes(small) == expected


@pytest.mark.long
@pytest.mark.parametrize("stage", list(STAGES))
def test_killed_before_any_event_a_stage_ends_with_the_same_bytes(small: Workshop, stage: str):
    expected = _undisturbed(small)
    if stage == "shard":
        _run(small, "ingest", [])
    for event in (*range(1, 12), *range(20, 2000, 19)):
        if not _run(small, stage, [Kill(event=event)]):
            break
    _run(small, stage, [Kill(seconds=0.02 * number) for number in range(1, 9)])
    if stage == "ingest":
        _run(small, "shard", [])
    assert _hashes(small) == expected


@pytest.mark.long
def test_workers_end_with_the_stage_that_is_killed(workshop: Workshop):
    images = {f"{number}.png": picture(number) for number in range(40)}
    workshop.add("s", [sample(number % 40) for number in range(4000)], images, container="zip")
    expected = _undisturbed_of(workshop)
    _run(workshop, "ingest", [])
    assert _run(workshop, "shard", [Kill(seconds=seconds) for seconds in (0.4, 2.0, 2.5)], workers=2)
    assert _hashes(workshop) == expected


def _undisturbed_of(workshop: Workshop) -> dict[str, str]:
    workshop.shard("s")
    expected = _hashes(workshop)
    for part in ("raw", "shards", "index"):
        shutil.rmtree(workshop.folder / "data" / part)
    assert workshop.catalog
    return expected


def test_what_is_done_is_not_done_again(small: Workshop, monkeypatch: pytest.MonkeyPatch):
    small.ingest("s")

    def fails_late(self: object, *row: object) -> object:
        if row[0] == 150:
            raise RuntimeError("killed")
        return prepare(self, *row)

    from fusion.data.sharding import prepare as module

    prepare = module.Preparer.prepare
    catalog = small.catalog
    arguments = {"dataset": DATASET, "source": "s", "root": small.folder}
    data = small.settings.data.model_copy(update={"save_seconds": 0.0})
    settings = small.settings.model_copy(update={"data": data})
    monkeypatch.setattr(module.Preparer, "prepare", fails_late)
    with pytest.raises(RuntimeError, match="killed"):
        shard_source(settings, catalog, **arguments)  # type: ignore[arg-type]
    seen: list[object] = []
    monkeypatch.setattr(module.Preparer, "prepare", lambda self, *row: seen.append(row[0]) or prepare(self, *row))
    shard_source(settings, catalog, **arguments)  # type: ignore[arg-type]
    assert seen[0] == 150


def test_changed_inputs_start_anew_and_leave_no_old_state(small: Workshop):
    with pytest.raises(RuntimeError, match="expected"):
        small.add("s", b'[{"conversations": []} {}]')
        _run(small, "ingest", [])
    assert _left_behind(small)
    (small.published / "s.json").write_text(json.dumps([{"conversations": talk("q?", "a")}] * 3))
    ingest_source(small.settings, small.catalog, dataset=DATASET, source="s", root=small.folder)
    assert not _left_behind(small)


def test_a_save_is_all_that_counts(tmp_path: Path):
    with Resumable(tmp_path, {"a": 1}, 60.0) as work:
        work.append("grows").write(b"kept")
        work.save({"done": 1})
        work.append("grows").write(b" and lost")
        work.append("new").write(b"lost")
        with pytest.raises(DataError, match="another process is at the same work"):
            Resumable(tmp_path, {"a": 1}, 60.0)
    with Resumable(tmp_path, {"a": 1}, 60.0) as work:
        assert work.state == {"done": 1}
        assert work.path("grows").read_bytes() == b"kept"
        assert not work.path("new").exists()
        work.append("grows").write(b" and more")
        work.save({"done": 2})
        os.truncate(work.path("grows"), 5)
    with Resumable(tmp_path, {"a": 1}, 60.0) as work:
        assert work.state == {} and not work.path("grows").exists()
    with Resumable(tmp_path, {"a": 2}, 60.0) as work:
        assert work.state == {}
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [work.folder.name]
    work.delete()
    assert not tmp_path.exists()
