"""The published model zoo, typed and checked: fusion/zoo/zoo.yaml is read here and nowhere else."""

from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fusion.errors import FusionError
from fusion.settings import STAGES, Stage

SCALE_DIGITS = 1
"""Digits after the point of the published scores."""

PositiveInt = Annotated[int, Field(gt=0)]
Repo = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")]
Name = Annotated[str, Field(min_length=1)]


class ZooError(FusionError):
    """A key of zoo.yaml is wrong, a name is not in the zoo, or a rule of the zoo is broken."""


class Entry(BaseModel):
    """Base of all entries: unknown keys are errors, nothing is converted silently, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Column(Entry):
    """One benchmark. `questions` and `parts`: what a score can be made of; see zoo.yaml."""

    name: Name
    title: Name
    maximum: PositiveInt
    questions: PositiveInt | None = None
    parts: list[PositiveInt] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_count(self) -> Self:
        if self.questions is not None and self.parts is not None:
            raise ValueError("give one of `questions` and `parts`")
        return self


class Base(Entry):
    """A base model: its hidden size, all layers that its authors built, the inner width of its MLP."""

    published: Name
    repo: Repo
    width: PositiveInt
    layers: PositiveInt
    mlp: PositiveInt
    source: list[str] = Field(min_length=1)


class Llm(Base):
    """A base language model; `licence` is the id of one of the zoo's licences."""

    family: Literal["llama", "phi3"]
    template: Literal["phi_3", "llama_3"]
    licence: Name


class Encoder(Base):
    """A vision encoder; sizes in pixels."""

    image_size: PositiveInt
    patch_size: PositiveInt


class Licence(Entry):
    """A licence and what it asks of whoever passes a model on."""

    id: Name
    title: Name
    obligations: list[Name] = Field(min_length=1)
    source: str


class Checkpoint(Entry):
    """What finished models and stage checkpoints have in common."""

    version: Literal["FUSION", "FUSION-X"]
    llm: Name
    encoder: Name
    schedule: Literal["full_ft"]
    repo: Repo
    source: str

    @property
    def name(self) -> str:
        """The repository's name without its owner: the name in the zoo."""
        return self.repo.partition("/")[2]


class PublishedModel(Checkpoint):
    """A finished model; `scores` has every column, in the columns' order."""

    visual_tokens: PositiveInt
    scores: dict[str, Annotated[float, Field(ge=0)]]
    stage: Literal["stage2"] = "stage2"


class StageCheckpoint(Checkpoint):
    """A checkpoint to continue from. `link` is the published link's repository where it is another than `repo`."""

    stage: Literal["stage1", "stage1_5"]
    data: list[Name] = Field(min_length=1)
    link: Repo | None = None
    presumed: bool = False


ZooCheckpoint = PublishedModel | StageCheckpoint


class Rules(Entry):
    """The published notes that are kept as rules."""

    stage_checkpoint: Name
    same_base: Name
    licence: Name


class Note(Entry):
    """A fault or a claim of the published page; `scores` maps a column to numbers that cannot be."""

    id: Name
    text: Name
    scores: dict[str, list[float]] = {}
    source: str


