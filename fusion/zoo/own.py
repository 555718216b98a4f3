"""What a row about a checkpoint of this checkout holds. fusion/publish/own_models.py, above this layer, finds them."""

from dataclasses import dataclass, field
from typing import Literal

NOT_RUN = "not run"


@dataclass(frozen=True)
class OwnScore:
    """A score with its interval on one benchmark, in percent; a column of the zoo by its name, on its own scale."""

    benchmark: str
    questions: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OwnModel:
    """A checkpoint of this checkout. `weights` is one sha256 over its weight files, empty where it is not known."""

    name: str
    kind: Literal["trained", "adopted"]
    folder: str
    weights: str
    note: str
    scores: tuple[OwnScore, ...] = field(default=())
