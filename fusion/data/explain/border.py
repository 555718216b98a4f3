"""Kept samples that come nearest to a threshold: what a stricter one would take next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from fusion.data.benchmarks import read_benchmark
from fusion.data.curate.hamming import near_pairs
from fusion.data.curate.minhash import similar_pairs, word_grams
from fusion.data.curate.near_pictures import MAX_COLOUR_DIFFERENCE, MIN_QUALITY
from fusion.data.explain.near import Row, answers, benchmark_grams, gap, shared_counts, sources_with
from fusion.data.explain.outputs import Outputs, messages_of
from fusion.data.explain.rules import Rule, image_measures, rules_of, text_measures

if TYPE_CHECKING:
    from fusion.settings import Settings

MOST = 50_000
"""Kept samples that are looked at; of a larger set a seeded choice."""
_BITS_BEYOND = 6
_SIMILARITY_BELOW = 0.25
_FEWEST_WORDS = 5
_COLUMNS = (
    "sample_id", "source", "row", "image_sha256", "pdq", "pdq_quality", "colours", "width", "height", "contrast",
)  # fmt: skip


class Close(NamedTuple):
    """A kept sample, its distance from the threshold as a share of it, and the `other` that it comes near to.

    `other`: a sample's id, or "IMAGE of benchmark NAME". `colours`: difference in colour of the two pictures, 0-255.
    """

    excess: float
    sample_id: str
    measured: float
    other: str | None = None
    colours: float | None = None


class Border:
    """The kept samples nearest to each threshold of one data set, `count` for each rule."""

    def __init__(self, settings: Settings, outputs: Outputs, count: int) -> None:
        self._settings = settings
        self._outputs = outputs
        self._count = count
        profiles = settings.curation.profiles
        self._profiles = {name: profiles[source.profile] for name, source in outputs.entry.sources.items()}
        names = outputs.manifest().select("sample_id").collect()
        self.all = len(names)
        chosen = names.sample(MOST, seed=settings.run.seed) if len(names) > MOST else names
        kept = outputs.manifest().select(_COLUMNS)
        self._kept = kept.join(chosen.lazy(), on="sample_id", how="semi", maintain_order="left").collect()

    @property
    def looked_at(self) -> int:
        """How many kept samples are looked at."""
        return len(self._kept)

    def nearest(self) -> dict[str, list[Close]]:
        """By reason, nearest first; rules that no profile switches on, or that are not graded, are left out."""
        found: dict[str, list[Close]] = {}
        # Each picture once, though several samples may share it.
        shown = self._kept.drop_nulls("image_sha256").unique("image_sha256", keep="first", maintain_order=True)
        pictures = shown.select("sample_id", "source", *image_measures())
        for rule in rules_of("image"):
            found[rule.reason] = self._by_measure(rule, pictures)
        texts = list(self._texts())
        for rule in rules_of("text"):
            if rule.reason == "shared-text":
                found[rule.reason] = self._by_measure(rule, self._shared())
            elif rule.graded and texts:
                found[rule.reason] = self._by_measure(rule, pl.concat(texts, how="vertical_relaxed"))
        found["similar-picture"] = self._pairs_of_pictures()
        found["near-benchmark-picture"] = self._benchmark_pictures()
        found["similar-text"] = self._pairs_of_texts()
        found["benchmark-text"] = self._benchmark_texts()
        return {reason: _least(close, self._count) for reason, close in found.items()}

    def _by_measure(self, rule: Rule, measured: pl.DataFrame) -> list[Close]:
        """Of a frame with `sample_id`, `source` and a column named by the rule's reason."""
        limits = {name: rule.threshold(profile) for name, profile in self._profiles.items()}
        on = {name: float(value) for name, value in limits.items() if value is not None}
        if not on or rule.reason not in measured.columns:
            return []
        value, limit = pl.col(rule.reason).cast(pl.Float64), pl.col("source").replace_strict(on, default=None)
        frame = measured.select("sample_id", "source", value=value).with_columns(limit=limit.cast(pl.Float64))
        excess = (pl.col("value") - pl.col("limit")).abs() / pl.col("limit").clip(lower_bound=1e-9)
        frame = frame.with_columns(excess=excess).drop_nulls()
        rows = frame.bottom_k(self._count, by=["excess", "sample_id"]).select("excess", "sample_id", "value")
        return [Close(*row) for row in rows.iter_rows()]

    def _texts(self) -> Iterator[pl.DataFrame]:
        for source, profile in self._profiles.items():
            mine = self._kept.lazy().filter(pl.col("source") == source).select("sample_id", "source", "row")
            raw = self._outputs.raw(source).select("row", "conversations")
            frame = messages_of(mine.join(raw, on="row", maintain_order="left"))
            if len(frame):
                measured = text_measures(frame, "sample_id", list(profile.scripts or []) or None)
                yield measured.with_columns(source=pl.lit(source))

    def _shared(self) -> pl.DataFrame:
        kept = self._kept.select("sample_id", "source")
        counts = [
            shared_counts(self._outputs, source)
            for source, profile in self._profiles.items()
            if profile.max_same_text is not None
        ]
        if not counts:
            return kept
        return kept.join(pl.concat(counts), on="sample_id", how="inner", maintain_order="left")

    def _hashed(self) -> pl.DataFrame:
        on = pl.col("source").is_in(sources_with(self._settings, self._outputs, "image_distance"))
        return self._kept.filter(on & (pl.col("pdq_quality") >= MIN_QUALITY))

    def _limit(self, source: str) -> int:
        return self._profiles[source].image_distance or 0

    def _pairs_of_pictures(self) -> list[Close]:
        shown = self._hashed().unique("image_sha256", keep="first", maintain_order=True)
        rows = shown.to_dicts()
        return [
            close
            for first, second in self._near(shown, shown)
            if first < second and (close := self._close(rows[second], rows[first], rows[first]["sample_id"]))
        ]

    def _benchmark_pictures(self) -> list[Close]:
        shown, found = self._hashed(), []
        rows = shown.to_dicts()
        for name in self._outputs.entry.contamination:
            images = read_benchmark(name, self._outputs.root)[1].filter(pl.col("pdq_quality") >= MIN_QUALITY)
            theirs = images.to_dicts()
            for mine, other in self._near(shown, images):
                told = f"{theirs[other]['image_id']} of benchmark {name}"
                if close := self._close(rows[mine], theirs[other], told):
                    found.append(close)
        return found

    def _near(self, first: pl.DataFrame, second: pl.DataFrame) -> list[tuple[int, int]]:
        if first.is_empty() or second.is_empty():
            return []
        hashes = [
            np.frombuffer(b"".join(frame["pdq"].to_list()), dtype=np.uint8).reshape(-1, 32) for frame in (first, second)
        ]
        beyond = max(map(self._limit, first["source"].unique().to_list())) + _BITS_BEYOND
        return [(one, other) for one, other in near_pairs(hashes[0], hashes[1], beyond).tolist()]

    def _close(self, row: Row, other: Row, told: str) -> Close | None:
        """A pair that is kept apart by its bits or by its colours, and how far beyond the threshold that is."""
        bits, colours = gap(row, other)
        limit = self._limit(row["source"])
        apart = max((bits - limit) / max(limit, 1), (colours - MAX_COLOUR_DIFFERENCE) / MAX_COLOUR_DIFFERENCE)
        return Close(apart, row["sample_id"], bits, told, round(colours, 1)) if apart > 0 else None

    def _answers(self, setting: str, *, questions: bool = False) -> pl.DataFrame:
        parts = [
            answers(
                self._outputs,
                source,
                self._kept.filter(pl.col("source") == source).select("row", "sample_id"),
                questions=questions,
            )
            for source in sources_with(self._settings, self._outputs, setting)
        ]
        return pl.concat(parts) if parts else pl.DataFrame(schema={"sample_id": pl.String, "text": pl.String})

    def _pairs_of_texts(self) -> list[Close]:
        texts = self._answers("text_similarity")
        if texts.is_empty():
            return []
        limits = [self._profiles[name.split("/")[1]].text_similarity or 1.0 for name in texts["sample_id"].to_list()]
        pairs = similar_pairs(texts["text"], max(min(limits) - _SIMILARITY_BELOW, 0.0))
        names = texts["sample_id"].to_list()
        return [
            Close((limits[later] - share) / limits[later], names[later], round(share, 2), names[earlier])
            for earlier, later, share in pairs
            if share < limits[later]
        ]

    def _benchmark_texts(self) -> list[Close]:
        """Samples by the longest run of words that they share with a benchmark, shorter than the forbidden one."""
        texts = self._answers("contamination_words", questions=True)
        if texts.is_empty():
            return []
        limits = {name: profile.contamination_words or 0 for name, profile in self._profiles.items()}
        found: dict[str, Close] = {}
        for size in range(max(limits.values()) - 1, _FEWEST_WORDS - 1, -1):
            grams, offsets = word_grams(texts["text"], size)
            for name in self._outputs.entry.contamination:
                known = benchmark_grams(self._outputs, name, size)
                hits = np.concatenate([[0], np.cumsum(np.isin(grams, known))])
                for at in np.flatnonzero(hits[offsets[1:]] > hits[offsets[:-1]]).tolist():
                    sample = texts["sample_id"][at]
                    limit = limits[sample.split("/")[1]]
                    if sample not in found and size < limit:
                        found[sample] = Close((limit - size) / limit, sample, size, f"benchmark {name}")
            if len(found) >= self._count:
                break
        return list(found.values())


def _least(found: list[Close], count: int) -> list[Close]:
    """The nearest, each sample once."""
    first: dict[str, Close] = {}
    for close in sorted(found, key=lambda close: (close.excess, close.sample_id, close.other or "")):
        first.setdefault(close.sample_id, close)
    return list(first.values())[:count]
