"""The rank of `test_options.py`: a few steps for each case, and what they changed."""

from __future__ import annotations

import copy
import json
import math
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from fusion.model.adapters import is_adapter, merge_adapters
from fusion.model.checkpoints import save_checkpoint
from fusion.settings import Settings
from fusion.train.batches import StepBatches
from fusion.train.engine import make_engine, set_learning_rates
from fusion.train.guards import LossWatch
from fusion.train.parts import part_of
from fusion.train.processes import join_group, let_wait
from fusion.train.recipe import Recipe, make_recipe
from fusion.train.step import train_step
from tests.model.test_modeling import samples
from tests.model.tiny import build
from tests.train.test_recipe import ROOT

STEPS = 4
BROKEN: dict[str, dict[str, Any]] = {
    f"{precision}-zero{zero}": {"precision": precision, "zero_stage": zero}
    for precision, zero in (("fp32", 0), ("fp32", 2), ("bf16", 0), ("bf16", 2))
}


def recipe_of(changes: dict[str, Any]) -> Recipe:
    """The recipe of tiny's stage 2 with other values of `training`."""
    import yaml

    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    training = {name: value for name, value in changes.items() if name != "compile"}
    rates = {"learning_rate": 0.02, "vision_learning_rate": 0.02}
    document["variants"]["tiny"]["stages"]["stage2"] |= rates | training
    document["variants"]["tiny"]["hardware"] |= {"ranks": 1, "compile": changes.get("compile", False)}
    return make_recipe(Settings.model_validate(document), "tiny", "stage2")


class Run:
    """An engine and the steps that it has made."""

    def __init__(self, changes: dict[str, Any]) -> None:
        self.model, self.processor = build("llama_3")
        self.recipe = recipe_of(changes)
        every = samples(self.processor)
        packs = [self.processor.collate(every[:3]), self.processor.collate(every[3:])]
        sources = [np.zeros(pack.size, dtype=np.int64) for pack in packs]
        self.step = StepBatches(list(packs), len(every), 0, [], packs[0], sources)
        self.probe = packs[0]
        self.engine = make_engine(self.recipe, self.model)

    def steps(self, first: int, last: int) -> list[float]:
        """Trains the steps [first, last); their losses."""
        losses = []
        for step in range(first, last):
            set_learning_rates(self.engine, self.recipe, step, STEPS)
            torch.manual_seed(self.recipe.random_seed(step, 0))
            outcome = train_step(self.engine, self.step, 4, 1, self.recipe.settings.trained_parts or [])
            losses.append(outcome.losses["loss"])
        return losses

    def weights(self) -> dict[str, torch.Tensor]:
        """Copies of all parameters."""
        return {name: parameter.detach().clone() for name, parameter in self.engine.module.named_parameters()}


def exact_sums(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Layer -> weight + alpha / rank * B A, in float64."""
    found = {}
    for name, layer in module.named_modules():
        if hasattr(layer, "lora_A"):
            product = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
            found[name] = layer.get_base_layer().weight.double() + layer.scaling["default"] * product
    return found


def broken_step(changes: dict[str, Any]) -> dict[str, Any]:
    """What a step is said to have come to whose loss is finite and one of whose gradients is not."""
    run = Run(changes)
    name, weight = next(item for item in run.model.named_parameters() if item[0].endswith("down_proj.weight"))
    weight.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    set_learning_rates(run.engine, run.recipe, 0, STEPS)
    outcome = train_step(run.engine, run.step, 4, 1, run.recipe.settings.trained_parts or [])
    moved = changes["zero_stage"] < 3 and bool((~torch.isfinite(run.weights()[name])).any())
    return {"fault": LossWatch(None).fault(outcome.losses, outcome.applied), "moved": moved}


def waits() -> list[float]:
    """Minutes that each group of ranks lets a rank wait."""
    groups = distributed_c10d._world.pg_map
    found = [group._get_backend(torch.device("cpu")).options._timeout for group in groups]
    return [time.total_seconds() / 60 for time in found]


def main(folder: Path) -> None:
    """Writes FOLDER/results.json, and the merged checkpoints of the cases that have adapters."""
    join_group("cpu")
    torch.use_deterministic_algorithms(True)
    results = {}
    for name, changes in json.loads((folder / "cases.json").read_text(encoding="utf-8")).items():
        run = Run(changes)
        before = run.weights()
        losses = run.steps(0, 2)
        run.engine.save_checkpoint(str(folder / f"{name}-state"), tag="middle")
        losses += run.steps(2, STEPS)
        after = run.weights()
        resumed = Run(changes)
        resumed.engine.load_checkpoint(str(folder / f"{name}-state"), tag="middle")
        resumed.steps(2, STEPS)
        again = resumed.weights()
        trained = [parameter for parameter in run.engine.module.parameters() if parameter.requires_grad]
        optimizer = getattr(run.engine.optimizer, "optimizer", run.engine.optimizer)
        changed = [key for key, value in after.items() if not torch.equal(value, before[key])]
        results[name] = {
            "losses": losses,
            "changed": sorted({part_of(key) + (" adapters" if is_adapter(key) else "") for key in changed}),
            "trained": sum(parameter.numel() for parameter in trained),
            "states": sum(state["exp_avg"].numel() for state in optimizer.state.values()),
            "resumed_equal": all(torch.equal(value, after[key]) for key, value in again.items()),
        }
        if run.recipe.settings.lora is not None:
            module = run.engine.module.eval()
            with torch.no_grad():
                # Computed in float32 from the same weights, so that nothing but the sum's rounding is seen.
                expected = copy.deepcopy(module).float()(run.probe, return_logits=True).logits
                exact = exact_sums(module)
                merge_adapters(module)
                found = {key: module.get_parameter(f"{key}.weight") for key in exact}
                results[name]["merge_rounding"] = max(
                    float(((found[key].double() - value) / value).abs().max()) for key, value in exact.items()
                )
                save_checkpoint(module, run.processor, folder / name)
                merged = module.float()(run.probe, return_logits=True).logits
            results[name]["merge_error"] = float((merged - expected).abs().max() / expected.abs().max())
    results["broken"] = {name: broken_step(BROKEN[name]) for name in BROKEN}
    let_wait(50.0)
    results["waits"] = waits()
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
