"""What every curation block is: it says which samples are dropped and why.

Counting, writing and taking them out is done for it. What it gets is in fusion/data/curate/samples.py.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import polars as pl

from fusion.data.curate.samples import AT, Samples
from fusion.data.errors import DataError
from fusion.data.kinds import find_classes

REJECTS = pl.Schema({AT: pl.UInt32(), "reason": pl.String(), "evidence": pl.String()})


class Block(ABC):
    """One job of curation. A new block is one more file in this folder with a subclass in it."""

    name: ClassVar[str]

    @abstractmethod
    def rejects(self, samples: Samples) -> pl.DataFrame:
        """The samples to drop: `at`, `reason`, `evidence` (see REJECTS), each sample at most once."""


def no_rejects() -> pl.DataFrame:
    """An empty answer of a block."""
    return pl.DataFrame(schema=REJECTS)


def first_reason(frame: pl.DataFrame, rules: list[tuple[str, pl.Expr, pl.Expr]]) -> pl.DataFrame:
    """Applies (reason, condition, evidence) rules to `frame`; the first whose condition is true gives the reason."""
    if not rules:
        return no_rejects()
    # Few rows break a rule: evidence is made for these alone.
    hit = frame.filter(pl.any_horizontal(condition for _, condition, _ in rules))
    reason, evidence = pl.lit(None, dtype=pl.String), pl.lit(None, dtype=pl.String)
    for code, condition, told in reversed(rules):
        reason = pl.when(condition).then(pl.lit(code)).otherwise(reason)
        evidence = pl.when(condition).then(told).otherwise(evidence)
    return hit.select(pl.col(AT).cast(pl.UInt32), reason=reason, evidence=evidence)


def load_blocks(names: list[str]) -> list[Block]:
    """The blocks `names` (params.yaml, curation.blocks); raises `DataError` naming the known ones."""
    known: dict[str, type[Block]] = find_classes("fusion.data.curate.blocks", Block, "name")
    for name in names:
        if name not in known:
            raise DataError(
                f"params.yaml: curation.blocks: there is no block `{name}`; known: {', '.join(sorted(known))}"
            )
    return [known[name]() for name in names]
