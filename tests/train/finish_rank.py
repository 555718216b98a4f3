"""A rank of `test_finish.py`: a step under ZeRO-3 with adapters, and the finished model in two ways."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import deepspeed
import torch
import torch.distributed as dist

from fusion.model.adapters import merge_adapters
from fusion.model.checkpoints import save_checkpoint
from fusion.train.finish import finished_model
from fusion.train.processes import join_group
from tests.train.options_rank import Run

LORA = {"rank": 3, "alpha": 6.0, "targets": {"language": ["q_proj", "down_proj"]}}


def main(folder: Path) -> None:
    """Writes FOLDER/parts as a stage does, FOLDER/whole from all weights gathered at once, FOLDER/largest.txt."""
    join_group("cpu")
    run = Run({"zero_stage": 3, "lora": LORA, "precision": "bf16", "activation_checkpointing": False})
    run.steps(0, 1)
    gathered, largest = deepspeed.zero.GatheredParameters, []

    def counted(parameters: list[torch.nn.Parameter], **options: Any) -> Any:
        largest.append(sum(getattr(one, "ds_numel", 0) for one in parameters))
        return gathered(parameters, **options)

    deepspeed.zero.GatheredParameters = counted
    model = finished_model(run.recipe, run.engine.module)
    deepspeed.zero.GatheredParameters = gathered
    if model is not None:
        save_checkpoint(model, run.processor, folder / "parts")
    with gathered(list(run.engine.module.parameters())):
        if dist.get_rank() == 0:
            most = max(parameter.numel() for parameter in run.engine.module.parameters())
            (folder / "largest.txt").write_text(f"{max(largest)} {most}", encoding="utf-8")
            merge_adapters(run.engine.module)
            save_checkpoint(run.engine.module, run.processor, folder / "whole")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
