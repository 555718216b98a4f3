"""Plans for other programs: a whole plan of a variant, and the planned numbers of one optimiser step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusion.data.catalog import Catalog, load_catalog
from fusion.plan.choice import Choice, Option, advise, options
from fusion.plan.gpus import find_gpu
from fusion.plan.stage import UTILISATION, StageModel, Target, stage_models
from fusion.settings import Settings, Stage, load_settings


@dataclass(frozen=True)
class StagePlan:
    """A stage: what it is, every way to run it, and the advised one."""

    model: StageModel
    options: list[Option]
    advised: Option

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
    stages: dict[Stage, StagePlan] = {}
    for stage, model in stage_models(settings, catalog, variant, target, root).items():
        found = options(model, choice)
        stages[stage] = StagePlan(model, found, advise(model, found))
    return Plan(variant, target, gpu, stages)


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
