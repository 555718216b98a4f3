"""Sentences made of columns."""

from __future__ import annotations

import polars as pl


def filled(template: str, *values: str | pl.Expr | pl.Series) -> pl.Expr:
    """What `polars.format` means: `template` with each {} replaced by a column's value; null where one of them is null.

    Made with `concat_str`, because `polars.format` of polars 2.1 panics on columns with an empty chunk in the middle,
    which is what a filter leaves of a table of several row groups.
    """
    texts = template.split("{}")
    parts: list[pl.Expr] = [pl.lit(texts[0])]
    for value, text in zip(values, texts[1:], strict=True):
        match value:
            case str():
                parts.append(pl.col(value))
            case pl.Series():
                parts.append(pl.lit(value))
            case _:
                parts.append(value)
        parts.append(pl.lit(text))
    return pl.concat_str(parts)
