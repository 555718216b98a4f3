"""One training stage on paper: what it trains, on which samples, in how many steps, what an average sample costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.model.adapters import adapter_elements
from fusion.model.configuration import FusionConfig
from fusion.plan.architecture import Parameters, count_parameters, model_config
from fusion.plan.errors import PlanError
from fusion.plan.flops import Work, executed_flops, forward_work, model_flops
from fusion.plan.gpus import Gpu
from fusion.plan.load import Load, Sample
from fusion.plan.traffic import Traffic, traffic
from fusion.settings import Settings, Stage, StageSettings

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog

UTILISATION = 0.40
"""Share of the device's dense rate that matrix work reaches, where nobody says: an assumption, usual for models of this
size; `benchmarks/gpu_train_step.py` measures it."""
_TF32 = 0.5
"""Rate of products in float32 (as TF32) over that in bfloat16."""


@dataclass(frozen=True)
class Target:
    """What is planned for: so many devices of a kind, and the share of their rate that is reached."""

    gpu: Gpu
    gpus: int
    utilisation: float = UTILISATION


@dataclass(frozen=True)
class StageModel:
    """A stage before it is decided how to run it.

    Attributes:
        stage: its name.
        settings: with all values filled in.
        config, parameters: of the model.
        traffic: of its data set.
        target: what it runs on.
    """

    stage: Stage
    settings: StageSettings
    config: FusionConfig
    parameters: Parameters
    traffic: Traffic
    target: Target

    @property
    def element(self) -> int:
        """Bytes of an element of weights and activations."""
        return 2 if self.settings.precision == "bf16" else 4

    @property
    def trained_parts(self) -> list[str]:
        """Parts whose own weights are trained; of the others at most adapters are."""
        assert self.settings.trained_parts is not None  # filled in by Settings.stage
        adapted = self.settings.lora.targets if self.settings.lora else {}
        return [part for part in self.settings.trained_parts if part not in adapted]

    @cached_property
    def adapters(self) -> int:
        """Parameters of adapters; raises `PlanError` for those of unknown layers."""
        try:
            return adapter_elements(self.parameters.shapes, self.settings.lora) if self.settings.lora else 0
        except ValueError as error:
            raise PlanError(f"{self.stage}: {error}") from None

    @property
    def elements(self) -> int:
        """Parameters while it is trained, those of adapters too."""
        return self.parameters.total + self.adapters

    @property
    def trained(self) -> int:
        """Parameters that are trained, those of adapters too; raises `PlanError` for adapters of unknown layers."""
        return self.parameters.trained(self.trained_parts) + self.adapters

    @property
    def steps(self) -> int | None:
        """Optimiser steps of all epochs; None where the number of samples is not known."""
        if self.traffic.samples is None:
            return None
        return math.ceil(self.traffic.samples * (self.settings.epochs or 1) / self.settings.global_batch)

    @property
    def samples_a_rank(self) -> float:
        """Samples of a step on one device."""
        return self.settings.global_batch / self.target.gpus

    @property
    def micro_batches(self) -> list[int]:
        """Sizes of a micro-batch that divide a device's share of a step."""
        share = self.settings.global_batch // self.target.gpus
        return [size for size in range(1, share + 1) if share % size == 0]

    @cached_property
    def mean(self) -> Load:
        """The load of one average sample, over all numbers of latents; the blank picture apart."""
        loads = [Load.of(self.traffic.kinds, self.config, q, blank=0.0) for q in self.config.query_len]
        count = len(loads)
        return Load(**{field.name: sum(getattr(load, field.name) for load in loads) / count for field in fields(Load)})

    def micro_batch(self, size: int) -> Load:
        """An average micro-batch of so many samples: the first one without a picture brings the blank picture."""
        whole = self.mean.times(size)
        blank = 1 - self.traffic.with_picture**size
        return Load(**{field.name: getattr(whole, field.name) for field in fields(Load)} | {"blank": blank})

    def largest_micro_batch(self, size: int) -> Load:
        """So many samples as long as max_length allows, each with a picture, and the most latents: what has to fit."""
        most, patches = max(self.config.query_len), self.config.num_patches
        room = self.settings.max_length - patches
        kinds = self.traffic.kinds
        turns = min(max(math.ceil(kind.turns) for kind in kinds), max(1, room // (2 * most)))
        text = max(room - turns * most, 1)
        longest = Sample(text, min(max(kind.instruct for kind in kinds), text), turns, text, picture=True, count=1)
        return Load.of([longest] * size, self.config, most)

    def work(self, size: int) -> dict[str, Work]:
        """Forward passes of one step on one device, in micro-batches of this size."""
        return forward_work(self.config, self.micro_batch(size).times(self.samples_a_rank / size))

    def sample_flops(self) -> dict[str, float]:
        """FLOPs of the model by part for an average sample, forward and backward."""
        return model_flops(forward_work(self.config, self.mean), self.trained_parts)

    def step_flops(self, size: int, checkpointing: bool) -> tuple[float, float]:
        """FLOPs of a step on one device: those of the model, and those that are executed."""
        work = self.work(size)
        executed = executed_flops(work, self.trained_parts, checkpointing)
        return sum(model_flops(work, self.trained_parts).values()), sum(executed.values())

    @property
    def rate(self) -> float:
        """FLOP/s that one device reaches."""
        factor = 1.0 if self.element == 2 else _TF32
        return 1e12 * self.target.gpu.tflops * factor * self.target.utilisation


def stage_models(
    settings: Settings, catalog: Catalog, variant: str, target: Target, root: Path = Path()
) -> dict[Stage, StageModel]:
    """The stages of a variant.

    Raises:
        PlanError: numbers that do not divide, an unknown base model, a category without lengths.
        SettingsError: there is no such variant.
    """
    chosen = settings.variant(variant)
    config = model_config(chosen, root)
    parameters = count_parameters(config)
    found: dict[Stage, StageModel] = {}
    for stage in chosen.stage_names:
        own = settings.stage(variant, stage)
        if own.global_batch % target.gpus:
            raise PlanError(
                f"{stage}: global_batch {own.global_batch} is not divisible by {target.gpus} GPUs: every device needs "
                f"the same share; {_divisors(own.global_batch, target.gpus)} would do"
            )
        brought = traffic(
            catalog,
            getattr(chosen.data, stage),
            chosen.data.tokenizer,
            root,
            config.num_patches,
            max(config.query_len),
            own.max_length,
            settings.run.pilot,
        )
        found[stage] = StageModel(stage, own, config, parameters, brought, target)
    return found


def _divisors(batch: int, wanted: int) -> str:
    fitting = [number for number in range(1, batch + 1) if batch % number == 0]
    below = [number for number in fitting if number < wanted][-1:]
    above = [number for number in fitting if number > wanted][:1]
    return " or ".join(map(str, below + above))
