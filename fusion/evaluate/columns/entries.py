"""The columns of the model zoo, typed and checked: what is asked, what is scored, what can be compared with the zoo.

One YAML file of this folder is one column. The zoo's own facts (title, greatest value, published scores) are not
repeated: they are read from fusion/zoo by the column's name.
"""

from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fusion.documents import did_you_mean, dotted, faults, read_yaml
from fusion.errors import FusionError
from fusion.evaluate.scorers.base import Scorer
from fusion.evaluate.scorers.judged import JudgedScorer
from fusion.evaluate.scorers.known import scorer, scorers_by_name
from fusion.zoo.entries import Column as ZooColumn
from fusion.zoo.entries import load_zoo

Text = Annotated[str, Field(min_length=1)]
PositiveInt = Annotated[int, Field(gt=0)]


class ColumnError(FusionError):
    """A column's file is wrong, or there is no column of that name."""


class Entry(BaseModel):
    """Unknown keys are errors, nothing is converted silently, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Engine(Entry):
    """The task of lmms-eval for the same column, and the keys of its results."""

    task: Text
    keys: list[Text] = Field(min_length=1)


class Data(Entry):
    """Where lmms-eval takes the rows from. `revision` null: unknown which one the published number was made with."""

    repo: Text
    subset: Text | None
    split: Text
    revision: Text | None


class Comparability(Entry):
    """Whether our number and the zoo's mean the same, and why."""

    status: Literal["same", "differs", "unknown"]
    why: Text


class JudgeFacts(Entry):
    """The judge behind the published number; null where it is unknown."""

    model: Text | None
    version: Text | None
    why: Text


class Column(Entry):
    """One column.

    Attributes:
        column: its name in the zoo.
        scorer: of fusion/evaluate/scorers; `value` is the number of the column, `also` are reported beside.
        instruction: what is put behind (CV-Bench: before) each question.
        max_new_tokens: longest answer.
        questions: rows that must be there, no more and no less.
        counted: where that number is from: the benchmark's paper, or unverified against the data.
        cluster: what is drawn together in the bootstrap.
        files: the benchmark's own files that are read.
    """

    column: Text
    scorer: Text
    value: Text
    also: list[Text]
    instruction: str
    max_new_tokens: PositiveInt
    questions: PositiveInt
    counted: Literal["paper", "unverified"]
    cluster: Literal["picture", "pair", "question", "document", "figure set"]
    engine: Engine
    data: Data
    files: Text
    definition: Text
    comparability: Comparability
    judge: JudgeFacts | None
    notes: list[Text]

    @model_validator(mode="after")
    def _known(self) -> Self:
        known = scorers_by_name()
        if self.scorer not in known:
            raise ValueError(f"scorer: there is none named `{self.scorer}`{did_you_mean(self.scorer, known)}")
        if isinstance(known[self.scorer], JudgedScorer) != (self.judge is not None):
            raise ValueError("judge: must be given exactly for a scorer that asks one")
        if self.comparability.status == "same" and self.judge is not None and self.judge.model is None:
            raise ValueError("comparability: cannot be the same with a judge that is unknown")
        return self

    @property
    def zoo(self) -> ZooColumn:
        """What the zoo says of it: title, greatest value."""
        return next(column for column in load_zoo().columns if column.name == self.column)

    @property
    def scores_with(self) -> Scorer:
        """Its scorer."""
        return scorer(self.scorer)

    def published(self, model: str) -> float:
        """The zoo's number for a finished model of the zoo; raises `ColumnError` naming the known ones."""
        models = {entry.name: entry for entry in load_zoo().models}
        if model not in models:
            raise ColumnError(f"the zoo has no finished model `{model}`{did_you_mean(model, models)}")
        return models[model].scores[self.column]


def read_column(path: Path) -> Column:
    """A column's file; raises `ColumnError` with one line per wrong key."""
    document = read_yaml(path, ColumnError)
    try:
        return Column.model_validate(document)
    except ValidationError as error:
        lines = [f"  {dotted(location) or '(references)'}: {reason}" for location, reason in faults(error, Column)]
        raise ColumnError("\n".join([f"{path} has {len(lines)} wrong key(s):", *lines])) from None


@cache
def load_columns() -> dict[str, Column]:
    """All columns in the zoo's order; raises `ColumnError` where files and zoo do not name the same ones."""
    folder = Path(str(resources.files("fusion.evaluate.columns")))
    found: dict[str, Column] = {}
    for path in sorted(folder.glob("*.yaml")):
        column = read_column(path)
        if column.column in found:
            raise ColumnError(f"{path}: column {column.column} has a file already")
        found[column.column] = column
    names = [column.name for column in load_zoo().columns]
    if set(names) != set(found):
        raise ColumnError(
            f"{folder}: without a file: {', '.join(sorted(set(names) - set(found))) or 'none'}; "
            f"not in the zoo: {', '.join(sorted(set(found) - set(names))) or 'none'}"
        )
    for column in found.values():
        rows = column.zoo.questions
        if rows is not None and rows != column.questions:
            raise ColumnError(f"column {column.column} has {column.questions} questions here and {rows} in the zoo")
    return {name: found[name] for name in names}


def column(name: str) -> Column:
    """The column of that name; raises `ColumnError` naming the known ones."""
    known = load_columns()
    if name not in known:
        raise ColumnError(f"the zoo has no column `{name}`{did_you_mean(name, known)}")
    return known[name]
