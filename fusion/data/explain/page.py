"""The page of examples: for each reason dropped samples, and beside them the kept ones nearest to the threshold.

One HTML file that opens offline, to judge a threshold by eye. The dropped ones are drawn by the seed of params.yaml,
never chosen. The same inputs give the same page.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fusion.data.explain.border import Border, Close
from fusion.data.explain.cards import Card, Cards, shorten
from fusion.data.explain.near import MAX_COLOUR_DIFFERENCE
from fusion.data.explain.outputs import Outputs
from fusion.data.explain.rules import RULES, Rule, rule_of
from fusion.data.explain.steps import other_sample

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog
    from fusion.settings import Settings

_KEPT_WITH = {"below": "at least", "above": "at most", "up to": "more than", "from": "less than", "any": "fewer than"}


@dataclass(frozen=True)
class Section:
    """One reason. `limits`: the threshold of each profile in use, as text; `rule` None for one that is not measured."""

    block: str
    reason: str
    count: int
    rule: Rule | None
    limits: list[str]
    dropped: list[Card]
    kept: list[Card]


def write_examples(
    settings: Settings, catalog: Catalog, dataset: str, out: Path | None, count: int, root: Path = Path(".")
) -> Path:
    """Writes the page and returns its path: `out`, or reports/curation/<dataset>.html.

    Args:
        count: dropped samples a reason, and kept ones beside them.

    Raises:
        DataError: the data set was not curated, or a shard or benchmark is missing; the message says what to run.
    """
    from jinja2 import Environment, PackageLoader

    outputs = Outputs(root, dataset, catalog.dataset(dataset))
    border = Border(settings, outputs, count)
    listed = sections(settings, outputs, border.nearest(), count)
    environment = Environment(
        loader=PackageLoader("fusion.data.explain", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("page.html").render(
        dataset=dataset,
        title=outputs.entry.title,
        summary=outputs.summary,
        sections=listed,
        seed=settings.run.seed,
        count=count,
        looked_at=border.looked_at,
        all=border.all,
    )
    path = out or root / "reports/curation" / f"{dataset}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def sections(settings: Settings, outputs: Outputs, nearest: dict[str, list[Close]], count: int) -> list[Section]:
    """The reasons in the order of the blocks: those that dropped something, and those whose threshold is not far."""
    groups = {
        (block, reason): number
        for block, reason, number in outputs.ledger.group_by("block", "reason").len().iter_rows()
    }
    graded = {(rule.block, rule.reason): 0 for rule in RULES if rule.graded and nearest.get(rule.reason)}
    order = {block: at for at, block in enumerate(outputs.blocks)}
    listed = sorted(((*key, groups.get(key, 0)) for key in graded | groups), key=lambda row: (order[row[0]], *row))
    drawn = {(block, reason): _drawn(settings, outputs, block, reason, count) for block, reason, _ in listed}
    wanted = {row["sample_id"] for rows in drawn.values() for row in rows}
    wanted |= {other for rows in drawn.values() for row in rows if (other := _twin(row))}
    for block, reason, _ in listed:
        if (rule := rule_of(block, reason)) and rule.graded:
            wanted |= {close.sample_id for close in nearest.get(reason, [])}
            wanted |= {close.other for close in nearest.get(reason, []) if _is_sample(outputs, close.other)}
    cards = Cards(outputs)
    found = cards.read(wanted)
    result = []
    for block, reason, number in listed:
        rule = rule_of(block, reason)
        limits = _limits(settings, outputs, rule)
        dropped = []
        for row in drawn[block, reason]:
            name = _twin(row)
            twin = found[name] if name else cards.benchmark(row["evidence"])
            said = row["evidence"].replace(name, "the one beside it") if name else row["evidence"]
            dropped.append(replace(found[row["sample_id"]], told=shorten(said), twin=twin))
        kept = [
            _near(found, cards, outputs, rule, close)
            for close in (nearest.get(reason, []) if rule and rule.graded else [])
        ]
        result.append(Section(block, reason, number, rule, limits, dropped, kept))
    return result


def _drawn(settings: Settings, outputs: Outputs, block: str, reason: str, count: int) -> list[dict[str, Any]]:
    rows = outputs.ledger.filter((pl.col("block") == block) & (pl.col("reason") == reason)).sort("sample_id")
    chosen = rows.sample(min(count, len(rows)), seed=settings.run.seed, shuffle=True)
    return chosen.with_columns(pl.col("evidence").fill_null("")).to_dicts()


def _twin(row: dict[str, Any]) -> str | None:
    return other_sample(row["evidence"], row["sample_id"])


def _is_sample(outputs: Outputs, name: str | None) -> bool:
    return name is not None and name.startswith(f"{outputs.dataset}/")


def _near(found: dict[str, Card], cards: Cards, outputs: Outputs, rule: Rule | None, close: Close) -> Card:
    assert rule is not None
    value = f"{close.measured:.4g}"
    unit = f"words in a row with {close.other}" if rule.reason == "benchmark-text" else rule.unit
    colours = ""
    if close.colours is not None and close.colours > MAX_COLOUR_DIFFERENCE:
        colours = f", but colours {close.colours:g} apart (more than {MAX_COLOUR_DIFFERENCE:g})"
    is_sample = _is_sample(outputs, close.other)
    twin = found[close.other or ""] if is_sample else cards.benchmark(close.other or "")
    return replace(found[close.sample_id], told=f"{value} {unit}{colours}", twin=twin)


def _limits(settings: Settings, outputs: Outputs, rule: Rule | None) -> list[str]:
    """The threshold of each profile that the data set uses, in words."""
    if rule is None or rule.setting is None:
        return []
    by_profile: dict[str, list[str]] = {}
    for name, source in outputs.entry.sources.items():
        by_profile.setdefault(source.profile, []).append(name)
    told = []
    for name, sources in by_profile.items():
        profile = settings.curation.profiles[name]
        threshold = rule.threshold(profile)
        value = threshold if rule.reason == "foreign-script" else getattr(profile, rule.setting)
        if threshold is None:
            what = "off"
        elif rule.graded:
            what = f"kept with {_KEPT_WITH[rule.drops]} {value}"
        else:
            what = "on"
        told.append(f"{name}.{rule.setting}: {what} ({', '.join(sources)})")
    return told
