"""Conversations that cannot be rendered: roles, image markers, empty texts, control tokens inside texts."""

from typing import ClassVar

import polars as pl

from fusion.data.curate.base import Block, Samples


class Schema(Block):
    """The rules are the model's own (fusion/model/template.py), applied at sharding, which reads all conversations."""

    name: ClassVar[str] = "schema"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        found = samples.frame.filter(pl.col("structure").is_not_null())
        parts = pl.col("structure").str.splitn(": ", 2)
        told = found.with_columns(reason=parts.struct.field("field_0"), evidence=parts.struct.field("field_1"))
        return told.select(pl.col("at").cast(pl.UInt32), "reason", "evidence")
