"""What a stage trains by settings: frozen parts, adapters, checkpointed activations, with the real engine."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fusion.model.adapters import adapted_layers, adapter_elements
from fusion.model.checkpoints import load_checkpoint, verify_checkpoint
from fusion.settings import Lora, Settings, SettingsError, load_settings
from fusion.train.errors import TrainingError
from fusion.train.launch import check_adapters
from fusion.train.parts import part_of
from fusion.train.processes import longest_wait
from tests.e2e.project import ROOT
from tests.model.tiny import build
from tests.train.test_recipe import recipe

LORA: dict[str, Any] = {"rank": 3, "alpha": 6.0, "targets": {"language": ["q_proj", "down_proj"]}}
BOTH: dict[str, Any] = {
    "rank": 2, "alpha": 8.0, "dropout": 0.1, "targets": {"language": "all", "vision": ["q_proj", "fc2"]},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "projectors": {"trained_parts": ["projectors"], "activation_checkpointing": False},
    "projectors-checkpointed": {"trained_parts": ["projectors"], "activation_checkpointing": True},
    "interaction-and-vision": {
        "trained_parts": ["interaction", "vision"],
        "zero_stage": 1,
        "learning_rate": 0.002,
        "vision_learning_rate": 0.002,
    },
    "language": {"trained_parts": ["language"], "zero_stage": 0},
    "lora": {"lora": LORA, "activation_checkpointing": False},
    "lora-checkpointed": {"lora": LORA, "activation_checkpointing": True},
    "lora-alone": {"lora": BOTH, "trained_parts": ["language", "vision"], "zero_stage": 1},
    "lora-bf16": {"lora": LORA, "precision": "bf16"},
    "bf16-zero0": {"precision": "bf16", "zero_stage": 0},
    "bf16-zero1": {"precision": "bf16", "zero_stage": 1},
}
TRAINED = {
    "projectors": {"projectors"},
    "projectors-checkpointed": {"projectors"},
    "interaction-and-vision": {"interaction", "vision"},
    "language": {"language"},
    "lora": {"language adapters", "projectors", "interaction", "vision"},
    "lora-checkpointed": {"language adapters", "projectors", "interaction", "vision"},
    "lora-alone": {"language adapters", "vision adapters"},
    "lora-bf16": {"language adapters", "projectors", "interaction", "vision"},
    "bf16-zero0": {"language", "projectors", "interaction", "vision"},
    "bf16-zero1": {"language", "projectors", "interaction", "vision"},
}
"""Which parts may change, and must. Everything else stays equal bit for bit."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of all cases, from one rank that trained a tiny model for each."""
    return train_cases(tmp_path_factory.mktemp("options"), CASES, TORCHDYNAMO_DISABLE="1")


