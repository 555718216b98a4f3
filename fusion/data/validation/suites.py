"""The suites as code: what must hold (critical: the stage fails) and what is only reported (warning)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from fusion.data.validation.tables import Curated

if TYPE_CHECKING:
    from fusion.data.catalog import Source


@dataclass(frozen=True)
class Expect:
    """One expectation: its class in Great Expectations, its arguments, its severity, and why it is there.

    `over`: which table of a source it is held to, "rows" in parts or "repeated" (see Curated).
    """

    kind: str
    arguments: dict[str, Any]
    why: str
    severity: str = "critical"
    over: str = "rows"


@dataclass(frozen=True)
class Suite:
    """Expectations on one table."""

    name: str
    table: pl.DataFrame
    expectations: list[Expect] = field(default_factory=list)


def _between(
    column: str, why: str, low: float | None = None, high: float | None = None, severity: str = "critical"
) -> Expect:
    return Expect(
        "ExpectColumnValuesToBeBetween", {"column": column, "min_value": low, "max_value": high}, why, severity
    )


def _known(column: str, values: list[Any], why: str) -> Expect:
    return Expect("ExpectColumnValuesToBeInSet", {"column": column, "value_set": values}, why)


def _filled(column: str, why: str, severity: str = "critical") -> Expect:
    return Expect("ExpectColumnValuesToNotBeNull", {"column": column}, why, severity)


def _matches(column: str, regex: str, why: str) -> Expect:
    return Expect("ExpectColumnValuesToMatchRegex", {"column": column, "regex": regex}, why)


def suites(curated: Curated) -> Iterator[Suite]:
    """The suites on small tables: of the columns, the totals, the data set and its categories."""
    equal = {"column_A": "type", "column_B": "expected"}
    yield Suite(
        "manifest columns", curated.schema(), [Expect("ExpectColumnPairValuesToBeEqual", equal, "read by name")]
    )
    yield _totals(curated)
    yield _whole(curated)
    if curated.entry.expect.category_shares:
        yield _categories(curated)


def _totals(curated: Curated) -> Suite:
    nothing = ("not_accounted_for", "kept_but_not_in_manifest", "rejected_but_not_in_ledger", "without_reason")
    rules = [_between(column, "kept + rejected = ingested, and each is written down", 0, 0) for column in nothing]
    names = list(curated.entry.sources)
    rules += [
        _known("source", names, "a source that the catalog does not know"),
        _between("kept", "a source of which nothing is left is a mistake", 1),
        _between("kept_share", "most of a source went: look at the ledger", 0.25, 1, "warning"),
        _between("catalog_count_ratio", "as many as the catalog says (in thousands)", 0.9, 1.1, "warning"),
    ]
    return Suite("sources", curated.totals(), rules)


def _whole(curated: Curated) -> Suite:
    share = curated.entry.expect.min_kept_share
    return Suite(
        "data set",
        curated.whole(),
        [
            _between("kept_share", "the catalog's min_kept_share", share, 1),
            _between("not_accounted_for", "kept + rejected = ingested", 0, 0),
            _between("kept_and_rejected", "no sample is both", 0, 0),
            _between("rejected_twice", "no sample is rejected twice", 0, 0),
            _between("reasons_missing", "every reject says who, why and what shows it", 0, 0),
            _between("licences_not_verified", "sources whose licence nobody has verified", 0, 0, "warning"),
        ],
    )


def _categories(curated: Curated) -> Suite:
    rules = []
    for name, (low, high) in curated.entry.expect.category_shares.items():
        arguments = {"column": "share", "min_value": low, "max_value": high}
        condition = {"row_condition": f'category == "{name}"', "condition_parser": "pandas"}
        rules.append(
            Expect(
                "ExpectColumnValuesToBeBetween", {**arguments, **condition}, f"share of {name} as the catalog bounds it"
            )
        )
    return Suite("categories", curated.categories(), rules)


def of_source(curated: Curated, name: str, source: Source) -> list[Expect]:
    """The expectations on the manifest's rows of one source."""
    rules = [
        _filled("sample_id", "the key of everything"),
        Expect("ExpectColumnValuesToBeUnique", {"column": "sample_id"}, "the key of everything", over="repeated"),
        _matches(
            "sample_id",
            f"^{re.escape(curated.name)}/{re.escape(name)}/[0-9]{{8,}}$",
            "an id says where its sample is from",
        ),
        _matches(
            "shard",
            rf"^data/shards/{re.escape(curated.name)}/{re.escape(name)}/[0-9]{{6}}\.tar$",
            "where the sample lies",
        ),
        _between("record_offset", "a position in the shard", 512),
        _between("record_size", "a record has bytes", 2),
        _matches("sha256", "^[0-9a-f]{64}$", "identity of the record"),
        _between("turns", "a conversation has a question", 1),
        _between("answer_chars", "an answer says something", 1),
        _between("draws", "a kept sample is drawn", 1),
        _between("width", "a picture has pixels", 1),
        _between("height", "a picture has pixels", 1),
        _known("image", ["all", "none"], "a picture is measured whole or not there"),
        _known("category", [source.category], "as the catalog says"),
        _filled("licence_declared", "a licence that the source does not even declare", "warning"),
        _filled("licence_verified", "a licence that nobody has verified", "warning"),
    ]
    for key in sorted(curated.entry.tokenizers):
        rules += [_between(f"{kind}_tokens_{key}", "tokens were counted", 1) for kind in ("text", "instruct")]
    for column, value in (("licence_declared", source.licence.declared), ("licence_verified", source.licence.verified)):
        if value is not None:
            rules.append(_known(column, [value], "as the catalog says"))
    return rules
