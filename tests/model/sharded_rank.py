"""One rank of `test_sharded.py`: a step of a sharded model, its loss beside that of the whole model."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import deepspeed
import torch

from tests.model.test_modeling import samples
from tests.model.tiny import build


def main(stage: int, checkpointing: bool, folder: str) -> None:
    """Rank 0 has pictures, rank 1 text alone: both must call the same modules in the same order."""
    deepspeed.init_distributed(dist_backend="gloo")
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    model, processor = build("phi_3")
    every = samples(processor)
    batch = processor.collate(every[:3] if rank == 0 else every[2:4])
    expected = float(model(batch).loss.detach())
    if checkpointing:
        model.enable_activation_checkpointing()
    model.train()
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
        config={
            "train_micro_batch_size_per_gpu": 1,
            "optimizer": {"type": "AdamW", "params": {"lr": 1e-3, "torch_adam": True}},
            "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
            "zero_force_ds_cpu_optimizer": False,
        },
        dist_init_required=False,
    )
    losses = []
    for _ in range(3):
        loss = engine(batch).loss
        engine.backward(loss)
        engine.step()
        losses.append(float(loss.detach()))
    Path(folder, f"{rank}.json").write_text(json.dumps({"expected": expected, "losses": losses}))


if __name__ == "__main__":
    numbers = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    main(int(numbers[0]), numbers[1] == "1", numbers[2])
