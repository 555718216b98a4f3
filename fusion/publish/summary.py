"""The summary in the terminal at the end of a run."""

from pathlib import Path

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from fusion.data.catalog import Catalog
from fusion.lineage.ancestry import ancestry_of
from fusion.lineage.times import stage_times
from fusion.publish.facts import STAGE_TITLES, Facts, collect_facts
from fusion.publish.text import memory, millions, percent, score, seconds, signed, thousands
from fusion.settings import Settings


def print_summary(
    settings: Settings, catalog: Catalog, variant: str, root: Path = Path("."), console: Console | None = None
) -> None:
    """Prints what was kept per data set, the scores beside the baselines, the time, and where the report is."""
    facts = collect_facts(settings, catalog, variant, root)
    times = stage_times(ancestry_of(f"package@{variant}", root), root)
    total, peak = sum(time.seconds for time in times), max((time.peak_memory_bytes for time in times), default=0)
    took = f"{seconds(total)} in {len(times)} stages, peak memory {memory(peak)}"
    lines = Text.assemble(
        (f"\n{facts.name}", "bold"), f", {millions(facts.parameters)} parameters: {took}\n",
        f"package  {root / 'packages' / variant}\n", f"report   {root / 'reports' / variant / 'report.html'}",
    )  # fmt: skip
    if console is None:
        terminal = Console()
        # In a log file there is no width to keep to: 80 columns would break every cell.
        console = terminal if terminal.is_terminal else Console(width=132)
    console.print(Group(_data(facts), _scores(facts), lines))


def _data(facts: Facts) -> Table:
    table = Table(title="Curation", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("data set", "for"):
        table.add_column(name)
    for name in ("ingested", "kept", "rejected"):
        table.add_column(name, justify="right")
    table.add_column("most frequent reasons", overflow="fold")
    for dataset in facts.datasets:
        reasons: dict[str, int] = {}
        for source in dataset.sources:
            for reason, count in source.reasons.items():
                reasons[reason] = reasons.get(reason, 0) + count
        first = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:3]
        table.add_row(
            dataset.name, ", ".join(STAGE_TITLES[stage].lower() for stage in dataset.stages),
            thousands(dataset.ingested), thousands(dataset.kept), thousands(dataset.rejected),
            ", ".join(f"{reason} {thousands(count)}" for reason, count in first) or "none",
        )  # fmt: skip
    return table


def _scores(facts: Facts) -> Table:
    title = f"\nRight answers in % ({facts.confidence:.0%} intervals), beside two blind baselines"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in ("benchmark", "questions"):
        table.add_column(name)
    for name in ("n", "trained", "grey picture", "question only", "gained by looking", facts.first_title):
        table.add_column(name, justify="right")
    for benchmark in facts.benchmarks:
        for index, group in enumerate(benchmark.groups):
            table.add_row(
                benchmark.name if index == 0 else "", group.title.lower(), thousands(group.n),
                Text(score(group.model), "bold"), percent(group.grey.accuracy), percent(group.prior.accuracy),
                signed(group.margin), percent(group.first.accuracy),
            )  # fmt: skip
    return table
