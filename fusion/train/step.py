"""One optimiser step over all ranks and micro-batches.

Each of the three means of the loss is taken over the whole optimiser step (global counts), not averaged over
micro-batches. Source: design "Dual-supervised semantic mapping loss".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist

from fusion.model.mapping import LossCounts
from fusion.plan.flops import forward_work, model_flops
from fusion.plan.load import Load
from fusion.train.batches import StepBatches
from fusion.train.sources import SourceSums

TERMS = ("cross_entropy", "text_mapping", "image_mapping")


@dataclass(frozen=True)
class StepOutcome:
    """What an optimiser step came to, over all ranks.

    Attributes:
        losses: the loss and its three terms, as means.
        sources: cross-entropy by source, as sums.
        flops: of the model, forward and backward, without what is computed again.
        applied: whether the weights were changed; they are not where a gradient is no finite number.
    """

    losses: dict[str, float]
    sources: SourceSums
    flops: int
    applied: bool = True


def train_step(
    engine: Any, step: StepBatches, num_latents: int, sources: int, trained_parts: Sequence[str]
) -> StepOutcome:
    """Forward, backward and update of one step with batches from so many `sources`.

    Counts are known before the first forward pass, so that every micro-batch is weighted right as it comes.
    """
    model = engine.module
    counts, by_source, flops = _global_counts(engine, step, num_latents, sources, trained_parts)
    # The three terms, and behind them the cross-entropy of each source: one exchange for all.
    sums = torch.zeros(len(TERMS) + sources, dtype=torch.float64, device=engine.device)
    samples = []
    applied = True
    for number, batch in enumerate(step.batches):
        last = number == len(step.batches) - 1
        engine.set_gradient_accumulation_boundary(last)
        # A rank without samples takes part all the same: in the exchange of gradients, and under ZeRO-3 in that of the
        # weights of every module.
        given = step.idle if batch is None else batch
        output = engine(given.to(engine.device), num_latents=num_latents)
        if batch is not None:
            sums[: len(TERMS)] += torch.stack([term[0].detach() for term in output.loss_sums]).to(sums)
            samples.append(output.sample_loss_sums)
        # DeepSpeed averages gradients over the ranks; these are shares of the whole step already.
        weight = 0 if batch is None else dist.get_world_size()
        engine.backward(model.combine_losses(output.loss_sums, counts) * weight)
        if last and not _sound(engine):
            applied = False
            break
        engine.step()
        if last:
            applied = engine.was_step_applied()
    if samples:
        places = torch.from_numpy(len(TERMS) + np.concatenate(step.sources)).to(engine.device)
        sums.index_add_(0, places, torch.cat(samples).to(sums))
    dist.all_reduce(sums)
    found = sums.tolist()
    means = [total / max(count, 1) for total, count in zip(found[: len(TERMS)], counts, strict=True)]
    weight = model.config.mapping_loss_weight
    loss_value = means[0] + weight * (means[1] + means[2])
    return StepOutcome(
        {"loss": loss_value, **dict(zip(TERMS, means, strict=True))},
        SourceSums(np.array(found[len(TERMS) :]), *by_source),
        flops,
        applied,
    )


def _sound(engine: Any) -> bool:
    """Whether all gradients are finite, the same answer on all ranks, where DeepSpeed does not ask that itself.

    Its own optimisers do, and leave a step out without a word. AdamW as it is, in float32 without ZeRO, would make
    weights of them that are no numbers.
    """
    if not isinstance(engine.optimizer, torch.optim.Optimizer):
        return True
    gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    # They are summed over the ranks already.
    return not gradients or bool(torch.isfinite(torch.stack(torch._foreach_norm(gradients))).all())


def _global_counts(
    engine: Any, step: StepBatches, num_latents: int, sources: int, trained_parts: Sequence[str]
) -> tuple[LossCounts, npt.NDArray[np.int64], int]:
    """Over all ranks: elements of each loss term; [2, sources] supervised tokens and samples; FLOPs."""
    model = engine.module
    own = np.zeros(len(TERMS) + 2 * sources + 1, dtype=np.int64)
    for batch, codes in zip(step.batches, step.sources, strict=True):
        if batch is None:
            continue
        tokens = np.bincount(codes, batch.supervised.numpy(), sources).astype(np.int64)
        work = forward_work(model.config, Load.of_batch(batch, model.config, num_latents))
        flops = round(sum(model_flops(work, trained_parts).values()))
        own += np.concatenate([model.loss_counts(batch), tokens, np.bincount(codes, minlength=sources), [flops]])
    counts = torch.from_numpy(own).to(engine.device)
    dist.all_reduce(counts)
    terms, by_source, (flops,) = np.split(np.array(counts.tolist()), [len(TERMS), len(TERMS) + 2 * sources])
    return LossCounts(*terms.tolist()), by_source.reshape(2, sources), int(flops)