class Zoo(Entry):
    """All of zoo.yaml."""

    sources: dict[str, Name]
    columns: list[Column]
    llms: list[Llm]
    encoders: list[Encoder]
    licences: list[Licence]
    models: list[PublishedModel]
    stage_checkpoints: list[StageCheckpoint]
    rules: Rules
    notes: list[Note]

    @model_validator(mode="after")
    def _references(self) -> Self:
        for key in ("columns", "llms", "encoders", "licences", "notes", "models", "stage_checkpoints"):
            names = [_label(entry) for entry in getattr(self, key)]
            twice = sorted({name for name in names if names.count(name) > 1})
            _need(not twice, key, f"{', '.join(twice)} stands there twice")
        columns = [column.name for column in self.columns]
        for number, model in enumerate(self.models):
            key = f"models.{number}.scores"
            _need(list(model.scores) == columns, key, f"must name every column in order; {_difference(model, columns)}")
            for column in self.columns:
                score = model.scores[column.name]
                _need(score <= column.maximum, f"{key}.{column.name}", f"{score} is above {column.maximum}")
        for key in ("models", "stage_checkpoints"):
            for number, checkpoint in enumerate(getattr(self, key)):
                _known([llm.published for llm in self.llms], checkpoint.llm, f"{key}.{number}.llm")
                _known([e.published for e in self.encoders], checkpoint.encoder, f"{key}.{number}.encoder")
        for number, llm in enumerate(self.llms):
            _known([licence.id for licence in self.licences], llm.licence, f"llms.{number}.licence")
        for key in ("llms", "encoders", "licences", "models", "stage_checkpoints", "notes"):
            for number, entry in enumerate(getattr(self, key)):
                for source in [entry.source] if isinstance(entry.source, str) else entry.source:
                    _known(list(self.sources), source, f"{key}.{number}.source")
        for number, note in enumerate(self.notes):
            for column_name in note.scores:
                _known(columns, column_name, f"notes.{number}.scores")
        return self

    @property
    def checkpoints(self) -> list[ZooCheckpoint]:
        """All of them, finished models first."""
        return [*self.models, *self.stage_checkpoints]

    def checkpoint(self, name: str) -> ZooCheckpoint | None:
        """The checkpoint of a zoo name or repository, or None."""
        return next((entry for entry in self.checkpoints if name in (entry.name, entry.repo)), None)

    def llm(self, published: str) -> Llm:
        """The language model of a published name."""
        return next(llm for llm in self.llms if llm.published == published)

    def encoder(self, published: str) -> Encoder:
        """The vision encoder of a published name."""
        return next(encoder for encoder in self.encoders if encoder.published == published)

    def licence(self, identifier: str) -> Licence:
        """The licence of an id."""
        return next(licence for licence in self.licences if licence.id == identifier)


def _label(entry: Any) -> str:
    for field in ("name", "published", "id"):
        value = getattr(entry, field, None)
        if value is not None:
            return str(value)
    raise TypeError(f"{type(entry).__name__} has no name")


def _need(condition: bool, key: str, message: str) -> None:
    if not condition:
        raise ValueError(f"{key}: {message}")


def _known(names: list[str], name: str, key: str) -> None:
    _need(name in names, key, f"`{name}` is not one of {', '.join(names)}")


def _difference(model: PublishedModel, columns: list[str]) -> str:
    missing = [name for name in columns if name not in model.scores]
    unknown = [name for name in model.scores if name not in columns]
    parts = [f"missing: {', '.join(missing)}"] * bool(missing) + [f"unknown: {', '.join(unknown)}"] * bool(unknown)
    return "; ".join(parts) or "their order is another"


def parse_zoo(text: str, where: str = "zoo.yaml") -> Zoo:
    """The zoo of a YAML text; raises `ZooError` with one line per wrong key."""
    try:
        return Zoo.model_validate(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ZooError(f"{where} is not valid YAML: {error}") from error
    except ValidationError as error:
        lines = [f"  {'.'.join(map(str, item['loc'])) or '(references)'}: {_reason(item)}" for item in error.errors()]
        raise ZooError(
            "\n".join([f"{where} has {len(lines)} wrong entr{'y' if len(lines) == 1 else 'ies'}:", *lines])
        ) from None


def _reason(item: Any) -> str:
    named = {"extra_forbidden": "unknown key", "missing": "missing"}
    return named.get(item["type"]) or str(item["msg"])


@cache
def load_zoo() -> Zoo:
    """The zoo that comes with the package."""
    text = resources.files("fusion.zoo").joinpath("zoo.yaml").read_text(encoding="utf-8")
    return parse_zoo(text, "fusion/zoo/zoo.yaml")


def stage_title(stage: Stage | str) -> str:
    """The published way to write a stage: "stage1_5" -> "Stage1.5"."""
    return stage.replace("stage", "Stage").replace("_", ".")


def stage_note(stage: Stage | str | None) -> str | None:
    """The sentence for the card of a checkpoint of `stage`; None for a finished model."""
    if stage not in STAGES[:-1]:
        return None
    rules = load_zoo().rules
    return f"This is a stage checkpoint: {rules.stage_checkpoint}. {rules.same_base[0].upper()}{rules.same_base[1:]}."
