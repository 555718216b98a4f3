"""Runs suites with Great Expectations: an in-memory context, no telemetry, nothing written."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import Any

from fusion.data.validation.suites import Suite

_SHOWN = 5


def run_suites(suites: Iterable[Suite]) -> list[dict[str, Any]]:
    """One plain result an expectation: suite, expectation, arguments, severity, why, success, counts, examples.

    An expectation that cannot be evaluated counts as failed and says so in `error`. No times or versions are in the
    results: equal data gives equal bytes.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations import expectations as classes
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    source = context.data_sources.add_pandas("manifest")
    results: list[dict[str, Any]] = []
    for suite in suites:
        asset = source.add_dataframe_asset(suite.name)
        batch = asset.add_batch_definition_whole_dataframe("whole").get_batch({"dataframe": suite.table.to_pandas()})
        wanted = [getattr(classes, item.kind)(**item.arguments, severity=item.severity) for item in suite.expectations]
        # Validated one by one: the engine returns a suite's results in an order of its own.
        for item, expectation in zip(suite.expectations, wanted, strict=True):
            outcome = batch.validate(expectation).to_json_dict()
            results.append(
                {
                    "arguments": {key: value for key, value in item.arguments.items() if value is not None},
                    "expectation": item.kind,
                    "rows": len(suite.table),
                    "severity": item.severity,
                    "success": bool(outcome["success"]),
                    "suite": suite.name,
                    "why": item.why,
                    **_details(outcome),
                }
            )
    return results


def _details(outcome: dict[str, Any]) -> dict[str, Any]:
    result = outcome.get("result") or {}
    details: dict[str, Any] = {}
    if not outcome["success"]:
        details["unexpected"] = int(result.get("unexpected_count") or 0)
        details["examples"] = [_plain(value) for value in (result.get("partial_unexpected_list") or [])[:_SHOWN]]
    exception = outcome.get("exception_info") or {}
    messages = [exception] if "raised_exception" in exception else list(exception.values())
    raised = [
        str(item.get("exception_message"))
        for item in messages
        if isinstance(item, dict) and item.get("raised_exception")
    ]
    if raised:
        details["error"] = raised[0][:500]
    return details


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else round(value, 6)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, bool, type(None))) else str(value)
