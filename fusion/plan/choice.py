"""How to run a stage: what every choice of ZeRO stage, micro-batch and checkpointing costs, and the advised one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TypeVar

from fusion.plan.activations import activations
from fusion.plan.errors import PlanError
from fusion.plan.memory import RESERVED, USABLE, host_bytes, host_seconds, logit_bytes, model_states
from fusion.plan.stage import StageModel

T = TypeVar("T")
ZERO_STAGES = (0, 1, 2, 3)
SAME_TIME = 0.02
"""Times that differ by less than this share count as equal."""
_LESS = 0.8


@dataclass(frozen=True)
class Choice:
    """What can be chosen; `None` = any."""

    zero_stage: int | None = None
    micro_batch: int | None = None
    checkpointing: bool | None = None
    offload: bool = False


@dataclass(frozen=True)
class Option:
    """One way to run a stage, and what it costs on one device.

    Attributes:
        zero_stage, micro_batch, checkpointing, offload: the choice.
        accumulation: micro-batches of a step.
        memory: bytes at the peak by part: weights, gradients, optimiser, activations, logits, buffers.
        usable: bytes that may be used.
        host_memory: bytes of the host's memory, for what is offloaded.
        model_flops, executed_flops: of a step.
        sent: bytes that leave the device in a step.
        compute_seconds, exchange_seconds: of a step, each alone.
        host_seconds: of a step, for what is offloaded: on the way to the host and back, and updating there.
    """

    zero_stage: int
    micro_batch: int
    checkpointing: bool
    offload: bool
    accumulation: int
    memory: dict[str, float]
    usable: float
    host_memory: float
    model_flops: float
    executed_flops: float
    sent: float
    compute_seconds: float
    exchange_seconds: float
    host_seconds: float

    @property
    def total(self) -> float:
        """Bytes at the peak."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether the device has as much."""
        return self.total <= self.usable

    @property
    def seconds(self) -> float:
        """Of a step: computing and exchanging go on side by side, the longer one counts; for the host is waited."""
        return max(self.compute_seconds, self.exchange_seconds) + self.host_seconds

    @property
    def name(self) -> str:
        """For people."""
        parts = [f"ZeRO-{self.zero_stage}", f"micro-batch {self.micro_batch}"]
        parts += ["checkpointing" if self.checkpointing else "no checkpointing"] + ["offload"] * self.offload
        return ", ".join(parts)


def options(model: StageModel, choice: Choice) -> list[Option]:
    """Every way to run a stage that the choice leaves open.

    Raises:
        PlanError: the micro-batch does not divide a device's share of a step, or there is no such ZeRO stage.
    """
    sizes = model.micro_batches
    stages = ZERO_STAGES[1:] if choice.offload else ZERO_STAGES
    if choice.zero_stage is not None and choice.zero_stage not in stages:
        raise PlanError("--offload: DeepSpeed offloads the optimiser from ZeRO stage 1 on")
    if choice.micro_batch is not None and choice.micro_batch not in sizes:
        raise PlanError(
            f"{model.stage}: micro-batch {choice.micro_batch} does not divide a device's share of a step, "
            f"{model.settings.global_batch} / {model.target.gpus} = {model.samples_a_rank:g} samples: one of "
            f"{', '.join(map(str, sizes))}"
        )
    return [
        evaluate(model, zero, size, checkpointing, choice.offload)
        for zero in _open(choice.zero_stage, stages)
        for size in _open(choice.micro_batch, sizes)
        for checkpointing in _open(choice.checkpointing, (False, True))
    ]


def _open(chosen: T | None, all_of_them: Iterable[T]) -> Iterable[T]:
    return all_of_them if chosen is None else (chosen,)


def evaluate(model: StageModel, zero: int, size: int, checkpointing: bool, offload: bool = False) -> Option:
    """What one way costs."""
    config, target, element = model.config, model.target, model.element
    parameters, trained = model.elements, model.trained
    states = model_states(parameters, trained, element, zero, target.gpus, offload=offload)
    load = model.largest_micro_batch(size)
    kept = activations(config, load, element, checkpointing, fused=element == 2)
    logits = logit_bytes(
        load.supervised, config.vocab_size, config.hidden_size, element, "language" in model.trained_parts
    )
    # The update happens when activations and logits are gone again.
    passing = kept.total + logits
    update = max(states.update - passing, 0.0)
    needed, executed = model.step_flops(size, checkpointing)
    accumulation = round(model.samples_a_rank / size)
    sent = exchanged(parameters, trained, element, zero, target.gpus, accumulation)
    return Option(
        zero_stage=zero,
        micro_batch=size,
        checkpointing=checkpointing,
        offload=offload,
        accumulation=accumulation,
        memory={
            "weights": states.weights,
            "gradients": states.gradients,
            "optimizer": states.optimizer,
            "activations": kept.total,
            "logits": logits,
            "buffers": states.buffers + update + RESERVED,
        },
        usable=USABLE * target.gpu.memory_bytes,
        host_memory=host_bytes(trained, target.gpus, element, accumulation) if offload else 0.0,
        model_flops=needed,
        executed_flops=executed,
        sent=sent,
        compute_seconds=executed / model.rate,
        exchange_seconds=sent / target.gpu.link_bytes(target.gpus),
        host_seconds=host_seconds(trained, target.gpus, element, accumulation) if offload else 0.0,
    )


