"""Sentences made of columns are those of `polars.format`, also where a filter left an empty chunk."""

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from fusion.data.store.filled import filled


def test_empty_chunks() -> None:
    """Found with a million samples: of a table in several row groups, one had no hit."""
    parts = [pl.DataFrame({"width": width, "height": width}) for width in ([8, 9], [100, 100], [8])]
    table = pl.concat(parts, rechunk=False).select(pl.Series("at", range(5)), "width", "height")
    hits = table.filter(pl.Series([True] * 5)).filter(pl.col("width") < 16)
    assert 0 in [len(chunk) for chunk in hits["width"].get_chunks()]
    assert hits.select(filled("{} x {} pixels", "width", "height")).to_series().to_list() == [
        "8 x 8 pixels",
        "9 x 9 pixels",
        "8 x 8 pixels",
    ]


@given(
    st.lists(
        st.tuples(st.text(max_size=4), st.one_of(st.none(), st.integers(-9, 9)), st.floats(-99, 99, width=32)),
        min_size=1,
        max_size=5,
    )
)
def test_as_format(rows: list[tuple[str, int | None, float]]) -> None:
    table = pl.DataFrame(rows, schema={"s": pl.String, "n": pl.Int64, "c": pl.Float32}, orient="row")
    template, values = "a {} b {}{} z", ("s", "n", pl.col("c").round(2))
    expected = table.select(pl.format(template, *values))  # noqa: TID251
    assert table.select(filled(template, *values)).to_series().to_list() == expected.to_series().to_list()
