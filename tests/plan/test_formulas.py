"""FLOPs and kept bytes by formula against those counted in tiny models, and parameters against the released ones."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks.cases import Case, seeded
from benchmarks.plan_check import (
    BYTES_LIMIT,
    EVERYTHING,
    FLOPS_LIMIT,
    compare_activations,
    compare_flops,
    compare_states,
    models,
)
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.plan import kept
from fusion.plan.activations import activations
from fusion.plan.architecture import count_parameters, model_config
from fusion.plan.flops import executed_flops, forward_work, model_flops
from fusion.plan.load import Load
from fusion.settings import load_settings

ROOT = Path(__file__).parents[2]
CASES = models(tiny=True)
RELEASED = ("fusion-phi35-3b", "fusion-llama31-8b", "fusion-x-phi35-3b", "fusion-x-llama31-8b")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_flops_and_kept_bytes_are_those_counted(case: Case, dtype: torch.dtype) -> None:
    model = seeded(FusionForConditionalGeneration, case.config()).to(dtype).train()
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_activation_checkpointing()
        for found in (compare_flops(model, case, checkpointing), compare_activations(model, case, checkpointing)):
            limit = BYTES_LIMIT if "kept" in found else FLOPS_LIMIT
            wrong = {name: told for name, told in found.items() if abs(told["error"]) > limit}
            assert not wrong, f"checkpointing {checkpointing}"


def test_a_tensor_that_is_made_again_is_one_word_in_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    case = CASES["phi3"]
    config = case.config()
    load = Load.of_batch(case.batch(), config, case.num_latents)

    def kept_bytes() -> float:
        return activations(config, load, 4, checkpointing=False, fused=False).kept

    before = kept_bytes()
    monkeypatch.setattr(kept, "RECOMPUTED", kept.RECOMPUTED | {"decoder.gate_up"})
    width, layers = config.text_config.intermediate_size, config.text_config.num_hidden_layers
    assert before - kept_bytes() == 4 * 2 * load.positions * width * layers


def test_names_of_what_is_made_again_are_those_of_tensors() -> None:
    case = CASES["phi3"]
    config = case.config()
    load = Load.of_batch(case.batch(), config, case.num_latents)
    layers = (kept.tower_layers, kept.decoder_layers, kept.interaction_layers)
    names = [tensor.name for tensors in layers for tensor in tensors(config, load, 4, False)]
    names += [tensor.name for tensor in kept.around(config, load, 4)]
    assert set(names) >= kept.RECOMPUTED
    assert len(names) == len(set(names))


def test_frozen_parts_cost_no_gradients_of_weights() -> None:
    case = CASES["phi3"]
    config = case.config()
    work = forward_work(config, Load.of_batch(case.batch(), config, case.num_latents))
    everything, frozen = (model_flops(work, parts) for parts in (EVERYTHING, ["language", "projectors", "interaction"]))
    assert everything["tower"] == pytest.approx(3 * work["tower"].forward - work["tower"].first)
    assert frozen["tower"] < everything["tower"]
    assert frozen["decoder"] == everything["decoder"] == pytest.approx(3 * work["decoder"].forward)
    executed = executed_flops(work, EVERYTHING, checkpointing=True)
    assert all(executed[part] >= needed for part, needed in everything.items())


@pytest.mark.parametrize("variant", RELEASED)
def test_parameters_are_those_of_the_released_checkpoints(variant: str) -> None:
    shapes = json.loads((ROOT / "tests/reference/state_dict_shapes.json").read_text(encoding="utf-8"))
    name = next(name for name in shapes if name.lower().replace("-", "").replace(".", "") == _plain(variant))
    counted = count_parameters(model_config(load_settings(ROOT / "params.yaml").variant(variant), ROOT))
    assert counted.total == sum(torch.Size(shape).numel() for shape in shapes[name].values())


def _plain(name: str) -> str:
    return name.replace("-", "")


def test_states_are_compared_with_the_right_sums() -> None:
    """The arithmetic of the comparison, on what an engine of a million parameters in bfloat16 under ZeRO-2 holds."""
    million = 1_000_000
    counted = {"parameters": million, "trained": million, "after_step": 8 * million, "checkpoint": 14 * million}
    found = compare_states("bf16-2", counted | {"after_backward": 9 * million})
    assert {name: told["error"] for name, told in found.items()} == dict.fromkeys(found, 0.0)