def train_cases(folder: Path, cases: dict[str, dict[str, Any]], **variables: str) -> Path:
    """The folder, with the results of the cases in it."""
    (folder / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    environment = os.environ | {name: str(value) for name, value in world.items()}
    environment |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **variables}
    environment["TORCH_EXTENSIONS_DIR"] = str(Path(sys.prefix) / "torch_extensions")
    # DeepSpeed builds its communication with the tools of this environment.
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    command = [sys.executable, str(Path(__file__).with_name("options_rank.py")), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def result(trained: Path, case: str) -> dict[str, Any]:
    return json.loads((trained / "results.json").read_text(encoding="utf-8"))[case]


@pytest.mark.parametrize("case", CASES)
def test_frozen_parts_stay_and_the_others_learn(trained: Path, case: str) -> None:
    found = result(trained, case)
    assert set(found["changed"]) == TRAINED[case]
    assert found["losses"][-1] < found["losses"][0]
    # Sharded states are padded to whole pieces; frozen parameters would be thousands.
    assert found["trained"] <= found["states"] <= found["trained"] + 64
    assert found["resumed_equal"], "a stage that goes on from its middle ends with the same weights"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero", [0, 2])
def test_a_gradient_that_is_no_number_is_a_fault(trained: Path, precision: str, zero: int) -> None:
    """DeepSpeed leaves such a step out without a word, or makes weights of it; the loss is a number all the same."""
    found = result(trained, "broken")[f"{precision}-zero{zero}"]
    assert found["fault"] == "a gradient is no finite number, and the weights were left as they are"
    assert not found["moved"]


def test_ranks_may_wait_for_each_other_longer_than_the_watch_lets_them(trained: Path) -> None:
    times = result(trained, "waits")
    assert len(times) > 1 and set(times) == {100.0}, "those of the groups that DeepSpeed makes too"
    assert longest_wait(30.0).total_seconds() == 3600 and longest_wait(None).total_seconds() > 24 * 3600


@pytest.mark.parametrize("case", ["projectors", "lora"])
def test_checkpointed_activations_change_nothing(trained: Path, case: str) -> None:
    """Neither with a frozen embedding, from which no gradient comes, nor with adapters."""
    assert result(trained, f"{case}-checkpointed")["losses"] == result(trained, case)["losses"]


def test_bf16_without_zero_is_bf16_with_it(trained: Path) -> None:
    """DeepSpeed has another optimiser's wrapper for it, which begins with a step too many."""
    assert result(trained, "bf16-zero0")["losses"] == result(trained, "bf16-zero1")["losses"]


@pytest.mark.parametrize("case", [name for name in CASES if "lora" in name])
def test_a_checkpoint_with_merged_adapters_is_like_any_other(trained: Path, case: str) -> None:
    base, _ = build("llama_3")
    before, after = base.state_dict(), load_file(trained / case / "model.safetensors")
    assert {name: tensor.shape for name, tensor in after.items()} == {n: t.shape for n, t in before.items()}
    assert verify_checkpoint(trained / case)["parameters"] == sum(p.numel() for p in base.parameters())
    load_checkpoint(trained / case)
    lora = Lora.model_validate(CASES[case]["lora"])
    adapted = {f"{name}.weight" for name in adapted_layers({n: t.shape for n, t in before.items()}, lora)}
    before = {name: tensor.to(after[name].dtype) for name, tensor in before.items()}
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {name for name in changed if part_of(name) in lora.targets} == adapted
    rank = max(int(torch.linalg.matrix_rank((after[n] - before[n]).float(), rtol=1e-3)) for n in adapted)
    assert case == "lora-bf16" or rank == lora.rank, "rounding alone adds to the rank"
    # A merged weight is the exact sum rounded once. bfloat16 has 8 significant bits, so that a weight is off by up to
    # 2^-8 = 0.4% of itself; what all of them do to a logit was seen to be 1.6% of the largest one.
    rounded, seen = (2.0**-8, 0.03) if case == "lora-bf16" else (1e-4, 1e-5)
    assert result(trained, case)["merge_rounding"] <= rounded
    assert result(trained, case)["merge_error"] < seen


def test_adapters_are_counted_before_they_are_made(trained: Path) -> None:
    base, _ = build("llama_3")
    shapes = {name: tensor.shape for name, tensor in base.state_dict().items()}
    assert adapter_elements(shapes, Lora.model_validate(BOTH)) == result(trained, "lora-alone")["trained"]


def test_a_target_that_is_no_layer_is_refused_before_any_rank_starts(trained: Path, tmp_path: Path) -> None:
    made = recipe(tmp_path)
    made.parent.parent.mkdir(parents=True)
    made.parent.symlink_to(trained / "lora")
    for targets, said in (
        ({"language": ["qkv_proj"]}, r"lora\.targets\.language: there is no layer qkv_proj; .*q_proj"),
        ({"vision": ["q_proj", "fc3"]}, r"lora\.targets\.vision: there is no layer fc3; .*fc1, fc2"),
    ):
        object.__setattr__(made.settings, "lora", Lora.model_validate({"rank": 2, "alpha": 2.0, "targets": targets}))
        with pytest.raises(TrainingError, match=said):
            check_adapters(made)


def test_settings_that_would_train_nothing_are_refused(tmp_path: Path) -> None:
    import yaml

    def refused(**changes: Any) -> str:
        document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
        tiny = document["variants"]["tiny"]
        tiny["model"]["interaction"]["layers"] = 0
        tiny["stages"]["stage2"] |= changes
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
        with pytest.raises(SettingsError) as error:
            load_settings(tmp_path / "params.yaml")
        return str(error.value)

    assert "variants.tiny.stages.stage2: trained_parts: interaction alone" in refused(trained_parts=["interaction"])
    assert "lora.targets.vision: adapters of a part that is not" in refused(trained_parts=["language"], lora=BOTH)
    assert "lora.targets" in refused(lora=LORA | {"targets": {"interaction": "all"}})
    assert isinstance(load_settings(ROOT / "params.yaml"), Settings)
