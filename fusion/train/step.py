"""One optimiser step over all ranks and micro-batches.

Each of the three means of the loss is taken over the whole optimiser step (global counts), not averaged over
micro-batches. Source: design "Dual-supervised semantic mapping loss".
"""

from typing import Any

import torch
import torch.distributed as dist

from fusion.model.mapping import LossCounts
from fusion.train.batches import StepBatches

TERMS = ("cross_entropy", "text_mapping", "image_mapping")


def train_step(engine: Any, step: StepBatches, num_latents: int) -> dict[str, float]:
    """Forward, backward and update; returns the step's loss and its three terms as means over all ranks.

    Counts are known before the first forward pass, so that every micro-batch is weighted right as it comes.
    """
    model = engine.module
    counts = _global_counts(engine, step)
    sums = torch.zeros(3, dtype=torch.float64, device=engine.device)
    for number, batch in enumerate(step.batches):
        engine.set_gradient_accumulation_boundary(number == len(step.batches) - 1)
        # A rank without samples takes part all the same: in the exchange of gradients, and under ZeRO-3 in that of the
        # weights of every module.
        given = step.idle if batch is None else batch
        losses = engine(given.to(engine.device), num_latents=num_latents).loss_sums
        if batch is not None:
            sums += torch.stack([term[0].detach() for term in losses]).to(sums)
        # DeepSpeed averages gradients over the ranks; these are shares of the whole step already.
        weight = 0 if batch is None else dist.get_world_size()
        engine.backward(model.combine_losses(losses, counts) * weight)
        engine.step()
    dist.all_reduce(sums)
    means = [total / max(count, 1) for total, count in zip(sums.tolist(), counts, strict=True)]
    loss_value = means[0] + model.config.mapping_loss_weight * (means[1] + means[2])
    return {"loss": loss_value, **dict(zip(TERMS, means, strict=True))}


def _global_counts(engine: Any, step: StepBatches) -> LossCounts:
    """Elements of each loss term in the whole optimiser step, over all ranks."""
    own = [engine.module.loss_counts(batch) for batch in step.batches if batch is not None]
    counts = torch.tensor(own, dtype=torch.int64, device=engine.device).reshape(-1, 3).sum(0)
    dist.all_reduce(counts)
    return LossCounts(*counts.tolist())
