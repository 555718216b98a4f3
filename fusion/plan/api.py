"""Plans for other programs: a whole plan of a variant, and the planned numbers of one optimiser step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusion.data.catalog import Catalog, load_catalog
from fusion.plan.choice import SAME_TIME, Choice, Option, advise, evaluate, options
from fusion.plan.gpus import find_gpu
from fusion.plan.stage import UTILISATION, StageModel, Target, stage_models
from fusion.settings import Hardware, Settings, Stage, load_settings


@dataclass(frozen=True)
class StagePlan:
    """A stage: what it is, every way to run it, the advised one, and the one that params.yaml has."""

    model: StageModel
    options: list[Option]
    advised: Option
    as_set: Option

    @property
    def hours(self) -> float | None:
        """From first to last step; None where the number of steps is not known."""
        return None if self.model.steps is None else self.model.steps * self.advised.seconds / 3600

    @property
    def gpu_hours(self) -> float | None:
        """Hours of all devices."""
        return None if self.hours is None else self.hours * self.model.target.gpus


@dataclass(frozen=True)
class Plan:
    """The three stages of a variant on one target."""

    variant: str
    target: Target
    gpu: str
    stages: dict[Stage, StagePlan]


@dataclass(frozen=True)
class StepPlan:
    """An average optimiser step over all devices.

    Attributes:
        samples, pictures: of a step.
        tokens: positions in the decoder.
        flops: of the model, forward and backward, by which utilisation is counted.
        executed_flops: with what is computed again.
        seconds: planned, as advised.
        steps: of the stage; None where the number of samples is not known.
    """

    samples: int
    pictures: float
    tokens: float
    flops: float
    executed_flops: float
    seconds: float
    steps: int | None


def make_plan(
    settings: Settings,
    catalog: Catalog,
    variant: str,
    *,
    gpu: str = "h100",
    gpus: int | None = None,
    utilisation: float = UTILISATION,
    choice: Choice | None = None,
    root: Path = Path(),
) -> Plan:
    """The plan of a variant.

    Args:
        settings, catalog: of the project.
        variant: of params.yaml.
        gpu: a name of gpus.yaml.
        gpus: devices; None = as many as the variant's hardware has ranks, one for a pilot.
        utilisation: share of the device's dense rate that is reached, recomputation counted.
        choice: what is fixed beforehand; None = nothing but what the hardware says of offloading.
        root: the project's folder.

    Raises:
        PlanError: nothing fits, or the question makes no sense; with what would help.
        SettingsError: there is no such variant.
    """
    hardware = settings.hardware(variant)
    target = Target(find_gpu(gpu), gpus or hardware.ranks, utilisation)
    choice = choice or Choice(offload=hardware.offload_optimizer)
    models = stage_models(settings, catalog, variant, target, root)
    found = {stage: options(model, choice) for stage, model in models.items()}
    size = _common_micro_batch(models, found)
    stages = {
        stage: StagePlan(
            model,
            found[stage],
            advise(model, [one for one in found[stage] if size in (None, one.micro_batch)]),
            _as_set(model, settings.hardware(variant, stage)),
        )
        for stage, model in models.items()
    }
    return Plan(variant, target, gpu, stages)


def _as_set(model: StageModel, hardware: Hardware) -> Option:
    own = model.settings
    size = min(hardware.micro_batch, round(model.samples_a_rank))
    return evaluate(model, own.zero_stage or 0, size, bool(own.activation_checkpointing), hardware.offload_optimizer)


def _common_micro_batch(models: dict[Stage, StageModel], found: dict[Stage, list[Option]]) -> int | None:
    """The micro-batch with which all stages together are fastest: `hardware.micro_batch` is one for all of them.

    Of equally fast ones the largest. None where no size fits in all stages.
    """
    seconds: dict[int, float] = {}
    for size in {option.micro_batch for stage in found.values() for option in stage}:
        fitting = [[one.seconds for one in stage if one.fits and one.micro_batch == size] for stage in found.values()]
        if all(fitting):
            steps = [model.steps or 1 for model in models.values()]
            seconds[size] = sum(number * min(times) for number, times in zip(steps, fitting, strict=True))
    if not seconds:
        return None
    return max(size for size, time in seconds.items() if time <= (1 + SAME_TIME) * min(seconds.values()))


def plan_step(
    variant: str,
    stage: Stage,
    gpu: str = "h100",
    *,
    gpus: int | None = None,
    utilisation: float = UTILISATION,
    root: Path = Path(),
) -> StepPlan:
    """The planned numbers of an average step, from params.yaml and the catalog below `root`; see `make_plan`."""
    settings, catalog = load_settings(root / "params.yaml"), load_catalog(root / "data" / "catalog")
    planned = make_plan(settings, catalog, variant, gpu=gpu, gpus=gpus, utilisation=utilisation, root=root).stages[
        stage
    ]
    model, advised = planned.model, planned.advised
    batch, devices = model.settings.global_batch, model.target.gpus
    return StepPlan(
        samples=batch,
        pictures=batch * model.traffic.with_picture,
        tokens=batch * model.mean.positions,
        flops=devices * advised.model_flops,
        executed_flops=devices * advised.executed_flops,
        seconds=advised.seconds,
        steps=model.steps,
    )
