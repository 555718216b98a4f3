"""params.yaml, read once, typed and checked.

Every command receives a `Settings`; nothing else in the package reads the file. A wrong key, type or range raises
`SettingsError`, whose message names each key by its dotted path, before any work starts.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from fusion.contradictions import contradictions
from fusion.documents import did_you_mean, dotted, faults, read_yaml
from fusion.errors import FusionError
from fusion.evaluation_settings import Checkup, Evaluation, VariantEvaluation
from fusion.launch_settings import Launch
from fusion.publish_settings import Publish
from fusion.rgb import MAX_PIXELS
from fusion.section import PositiveInt, Section, Share

STAGES: tuple[str, ...] = ("stage1", "stage1_5", "stage2")
"""The training stages in their order; each continues the checkpoint of the one before, stage 1 the base models."""

Stage = Literal["stage1", "stage1_5", "stage2"]
TrainedPart = Literal["language", "projectors", "interaction", "vision"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class SettingsError(FusionError):
    """params.yaml is missing, is not YAML, or has a key that is unknown, missing, of the wrong type or out of range."""


class Run(Section):
    """What to build; `pilot` is the share of each source that a trial on one GPU uses, None = the real run."""

    variants: list[Name] = Field(min_length=1)
    seed: int = Field(ge=0, lt=2**32)
    pilot: float | None = Field(default=None, gt=0, le=0.5)


class Loading(Section):
    """How training reads its samples; results do not depend on it.

    `shards` maps a data set to the fsspec address of its shards, if they do not lie in data/shards/; `cache` is the
    folder of this machine for what was fetched. `ahead` packs are made before they are asked for, by each worker.
    """

    workers: Annotated[int, Field(ge=0)] | None
    ahead: PositiveInt
    shards: dict[str, str]
    cache: str
    cache_gb: float = Field(gt=0)


class Data(Section):
    """Ingest, sharding and curation. `roots` maps a data set to the folder that holds it in the published layout."""

    roots: dict[str, str] = Field(default={})
    shard_size_mb: float = Field(gt=0)
    workers: PositiveInt
    save_seconds: float = Field(ge=0)
    runner: Literal["processes", "dask", "ray"]
    scheduler: str | None
    max_image_pixels: PositiveInt
    loading: Loading

    @field_validator("max_image_pixels")
    @classmethod
    def _readable(cls, value: int) -> int:
        if value > MAX_PIXELS:
            raise ValueError(f"{value} is more than {MAX_PIXELS}, the most pixels of a picture that training reads")
        return value


class ImageText(Section):
    """`model`: a folder or Hub id of a checkpoint that embeds pictures and texts; `min`: the smallest cosine kept."""

    model: str
    min: float = Field(ge=-1.0, le=1.0)


class Scores(Section):
    """Thresholds of the optional blocks (extra `curation`); null switches one off."""

    languages: list[str] | None
    max_nsfw: Share | None
    max_text_share: Share | None
    image_text: ImageText | None


class CurationProfile(Section):
    """Thresholds of the curation blocks for one kind of source; null switches a rule off."""

    min_side: PositiveInt | None
    max_aspect: float | None = Field(ge=1.0)
    min_contrast: float | None = Field(ge=0.0, le=127.5)
    min_answer_chars: PositiveInt
    max_answer_chars: PositiveInt
    max_repetition: Share | None
    scripts: (
        list[Literal["arabic", "cyrillic", "devanagari", "greek", "han", "hangul", "hebrew", "kana", "latin", "thai"]]
        | None
    )
    pii: bool
    image_distance: int | None = Field(ge=0, le=15)
    text_similarity: float | None = Field(gt=0.0, le=1.0)
    contamination_words: int | None = Field(ge=5)
    useless_texts: bool
    max_same_text: PositiveInt | None
    scores: Scores | None


class Curation(Section):
    """The curation blocks in their order and the thresholds by profile."""

    blocks: list[str] = Field(min_length=1)
    profiles: dict[str, CurationProfile]


class Optimizer(Section):
    """AdamW. `betas` is a pair, `weight_decay` is decoupled."""

    betas: list[Share] = Field(min_length=2, max_length=2)
    eps: float = Field(gt=0)
    weight_decay: float = Field(ge=0)


class Lora(Section):
    """Low-rank adapters instead of all weights: of the parts in `targets`, only these are trained (extra `lora`).

    `targets` has for each part the last names of its layers' linear maps, such as qkv_proj, or `all` of them.
    """

    rank: PositiveInt
    alpha: float = Field(gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: dict[Literal["language", "vision"], list[str] | Literal["all"]] = Field(min_length=1)


class Training(Section):
    """Hyperparameters that all stages share unless a stage overrides them."""

    optimizer: Optimizer
    schedule: Literal["cosine", "linear", "constant"]
    warmup_ratio: Share
    max_grad_norm: float | None = Field(gt=0)
    epochs: PositiveInt
    precision: Literal["bf16", "fp32"]
    zero_stage: Literal[0, 1, 2, 3]
    activation_checkpointing: bool
    trained_parts: list[TrainedPart] = Field(min_length=1)
    lora: Lora | None
    save_every_steps: PositiveInt
    keep_checkpoints: PositiveInt
    on_bad_sample: Literal["stop", "count"]


class Guards(Section):
    """When a training stage is stopped; null switches a guard off. No result depends on them."""

    max_loss_ratio: float | None = Field(gt=1)
    stall_minutes: float | None = Field(gt=0)


class Tracking(Section):
    """Where training is followed beside its own log, every so many steps; results do not depend on it."""

    trackers: list[Literal["tensorboard", "wandb", "trackio"]]
    project: str = Field(min_length=1)
    every_steps: PositiveInt
    checkup: Checkup | None


class StageHardware(Section):
    """What one stage has instead of its variant's `hardware`; None = as there."""

    ranks: PositiveInt | None = None
    threads_per_rank: PositiveInt | None = None
    micro_batch: PositiveInt | None = None
    offload_optimizer: bool | None = None


