"""One rank of `benchmarks.plan_check`: the tensors of a DeepSpeed engine after a backward pass and after a step.

`python -m benchmarks.plan_check_rank OUT`, started by a launcher. Rank 0 writes JSON to OUT: one entry for every ZeRO
stage and precision, in bytes a rank.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.cases import TINY, TINY_TEXT_ONLY, Case, seeded
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.quiet import quiet_libraries
from fusion.settings import load_settings
from fusion.train.engine import make_engine
from fusion.train.processes import join_group
from fusion.train.recipe import make_recipe

# Wide enough that DeepSpeed's padding and the small tensors of its bookkeeping do not count.
CASE = dataclasses.replace(
    TINY,
    text=TINY.text | {"vocab_size": 1000, "hidden_size": 128, "intermediate_size": 344, "num_hidden_layers": 4},
    vision=TINY.vision | {"hidden_size": 64, "intermediate_size": 240, "image_size": 16},
    talks=TINY.talks + TINY_TEXT_ONLY,
)
CONFIGURATIONS = [(precision, stage) for precision in ("fp32", "bf16") for stage in (0, 1, 2, 3)]


def tensor_bytes() -> int:
    """Bytes of all storages of tensors that Python knows, each once."""
    gc.collect()
    storages: dict[int, int] = {}
    for found in gc.get_objects():
        if isinstance(found, torch.Tensor) and found.device.type == "cpu":
            storage = found.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def measure(case: Case, precision: str, stage: int, folder: Path) -> dict[str, Any]:
    """Bytes of this rank."""
    recipe = make_recipe(load_settings(), "micro", "stage1")
    settings = recipe.settings.model_copy(update={"precision": precision, "zero_stage": stage})
    recipe = dataclasses.replace(recipe, settings=settings)
    before = tensor_bytes()
    engine = make_engine(recipe, seeded(FusionForConditionalGeneration, case.config()))
    batch = case.batch()
    found: dict[str, Any] = {}
    for number in range(2):
        engine.set_gradient_accumulation_boundary(True)
        engine.backward(engine(batch, num_latents=case.num_latents).loss)
        if number == 1:
            found["after_backward"] = tensor_bytes() - before
        engine.step()
    found["after_step"] = tensor_bytes() - before
    engine.save_checkpoint(str(folder / f"{precision}-{stage}"), tag="step", save_latest=False)
    dist.barrier()
    files = [path for path in (folder / f"{precision}-{stage}").rglob("*") if path.is_file()]
    found["checkpoint"] = sum(path.stat().st_size for path in files)
    found["parameters"] = sum(
        getattr(parameter, "ds_numel", parameter.numel()) for parameter in engine.module.parameters()
    )
    found["trained"] = sum(
        getattr(parameter, "ds_numel", parameter.numel())
        for parameter in engine.module.parameters()
        if parameter.requires_grad
    )
    found["optimizer"] = type(engine.optimizer).__name__
    engine.destroy()
    return found


def main(out: str) -> None:
    """See the module."""
    quiet_libraries()
    torch.set_num_threads(1)
    join_group("cpu")
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=Path(out).parent) as folder:
        shared = [folder]
        dist.broadcast_object_list(shared, 0)
        for precision, stage in CONFIGURATIONS:
            try:
                results[f"{precision}-{stage}"] = measure(CASE, precision, stage, Path(shared[0]))
            except NotImplementedError as error:
                results[f"{precision}-{stage}"] = {"refused": str(error)}
        dist.barrier()
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(results, indent=2), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    main(sys.argv[-1])  # the launcher puts --local_rank in front
