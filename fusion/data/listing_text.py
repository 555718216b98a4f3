"""`fusion data` in the terminal: readable at 100 columns."""

import json as json_format
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fusion.data.catalog import load_catalog
from fusion.data.listing import SetFacts, SourceFacts, as_json, list_datasets, totals

WIDTH = 100
_UNKNOWN = "unknown"


def show_datasets(name: str | None, *, json: bool, root: Path = Path(".")) -> None:
    """Prints the data sets of the catalog, or the set `name`, as tables or JSON."""
    sets = list_datasets(load_catalog(root / "data/catalog"), name)
    if json:
        print(json_format.dumps(as_json(sets), indent=1, ensure_ascii=False))
    else:
        print_datasets(sets)


def print_datasets(sets: list[SetFacts], console: Console | None = None) -> None:
    """Prints each set with its sources, shares and disagreements, and the sums at the end."""
    if console is None:
        terminal = Console()
        # In a pipe there is no width to keep to, and 80 columns would break cells.
        console = terminal if terminal.is_terminal else Console(width=WIDTH)
    for facts in sets:
        _print_set(facts, console)
    summed = totals(sets)
    lines = [
        f"data sets: {len(sets)}, sources: {summed['sources']}",
        f"samples: {summed['count']:,}k in the {summed['counted_sources']} sources that state a count",
        f"licences: {summed['declared_licences']} declared, {summed['verified_licences']} verified by somebody",
        f"on the Hub: {summed['on_hub']} sources, {summed['pinned']} of them at a pinned revision",
        f"disagreements with what is published: {summed['disagreements']}",
    ]
    _say(console, *lines)


def _print_set(facts: SetFacts, console: Console) -> None:
    total = "count not stated" if facts.total is None else f"{facts.total:,}k"
    _say(console, f"{facts.name}: {facts.title}, for {facts.stage} ({len(facts.sources)} sources, {total})")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("source", "count", "category", "declared", "verified", "origin", "revision"):
        table.add_column(column, justify="right" if column == "count" else "left", no_wrap=column != "source")
    for source in facts.sources:
        table.add_row(
            source.name,
            "-" if source.count is None else f"{source.count:,}k",
            source.category,
            source.declared or _UNKNOWN,
            source.verified or _UNKNOWN,
            source.origin,
            _revision(source),
        )
    console.print(table)
    repos = sorted({source.repo for source in facts.sources if source.repo})
    if repos:
        _say(console, f"Hub: {', '.join(repos)}")
    if facts.shares:
        _print_shares(facts, console)
    for line in facts.disagreements:
        _say(console, f"disagrees: {line}")
    for line in facts.notes:
        _say(console, f"note: {line}")
    console.print()


def _print_shares(facts: SetFacts, console: Console) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("category", "count", "share", "published", ""):
        table.add_column(column, justify="left" if column in ("category", "") else "right", no_wrap=True)
    for share in facts.shares:
        told = "-" if share.published is None else f"{share.published}%"
        table.add_row(share.category, f"{share.count:,}k", f"{share.share:.2f}%", told, share.verdict or "")
    summed = sum(share.published or 0 for share in facts.shares)
    told = f"{summed:.2f}%" if facts.published_source else "-"
    table.add_row("all", f"{facts.total:,}k", "100.00%", told, "")
    console.print()
    console.print(table)
    if facts.published_source:
        _say(console, f"Published: {facts.published_source}; the categories of the sources were assigned here.")


def _revision(source: SourceFacts) -> str:
    if source.pinned is None:
        return "-"
    return (source.revision or "")[:12] if source.pinned else "not pinned"


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False)