class StageSettings(Section):
    """One training stage of one variant: its own values, and overrides of `training` (None = as there)."""

    global_batch: PositiveInt
    learning_rate: float = Field(gt=0, lt=1)
    vision_learning_rate: float = Field(ge=0, lt=1)
    max_length: PositiveInt
    optimizer: Optimizer | None = None
    schedule: Literal["cosine", "linear", "constant"] | None = None
    warmup_ratio: Share | None = None
    max_grad_norm: float | None = Field(default=None, gt=0)
    epochs: PositiveInt | None = None
    precision: Literal["bf16", "fp32"] | None = None
    zero_stage: Literal[0, 1, 2, 3] | None = None
    activation_checkpointing: bool | None = None
    trained_parts: list[TrainedPart] | None = Field(default=None, min_length=1)
    lora: Lora | None = None
    save_every_steps: PositiveInt | None = None
    keep_checkpoints: PositiveInt | None = None
    on_bad_sample: Literal["stop", "count"] | None = None
    hardware: StageHardware | None = None


class BasePart(Section):
    """A base model: `name` is a Hub id or a folder; `config` builds one with seeded random weights instead."""

    name: str | None = None
    revision: str | None = None
    config: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "BasePart":
        if (self.name is None) == (self.config is None):
            raise ValueError("give exactly one of `name` and `config`")
        return self


class Base(Section):
    """The models that stage 1 starts from. `tokenizer` is null where the LLM brings its own."""

    llm: BasePart
    tower: BasePart
    tokenizer: str | None = None


class Interaction(Section):
    """Where the context-aware recursive alignment layers stand: after decoder layers start, start + stride, ..."""

    layers: Annotated[int, Field(ge=0)]
    start: Annotated[int, Field(ge=0)]
    stride: PositiveInt


class Model(Section):
    """The switches of the architecture (paper section 3); the ablations are made with these."""

    query_len: list[PositiveInt] = Field(min_length=1)
    num_latents: PositiveInt
    window_size: PositiveInt = 3
    interaction: Interaction
    text_mask: Literal["checkpoint", "paper"] = "checkpoint"
    text_guided: bool = True
    mapping_loss_weight: float = Field(default=0.1, ge=0)

    @field_validator("query_len", "num_latents")
    @classmethod
    def _squares(cls, value: int | list[int]) -> int | list[int]:
        for number in value if isinstance(value, list) else [value]:
            if round(number**0.5) ** 2 != number:
                raise ValueError(f"{number} is not a square number: latents form a square grid")
        return value


class Hardware(Section):
    """Ranks and their shape. They are settings because results are exact only for the same ranks and threads.

    `offload_optimizer`: the optimiser's states lie in the host's memory, and the update is made there.
    `compile`: layers are compiled by torch.compile at their first call.
    """

    device: Literal["cpu", "cuda"]
    ranks: PositiveInt
    threads_per_rank: PositiveInt
    micro_batch: PositiveInt
    offload_optimizer: bool = False
    compile: bool = False


class StageData(Section):
    """The data set of each stage, and the tokenizer whose token counts apply, by their names in data/catalog/."""

    stage1: str
    stage1_5: str | None
    stage2: str
    tokenizer: str


