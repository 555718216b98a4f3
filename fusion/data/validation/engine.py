"""Holds tables to expectations with Great Expectations: an in-memory context, no telemetry, nothing written.

A long table is looked at in parts, whose outcomes add up to that of the whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

import polars as pl

if TYPE_CHECKING:
    from fusion.data.validation.suites import Expect, Suite

_SHOWN = 5


@dataclass
class Outcome:
    """What came out for one expectation. `unexpected` rows are counted, the first of their values shown."""

    success: bool = True
    rows: int = 0
    unexpected: int = 0
    examples: list[Any] = field(default_factory=list)
    error: str | None = None

    def add(self, other: Outcome) -> None:
        """Takes in the outcome for further rows."""
        self.success &= other.success
        self.rows += other.rows
        self.unexpected += other.unexpected
        self.examples = (self.examples + other.examples)[:_SHOWN]
        self.error = self.error or other.error


def check(table: pl.DataFrame, expectations: Iterable[Expect]) -> list[Outcome]:
    """The outcome of each expectation on a table. One that cannot be evaluated has failed and says so in `error`."""
    classes, asset = _great_expectations()
    batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": table.to_pandas()})
    found = []
    # Validated one by one: the engine returns a suite's results in an order of its own.
    for item in expectations:
        expectation = getattr(classes, item.kind)(**item.arguments, severity=item.severity)
        found.append(_outcome(batch.validate(expectation).to_json_dict(), len(table)))
    asset.delete_batch_definition("whole")
    return found


def results_of(suite: str, expectations: Iterable[Expect], outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """One plain result an expectation: suite, expectation, arguments, severity, why, success, counts, examples.

    No times or versions are in the results: equal data gives equal bytes.
    """
    return [
        {
            "arguments": {key: value for key, value in item.arguments.items() if value is not None},
            "expectation": item.kind,
            "rows": outcome.rows,
            "severity": item.severity,
            "success": outcome.success,
            "suite": suite,
            "why": item.why,
            **({} if outcome.success else {"unexpected": outcome.unexpected, "examples": outcome.examples}),
            **({} if outcome.error is None else {"error": outcome.error}),
        }
        for item, outcome in zip(expectations, outcomes, strict=True)
    ]


def run_suites(suites: Iterable[Suite]) -> list[dict[str, Any]]:
    """The results of suites on small tables."""
    return [
        result
        for suite in suites
        for result in results_of(suite.name, suite.expectations, check(suite.table, suite.expectations))
    ]


@cache
def _great_expectations() -> tuple[Any, Any]:
    """The classes of expectations, and an asset to validate data frames with."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations import expectations as classes
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return classes, context.data_sources.add_pandas("curated").add_dataframe_asset("table")


def _outcome(found: dict[str, Any], rows: int) -> Outcome:
    result = found.get("result") or {}
    exception = found.get("exception_info") or {}
    messages = [exception] if "raised_exception" in exception else list(exception.values())
    raised = [
        str(item.get("exception_message"))
        for item in messages
        if isinstance(item, dict) and item.get("raised_exception")
    ]
    return Outcome(
        success=bool(found["success"]),
        rows=rows,
        unexpected=int(result.get("unexpected_count") or 0),
        examples=[_plain(value) for value in (result.get("partial_unexpected_list") or [])[:_SHOWN]],
        error=raised[0][:500] if raised else None,
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
