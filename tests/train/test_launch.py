"""A training stage refuses to start without its inputs, and says which one is missing."""

import json
from pathlib import Path

import pytest

from fusion.train.launch import TrainingError, check_inputs, launcher_command, rank_environment
from fusion.train.recipe import Recipe
from tests.train.test_recipe import recipe


@pytest.fixture
def ready(tmp_path: Path) -> Recipe:
    """A recipe whose parent and validation are in place."""
    made = recipe(tmp_path)
    made.parent.mkdir(parents=True)
    (made.parent / "config.json").write_text("{}", encoding="utf-8")
    made.verdict.parent.mkdir(parents=True)
    made.verdict.write_text(json.dumps({"status": "passed", "passed": 12}), encoding="utf-8")
    return made


def test_all_inputs_there(ready: Recipe) -> None:
    check_inputs(ready)
    assert ready.parent.name == "stage1_5"


def test_missing_parent_is_named(ready: Recipe) -> None:
    (ready.parent / "config.json").unlink()
    with pytest.raises(TrainingError, match=r"stage2 of tiny continues .*stage1_5"):
        check_inputs(ready)


def test_missing_validation_is_named(ready: Recipe) -> None:
    ready.verdict.unlink()
    with pytest.raises(TrainingError, match="tiny-stage2 has not been validated"):
        check_inputs(ready)


def test_failed_validation_stops_training(ready: Recipe) -> None:
    ready.verdict.write_text(json.dumps({"status": "failed", "passed": 11}), encoding="utf-8")
    with pytest.raises(TrainingError, match="failed its validation"):
        check_inputs(ready)


def test_ranks_are_started_by_deepspeed_on_loopback(ready: Recipe) -> None:
    command = launcher_command(ready)
    assert "deepspeed.launcher.launch" in command
    assert "--master_addr=127.0.0.1" in command
    assert command[-2:] == ["tiny", "stage2"]
    assert rank_environment(ready)["OMP_NUM_THREADS"] == "1"
