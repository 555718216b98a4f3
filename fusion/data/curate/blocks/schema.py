"""Conversations that cannot be rendered: roles, image markers, empty texts, control tokens inside texts."""

from typing import ClassVar

import polars as pl

from fusion.data.curate.base import Block, no_rejects
from fusion.data.curate.samples import AT, Part, Samples


class Schema(Block):
    """The rules are the model's own (fusion/model/template.py), applied at sharding, which reads all conversations."""

    name: ClassVar[str] = "schema"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        return pl.concat([no_rejects(), *samples.map("conversations", _objections, samples.parts())])


def _objections(part: Part) -> pl.DataFrame:
    found = part.index("structure").filter(pl.col("structure").is_not_null())
    halves = pl.col("structure").str.splitn(": ", 2)
    return found.select(AT, reason=halves.struct.field("field_0"), evidence=halves.struct.field("field_1"))
