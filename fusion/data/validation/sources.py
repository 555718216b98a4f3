"""The suites on the manifest's rows, source by source: parts of bounded size, in processes, added up."""

from __future__ import annotations

from typing import Any

from fusion.data.store.workers import Workers
from fusion.data.validation.engine import Outcome, check, results_of
from fusion.data.validation.suites import of_source
from fusion.data.validation.tables import Curated

PART_ROWS = 200_000


def run_sources(curated: Curated, workers: Workers) -> list[dict[str, Any]]:
    """The results of all sources, in the catalog's order."""
    tasks = [
        (curated, source, part)
        for source in curated.entry.sources
        for part in range(max(1, -(-curated.extent(source) // PART_ROWS)))
    ]
    sizes = [min(PART_ROWS, curated.extent(source) - part * PART_ROWS) for _, source, part in tasks]
    found: dict[str, list[Outcome]] = {}
    for (_, source, _), outcomes in zip(tasks, workers.map("sources", _check, tasks, sizes), strict=True):
        if source not in found:
            found[source] = outcomes
            continue
        for whole, more in zip(found[source], outcomes, strict=True):
            whole.add(more)
    return [
        result
        for name, source in curated.entry.sources.items()
        for result in results_of(f"source {name}", of_source(curated, name, source), found[name])
    ]


def _check(curated: Curated, source: str, part: int) -> list[Outcome]:
    """The outcomes for one part of a source; what looks at all rows at once comes with the first."""
    table = curated.source(source, part * PART_ROWS, PART_ROWS)
    expectations = of_source(curated, source, curated.entry.sources[source])
    found = dict(enumerate(check(table, [item for item in expectations if item.over == "rows"])))
    outcomes, places = [], iter(range(len(found)))
    repeated = curated.repeated(source) if part == 0 else None
    for item in expectations:
        if item.over == "rows":
            outcomes.append(found[next(places)])
        elif repeated is None:
            outcomes.append(Outcome(rows=len(table)))
        else:
            (outcome,) = check(repeated, [item])
            outcome.rows = len(table)
            outcomes.append(outcome)
    return outcomes