def exchanged(parameters: int, trained: int, size: int, zero: int, ranks: int, accumulation: int) -> float:
    """Bytes that leave a device in a step, in rings: gradients to where they are summed, weights to where they serve.

    Stage 2 sends gradients after every micro-batch, stage 3 also gathers weights twice for each.
    """
    share = (ranks - 1) / ranks
    gradients, weights = size * trained * share, size * parameters * share
    if zero == 0:
        return 2 * gradients
    if zero == 1:
        return gradients + weights
    return accumulation * gradients + (weights if zero == 2 else 2 * accumulation * weights)


def advise(model: StageModel, found: list[Option]) -> Option:
    """The option to take: the fastest that fits; of equally fast ones the largest micro-batch, then the least exchange.

    Raises:
        PlanError: nothing fits; with what is missing, and what would help.
    """
    fitting = [option for option in found if option.fits]
    if not fitting:
        raise PlanError(_nothing_fits(model, found))
    fastest = min(option.seconds for option in fitting)
    equal = [option for option in fitting if option.seconds <= (1 + SAME_TIME) * fastest]
    return min(equal, key=lambda option: (-option.micro_batch, option.sent, option.zero_stage, option.total))


def reason(advised: Option, found: list[Option]) -> str:
    """Why this one, in one sentence."""
    cheaper = [option for option in found if option.seconds < advised.seconds * (1 - SAME_TIME) and not option.fits]
    told = f"the fastest that fits in {advised.usable / 2**30:.0f} GiB"
    if cheaper:
        nearest = min(cheaper, key=lambda option: option.total)
        told += f"; {nearest.name} would save {1 - nearest.seconds / advised.seconds:.0%} of the time but needs "
        told += f"{nearest.total / 2**30:.0f} GiB"
    if advised.exchange_seconds > advised.compute_seconds:
        told += "; the exchange between devices sets the pace, not the arithmetic"
    return told


def fallback(advised: Option, found: list[Option]) -> Option | None:
    """What to take when the advised one does not fit after all: the fastest of those that need 20% less, if any."""
    smaller = [one for one in found if one.total <= _LESS * advised.total]
    fastest = min((one.seconds for one in smaller), default=0.0)
    equal = [one for one in smaller if one.seconds <= (1 + SAME_TIME) * fastest]
    # The micro-batch is one setting for all stages: rather the same.
    return min(equal, key=lambda one: (one.micro_batch != advised.micro_batch, one.total), default=None)


def _nothing_fits(model: StageModel, found: list[Option]) -> str:
    smallest = min(found, key=lambda option: option.total)
    gib = 2.0**30
    parts = ", ".join(f"{name} {size / gib:.1f}" for name, size in smallest.memory.items())
    lines = [
        f"{model.stage}: nothing fits on {model.target.gpus} x {model.target.gpu.title}: the smallest, "
        f"{smallest.name}, needs {smallest.total / gib:.1f} GiB a device ({parts}), "
        f"of {smallest.usable / gib:.1f} that can be used"
    ]
    lines += [f"  {line}" for line in _ways_out(model, found)]
    return "\n".join(lines)


def _ways_out(model: StageModel, found: list[Option]) -> Iterable[str]:
    everything = {(option.zero_stage, option.micro_batch, option.checkpointing) for option in found}
    free = options(model, Choice())
    if len(free) > len(everything) and any(option.fits for option in free):
        yield f"without the restrictions that were asked for, {advise(model, free).name} fits"
        return
    for number in range(model.target.gpus + 1, model.settings.global_batch + 1):
        if model.settings.global_batch % number == 0:
            more = replace(model, target=replace(model.target, gpus=number))
            if any(option.fits for option in options(more, Choice())):
                yield f"{number} of these GPUs would be enough"
                break
    offloaded = [option for option in options(model, Choice(offload=True)) if option.fits]
    if offloaded and not found[0].offload:
        host = min(option.host_memory for option in offloaded) / 2**30
        yield f"--offload: with the optimiser in the host's memory it fits; {host:.0f} GiB of that a device"
    yield "a GPU with more memory, or fewer trained_parts"
