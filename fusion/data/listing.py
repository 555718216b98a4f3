"""`fusion data`: what the catalog says of its data sets, counted, and checked against what is published of them.

Published counts are whole thousands, and published shares have one or two decimals. A share disagrees when no counts
that round to the published ones give it. What the sources' categories are is not published: they were assigned here by
name, so a share may also disagree because a source belongs elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING, Any, Literal

from fusion.data.ingest.origin import Origin

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog, Dataset, Source

_HALF = Decimal("0.5")
Verdict = Literal["agrees", "within rounding", "cut off, not rounded", "disagrees"]


@dataclass(frozen=True, slots=True)
class SourceFacts:
    """One source as the catalog has it. `count` in thousands; an unknown licence, repo or revision is None."""

    name: str
    count: int | None
    category: str
    declared: str | None
    verified: str | None
    evidence: str | None
    origin: str
    file: str | None
    repo: str | None
    revision: str | None
    pinned: bool | None
    """Whether a Hub revision is pinned; None for a source that does not lie on the Hub."""
    sampling: str


@dataclass(frozen=True, slots=True)
class ShareFacts:
    """A category's samples (thousands), its share of the set in %, the published share, and how the two compare."""

    category: str
    count: int
    share: float
    published: float | None
    verdict: Verdict | None


@dataclass(frozen=True, slots=True)
class SetFacts:
    """One data set; `total` is None where a source's count is not known. `disagreements` are sentences."""

    name: str
    title: str
    stage: str
    file: str
    sources: list[SourceFacts]
    total: int | None
    shares: list[ShareFacts]
    published_source: str | None
    disagreements: list[str]
    notes: list[str]


def list_datasets(catalog: Catalog, name: str | None = None) -> list[SetFacts]:
    """The facts of `name`, or of all data sets but those that combine others; raises `CatalogError` if unknown."""
    plain = {key: entry for key, entry in catalog.datasets.items() if not entry.combines}
    chosen = plain if name is None else {name: catalog.dataset(name)}
    return [_facts(key, entry) for key, entry in chosen.items()]


def as_json(sets: list[SetFacts]) -> dict[str, Any]:
    """The same for programs, with the sums over all sets."""
    return {"datasets": [asdict(facts) for facts in sets], **totals(sets)}


def totals(sets: list[SetFacts]) -> dict[str, int]:
    """Numbers over all sets; counts in thousands."""
    sources = [source for facts in sets for source in facts.sources]
    return {
        "sources": len(sources),
        "counted_sources": sum(source.count is not None for source in sources),
        "count": sum(source.count or 0 for source in sources),
        "declared_licences": sum(source.declared is not None for source in sources),
        "verified_licences": sum(source.verified is not None for source in sources),
        "on_hub": sum(source.repo is not None for source in sources),
        "pinned": sum(source.pinned is True for source in sources),
        "disagreements": sum(len(facts.disagreements) for facts in sets),
    }


def _facts(name: str, entry: Dataset) -> SetFacts:
    sources = [_source(key, source) for key, source in entry.sources.items()]
    whole = all(source.count is not None for source in sources)
    total = sum(source.count or 0 for source in sources) if whole else None
    shares = _shares(entry, total) if total else []
    return SetFacts(
        name=name,
        title=entry.title,
        stage=entry.for_stage,
        file=entry.file,
        sources=sources,
        total=total,
        shares=shares,
        published_source=entry.published.source if entry.published else None,
        disagreements=list(_disagreements(entry, total, shares)),
        notes=list(entry.published.notes) if entry.published else [],
    )


def _source(name: str, entry: Source) -> SourceFacts:
    repo, revision = _text(entry.origin, "repo"), _text(entry.origin, "revision")
    return SourceFacts(
        name=name,
        count=entry.count,
        category=entry.category,
        declared=entry.licence.declared,
        verified=entry.licence.verified,
        evidence=entry.licence.evidence,
        origin=entry.origin.kind,
        file=_text(entry.origin, "file"),
        repo=repo,
        revision=revision,
        pinned=None if repo is None else revision is not None,
        sampling=entry.sampling,
    )


def _text(origin: Origin, key: str) -> str | None:
    value = getattr(origin, key, None)
    return value if isinstance(value, str) else None


def _shares(entry: Dataset, total: int) -> list[ShareFacts]:
    published = entry.published.shares if entry.published else {}
    counts: dict[str, list[int]] = {category: [] for category in published}
    for source in entry.sources.values():
        counts.setdefault(source.category, []).append(source.count or 0)
    made = []
    for category, parts in counts.items():
        told = published.get(category)
        verdict = None if told is None else compare(told, parts, total, len(entry.sources))
        share = round(100 * sum(parts) / total, 2)
        made.append(ShareFacts(category, sum(parts), share, told, verdict))
    return made


def compare(published: float, parts: list[int], total: int, sources: int) -> Verdict:
    """How a published share in % fits counts.

    Args:
        published: as printed; its digits tell how it was rounded.
        parts: the counts of the category's sources, each rounded to whole numbers.
        total: of all `sources` of the set.
    """
    told = Decimal(repr(published))
    step = Decimal(1).scaleb(int(told.as_tuple().exponent))
    mine, rest = Decimal(sum(parts)), Decimal(total - sum(parts))
    share = 100 * mine / total
    if share.quantize(step, ROUND_HALF_UP) == told:
        return "agrees"
    slack, slack_rest = _HALF * len(parts), _HALF * (sources - len(parts))
    low = 100 * (mine - slack) / (mine - slack + rest + slack_rest)
    high = 100 * (mine + slack) / max(mine + slack + rest - slack_rest, Decimal(1))
    if low <= told + step / 2 and told - step / 2 <= high:
        return "within rounding"
    return "cut off, not rounded" if share.quantize(step, ROUND_DOWN) == told else "disagrees"


def _disagreements(entry: Dataset, total: int | None, shares: list[ShareFacts]) -> Iterator[str]:
    told = entry.published
    if told is None:
        return
    if told.files != len(entry.sources):
        yield f"{told.files} files are published, the catalog has {len(entry.sources)} sources"
    if total is not None and told.total != total:
        yield f"a total of {told.total:,}k is published, the counts add up to {total:,}k"
    for share in shares:
        if share.verdict == "disagrees":
            yield f"{share.category}: {share.published}% is published, the counts give {share.share:.2f}%"
        elif share.verdict == "cut off, not rounded":
            yield (
                f"{share.category}: {share.published}% is published, the counts give {share.share:.2f}%; "
                "it fits when cut off instead of rounded"
            )
        elif share.published is None:
            yield f"{share.category}: no share is published, the counts give {share.share:.2f}%"
    decimals = [Decimal(repr(value)) for value in told.shares.values()]
    summed = sum(decimals, Decimal(0))
    slack = sum((Decimal(1).scaleb(int(value.as_tuple().exponent)) / 2 for value in decimals), Decimal(0))
    if abs(summed - 100) > slack:
        yield f"the published shares add up to {summed}%: more than rounding explains, whatever a source belongs to"
