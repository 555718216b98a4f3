"""The sections of params.yaml about evaluation: benchmarks, columns of the model zoo, the judge, the gate."""

from typing import Annotated

from pydantic import Field

from fusion.section import PositiveInt, Section, Share


class BenchmarkUse(Section):
    """How much of a benchmark is evaluated: a seeded choice of `questions`, or all of them (null)."""

    questions: PositiveInt | None


class VariantGate(Section):
    """What a variant must reach before it is published.

    `reference`: the zoo's model whose numbers the `columns` are held to; `over_blind`: for each benchmark the share by
    which it must be better than the better blind baseline, by the lower bound of the interval; `max_unparsed`: share of
    answers that may say nothing that the scorer knows.
    """

    reference: str | None
    columns: list[str]
    over_blind: dict[str, Annotated[float, Field(ge=-1.0, le=1.0)]]
    max_unparsed: Share


class VariantEvaluation(Section):
    """The benchmarks of a variant by their name in data/catalog/, and the columns of the model zoo that are run."""

    benchmarks: dict[str, BenchmarkUse]
    columns: list[str]
    gate: VariantGate


class Checkup(Section):
    """A benchmark that is asked while training goes on, every so many steps, by a process of its own.

    `questions`: a seeded choice of so many, null = all. `device`: of that process; a GPU needs room for the weights.
    `last_wait_seconds`: how long the end of a stage waits for an answer that is still out.
    """

    benchmark: str
    questions: PositiveInt | None
    every_steps: PositiveInt
    device: str = Field(pattern=r"^(cpu|cuda(:\d+)?)$")
    last_wait_seconds: float = Field(ge=0, le=600)


class JudgeSettings(Section):
    """A judge's address in OpenAI's protocol (up to /v1); null = none. `wait_seconds` doubles from try to try."""

    address: str | None
    model: str | None
    timeout_seconds: float = Field(gt=0)
    attempts: PositiveInt
    wait_seconds: float = Field(ge=0)


class Gate(Section):
    """What all variants are held to, fixed before anything is measured.

    `margins`: points by which a column may lie below the zoo's number; `regression`: share of a column's greatest value
    that may be lost against the accepted checkpoint.
    """

    regression: Share
    margins: dict[str, Annotated[float, Field(ge=0.0)]]


class Evaluation(Section):
    """Statistics, batches, the judge and the gate. `roots` maps a column to the folder with its benchmark's files."""

    confidence: float = Field(gt=0.5, lt=1.0)
    bootstrap_samples: PositiveInt
    batch_size: PositiveInt
    report_pictures: PositiveInt
    roots: dict[str, str]
    judge: JudgeSettings
    gate: Gate