class VariantStages(Section):
    """The stages of a variant; `stage1_5` is null where stage 2 continues stage 1, on the data of both."""

    stage1: StageSettings
    stage1_5: StageSettings | None
    stage2: StageSettings


class Variant(Section):
    """One model: its base models, architecture, hardware, data and stages; `seed` is null where run.seed holds.

    `adopted`: the stage whose checkpoint was made elsewhere (`fusion adopt`); training begins with the one after it.
    """

    publish_as: str
    adopted: Literal["stage1", "stage1_5"] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None
    template: Literal["phi_3", "llama_3"]
    base: Base
    model: Model
    hardware: Hardware
    data: StageData
    stages: VariantStages
    evaluation: VariantEvaluation

    @property
    def stage_names(self) -> tuple[Stage, ...]:
        """The stages that are trained here, in their order."""
        names: tuple[Stage, ...] = ("stage1", "stage1_5", "stage2")
        begin = names.index(self.adopted) + 1 if self.adopted else 0
        return tuple(name for name in names[begin:] if getattr(self.stages, name) is not None)

    @property
    def chain(self) -> tuple[str, ...]:
        """The checkpoints of this variant in their order; each stage that is trained continues the one before."""
        return (self.adopted or "base", *self.stage_names)

    @property
    def first_stage(self) -> Stage:
        """The first stage that has a checkpoint, trained here or adopted: the last one is compared with it."""
        return self.adopted or self.stage_names[0]

    def hardware_of(self, stage: Stage) -> Hardware:
        """What a stage is trained on: `hardware`, with the values that the stage has of its own."""
        own: StageSettings | None = getattr(self.stages, stage)
        changes = own.hardware.model_dump(exclude_none=True) if own and own.hardware else {}
        return self.hardware.model_copy(update=changes)


class Settings(Section):
    """All of params.yaml."""

    run: Run
    data: Data
    curation: Curation
    training: Training
    guards: Guards
    tracking: Tracking
    evaluation: Evaluation
    launch: Launch
    publish: Publish
    variants: dict[Name, Variant]

    def variant(self, name: str) -> Variant:
        """The settings of variant `name`; raises `SettingsError` naming the known ones."""
        if name not in self.variants:
            raise SettingsError(f"params.yaml has no variant `{name}`{did_you_mean(name, self.variants)}")
        return self.variants[name]

    def stage(self, variant: str, stage: Stage) -> "StageSettings":
        """The settings of one stage with every value of `training` filled in that the stage does not override."""
        chosen = self.variant(variant)
        own: StageSettings | None = getattr(chosen.stages, stage)
        if own is None:
            raise SettingsError(f"variants.{variant}.stages.{stage} is null in params.yaml: there is no such stage")
        if stage not in chosen.stage_names:
            raise SettingsError(
                f"variants.{variant}.adopted is {chosen.adopted} in params.yaml: {stage} is not trained here, the "
                f"first stage is {chosen.stage_names[0]}"
            )
        shared = dict(self.training.model_copy())
        return own.model_copy(update={name: value for name, value in shared.items() if getattr(own, name) is None})

    def seed(self, variant: str) -> int:
        """What the new weights of a variant, its order and its draws follow from."""
        own = self.variant(variant).seed
        return self.run.seed if own is None else own

    def hardware(self, variant: str, stage: Stage | None = None) -> Hardware:
        """What a variant, or a stage of it, is trained on; a pilot: one rank, the optimiser beside a GPU in RAM."""
        chosen = self.variant(variant)
        own = chosen.hardware if stage is None else chosen.hardware_of(stage)
        if self.run.pilot is None:
            return own
        return own.model_copy(update={"ranks": 1, "offload_optimizer": own.device == "cuda"})

    def published_name(self, variant: str) -> str:
        """The name that a variant's package gets; that of a pilot says so."""
        return self.variant(variant).publish_as + ("" if self.run.pilot is None else "-Pilot")


def load_settings(path: Path = Path("params.yaml")) -> Settings:
    """Reads and checks params.yaml; raises `SettingsError` with one line per wrong key."""
    if not path.is_file():
        raise SettingsError(f"{path} is not here: run the command in the project's folder")
    document = read_yaml(path, SettingsError)
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        lines = [f"  {dotted(location) or '(whole file)'}: {reason}" for location, reason in faults(error, Settings)]
    else:
        lines = [f"  {line}" for line in contradictions(settings)]
    if lines:
        raise SettingsError("\n".join([f"{path} has {len(lines)} wrong setting(s):", *lines]))
    return settings
