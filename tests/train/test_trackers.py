"""Trackers: asked for by a setting, checked before the first step, no step twice after a resume, no secret out."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fusion.settings import SettingsError, load_settings
from fusion.train import trackers
from fusion.train.errors import TrainingError
from fusion.train.recipe import Recipe
from fusion.train.trackers import Trackers, check_trackers
from tests.train.test_recipe import ROOT
from tests.train.test_recipe import recipe as plain

SECRET = "f00dfeed" * 5


def recipe(root: Path, *names: str) -> Recipe:
    """A stage with its inputs there, followed by these trackers."""
    made = plain(root)
    for path in (made.manifest, made.parent / "model.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    tracking = made.tracking.model_copy(update={"trackers": list(names)})
    private = made.loading.model_copy(update={"shards": {"tiny-stage2": f"s3://key:{SECRET}@bucket"}})
    return replace(made, tracking=tracking, loading=private)


def test_nothing_is_asked_for_unless_a_setting_says_so(tmp_path: Path) -> None:
    asked = Trackers(plain(ROOT), 0)
    asked.log(1, {"training/loss": 1.0})
    asked.close()
    code = "import sys, fusion.train.rank; print([m for m in ('tensorboard', 'wandb', 'trackio') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).splitlines()[-1] == "[]"


def test_trackers_decide_no_result(tmp_path: Path) -> None:
    assert recipe(tmp_path).identity() == recipe(tmp_path, "tensorboard", "wandb").identity()


def test_an_unknown_tracker_is_an_error_of_the_settings(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("  trackers: []  ", "  trackers: [tensorbord]  "), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"tracking\.trackers"):
        load_settings(path)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_named_with_what_to_install(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda package: None)
    with pytest.raises(TrainingError, match=rf"`{name}` is not installed: install .*(extra|environment)"):
        check_trackers(recipe(tmp_path, name))


def test_a_tracker_that_fails_is_told_and_left(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Full:
        def log(self, step: int, values: dict[str, float]) -> None:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise AssertionError("it was left before")

        def close(self) -> None:
            raise AssertionError("it was left before")

    asked = Trackers(recipe(tmp_path), 0)
    asked._open["tensorboard"] = Full()
    asked.log(1, {"training/loss": 1.0})
    asked.log(2, {"training/loss": 1.0})
    asked.flush()
    asked.close()
    told = capfd.readouterr().err
    assert told.count("warning") == 1 and "No space left" in told and "training goes on" in told


def follow(made: Recipe, first: int, last: int, close: bool = True) -> None:
    """Steps first + 1 ... last of a stage; the loss of a step is its number."""
    asked = Trackers(made, first)
    for step in range(first + 1, last + 1):
        asked.log(step, {"training/loss": float(step), "loss_by_source/web": step / 2})
    if close:
        asked.close()


def assert_no_secret(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_tensorboard_continues_where_the_checkpoint_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    made = recipe(tmp_path, "tensorboard")
    follow(made, 0, 7)  # killed after step 7; its newest checkpoint is that of step 4
    follow(made, 4, 10)
    folder = made.log.parent / "trackers" / "tensorboard" / made.stage
    read = EventAccumulator(str(folder))
    read.Reload()
    assert set(read.Tags()["scalars"]) == {"training/loss", "loss_by_source/web"}
    loss = read.Scalars("training/loss")
    assert [(event.step, event.value) for event in loss] == [(step, float(step)) for step in range(1, 11)]
    text = read.Tensors("recipe/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert f'"learning_rate": {made.settings.learning_rate}' in text
    assert_no_secret(folder)


def wandb_records(path: Path) -> Iterator[bytes]:
    """The records of a run's file: blocks of 32 KiB with pieces of records, each behind checksum, length and kind."""
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def wandb_history(folder: Path) -> list[dict[str, Any]]:
    """The rows of all offline runs below a folder, oldest first."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for path in sorted(folder.rglob("*.wandb"), key=lambda path: path.stat().st_mtime):
        for data in wandb_records(path):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


@pytest.mark.long
def test_wandb_offline_writes_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    made = recipe(tmp_path, "wandb")
    follow(made, 0, 7)
    follow(made, 4, 10)
    folder = made.log.parent / "trackers"
    rows = wandb_history(folder)
    assert [(row["_step"], row["training/loss"]) for row in rows] == [(step, float(step)) for step in range(1, 11)]
    assert len({path.stem.rsplit("-", 1)[0] for path in folder.rglob("*.wandb")}) == 1, "both are one run"
    assert_no_secret(folder)
    kept = {path.name for path in folder.rglob("offline-run-*/files/*")}
    assert not kept & {"wandb-metadata.json", "requirements.txt", "output.log"}, "neither host nor environment"
    assert os.environ["WANDB_API_KEY"] == SECRET
