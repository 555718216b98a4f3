"""A training stage refuses to start without its inputs, and says which one is missing."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import fusion.train.launch
from fusion.launchers.start import starter
from fusion.settings import load_settings
from fusion.train.launch import (
    Start,
    TrainingError,
    check_inputs,
    device_ids,
    launcher_command,
    local,
    rank_environment,
    train_stage,
)
from fusion.train.recipe import Recipe
from fusion.train.running import Ending, run_launcher
from fusion.zoo.entries import ZooError
from tests.train.test_recipe import ROOT, recipe


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


@pytest.mark.parametrize("layout", ["own", "published"])
def test_a_parent_of_another_stage_is_refused_whatever_its_folder_is_called(tmp_path: Path, layout: str) -> None:
    made = recipe(tmp_path, "micro")
    base = load_settings(ROOT / "params.yaml").variant("micro").base
    shutil.copy(ROOT / "params.yaml", tmp_path)
    said = {"fusion_stage": "stage1"}
    parts = {"text_config": base.llm.config, "vision_config": base.tower.config, "template": "phi_3"}
    written = {"model_type": "fusion", **parts, **said}
    if layout == "published":
        own = {"fusion": {"generated": True, "fields": said}}
        written = {**(base.llm.config or {}), "model_type": "fusion_phi", "mm_vision_config": base.tower.config, **own}
    made.parent.mkdir(parents=True)
    (made.parent / "config.json").write_text(json.dumps(written), encoding="utf-8")
    made.verdict.parent.mkdir(parents=True)
    made.verdict.write_text(json.dumps({"status": "passed"}), encoding="utf-8")
    with pytest.raises(ZooError, match=r"stage1_5 is a stage1 checkpoint, and stage2 continues one of stage1_5"):
        train_stage(made, Start(lambda recipe: pytest.fail("ranks were started"), lambda recipe: 2))


def test_missing_validation_is_named(ready: Recipe) -> None:
    ready.verdict.unlink()
    with pytest.raises(TrainingError, match="tiny-stage2 has not been validated"):
        check_inputs(ready)


def test_failed_validation_stops_training(ready: Recipe) -> None:
    ready.verdict.write_text(json.dumps({"status": "failed", "passed": 11}), encoding="utf-8")
    with pytest.raises(TrainingError, match="failed its validation"):
        check_inputs(ready)


def test_ranks_are_started_by_deepspeed_on_loopback(ready: Recipe) -> None:
    command = launcher_command(ready, {})
    assert "deepspeed.launcher.launch" in command
    assert "--master_addr=127.0.0.1" in command
    assert command[-2:] == ["tiny", "stage2"]
    assert rank_environment(ready)["OMP_NUM_THREADS"] == "1"


RANK = """
import json, os, sys
names = ("CUDA_VISIBLE_DEVICES", "LOCAL_RANK", "NCCL_DEBUG")
with open(f"rank-{os.environ['RANK']}.json", "w") as file:
    json.dump({name: os.environ.get(name) for name in names}, file)
"""


def started(made: Recipe, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What ranks have in their environment when the launcher of this machine starts them, with another program."""
    (made.root / "rank.py").write_text(RANK, encoding="utf-8")

    def run(command: Sequence[str], variables: Mapping[str, str], folder: Path) -> Ending:
        words = list(command)
        words[words.index("--module") :] = ["rank.py"]
        # Without a GPU, DeepSpeed's launcher has no accelerator named cuda; what it does with the ids is the same.
        code = "import sys; from deepspeed.accelerator import set_accelerator; "
        code += "from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator; "
        code += "set_accelerator(CUDA_Accelerator()); from deepspeed.launcher.launch import main; main()"
        return run_launcher([sys.executable, "-c", code, *words[3:]], {**variables, "DS_ACCELERATOR": "cpu"}, folder)

    monkeypatch.setattr(fusion.train.launch, "run_launcher", run)
    assert local(environment).run(made) == Ending(0)
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(made.root.glob("rank-*.json"))]


def on_gpus(made: Recipe) -> Recipe:
    return replace(made, hardware=made.hardware.model_copy(update={"device": "cuda", "ranks": 2}))


def test_ranks_use_the_gpus_that_were_chosen(ready: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    ranks = started(on_gpus(ready), {"NCCL_DEBUG": "WARN"}, monkeypatch)
    assert [rank["CUDA_VISIBLE_DEVICES"] for rank in ranks] == ["4,5", "4,5"]
    assert [rank["LOCAL_RANK"] for rank in ranks] == ["0", "1"]
    assert [rank["NCCL_DEBUG"] for rank in ranks] == ["WARN", "WARN"]


@pytest.mark.parametrize(
    ("visible", "ids"),
    [
        (None, [0, 1]),
        ("7, 3", ["7", "3"]),
        ("GPU-8932f937,MIG-2f1a,1", ["GPU-8932f937", "MIG-2f1a"]),
        ("2,-1,3", [0, 1]),
        ("", [0, 1]),
    ],
)
def test_devices_are_the_entries_of_the_variable(ready: Recipe, visible: str | None, ids: list[int | str]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert device_ids(on_gpus(ready), 2, environment) == ids
    assert device_ids(ready, 2, environment) == [0, 1], "ranks on the processor have none"


def test_the_default_launcher_gives_ranks_the_variables_of_the_settings(
    ready: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    launch = load_settings(ROOT / "params.yaml").launch
    given = launch.model_copy(update={"environment": {"NCCL_SOCKET_IFNAME": "ib0", "OMP_NUM_THREADS": "3"}})
    seen: list[Mapping[str, str]] = []

    def run(command: Sequence[str], variables: Mapping[str, str], folder: Path) -> Ending:
        seen.append(variables)
        return Ending(0)

    monkeypatch.setattr(fusion.train.launch, "run_launcher", run)
    starter(given, None, None).run(ready)
    assert (seen[0]["NCCL_SOCKET_IFNAME"], seen[0]["OMP_NUM_THREADS"]) == ("ib0", "3")
    assert "PATH" in seen[0]
