"""How near one sample comes to another, or to a benchmark: what the rules about pairs measure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from fusion.data.benchmarks import read_benchmark
from fusion.data.curate.hamming import colour_difference
from fusion.data.curate.minhash import GRAM, word_grams
from fusion.data.curate.near_pictures import MAX_COLOUR_DIFFERENCE, MIN_QUALITY
from fusion.data.explain.outputs import Outputs, messages_of
from fusion.data.explain.rules import sharing
from fusion.data.store.filled import filled

if TYPE_CHECKING:
    from fusion.settings import Settings

MOST_TEXTS = 200_000
"""Texts that one is compared with at most; beyond that the similarity of a kept sample is not told."""
_MOST_PICTURES = 500_000
_HASHED = ("sample_id", "source", "image_sha256", "pdq", "pdq_quality", "colours")

Row = dict[str, Any]


class Near(NamedTuple):
    """The nearest `other`: `measured` in bits, or as a share; `colours` 0-255 is the pictures' difference in colour."""

    measured: float
    other: str
    colours: float | None = None


def gap(first: Row, second: Row) -> tuple[int, float]:
    """Differing bits of the two pictures' hashes, and their difference in colour, 0-255."""
    bits = int.from_bytes(first["pdq"], "big") ^ int.from_bytes(second["pdq"], "big")
    return bits.bit_count(), colour_difference(first["colours"], second["colours"])


def nearest_picture(outputs: Outputs, row: Row, sources: list[str]) -> Near | None:
    """The nearest picture that is kept, stands before `row` in the data set and has similar colours.

    None where the picture has too little detail for a hash, or nothing comes before it.
    """
    if row["pdq"] is None or row["pdq_quality"] < MIN_QUALITY:
        return None
    best: Near | None = None
    for source in _until(outputs, row["source"]):
        if source not in sources:
            continue
        kept = outputs.manifest().filter(pl.col("source") == source).select(*_HASHED, "row")
        if source == row["source"]:
            kept = kept.filter(pl.col("row") < row["row"])
        start = 0
        while len(part := kept.slice(start, _MOST_PICTURES).collect()):
            start += _MOST_PICTURES
            part = part.filter((pl.col("pdq_quality") >= MIN_QUALITY) & (pl.col("image_sha256") != row["image_sha256"]))
            best = _nearer(best, _nearest(row, part, "sample_id"))
    return best


def nearest_benchmark_picture(outputs: Outputs, row: Row) -> Near | None:
    """The nearest picture of the benchmarks that the data set is kept clear of, of similar colours."""
    if row["pdq"] is None or row["pdq_quality"] < MIN_QUALITY:
        return None
    best: Near | None = None
    for name in outputs.entry.contamination:
        _, images = read_benchmark(name, outputs.root)
        images = images.filter(pl.col("pdq_quality") >= MIN_QUALITY)
        told = images.with_columns(place=filled("{} of benchmark {}", "image_id", pl.lit(name)))
        best = _nearer(best, _nearest(row, told, "place"))
    return best


def benchmark_runs(outputs: Outputs, text: str, size: int) -> Near:
    """Runs of `size` words of `text` that also stand in a benchmark: of the benchmark with most of them."""
    grams = word_grams(pl.Series([text]), size)[0]
    best = Near(0, "")
    for name in outputs.entry.contamination:
        known = benchmark_grams(outputs, name, size)
        best = max(best, Near(int(np.isin(grams, known).sum()), f"benchmark {name}"), key=lambda near: near.measured)
    return best


def benchmark_grams(outputs: Outputs, name: str, size: int) -> npt.NDArray[np.uint64]:
    """The distinct word n-grams of a benchmark's questions with their answers."""
    questions, _ = read_benchmark(name, outputs.root)
    both = questions.select(text=filled("{} {}", "question", "answer"))["text"].unique(maintain_order=True)
    return np.unique(word_grams(both, size)[0])


def nearest_text(outputs: Outputs, row: Row, text: str, sources: list[str]) -> Near | None:
    """The most similar answers of a sample that is kept and stands before `row`; None where there are too many.

    Also None where the text has too few words.
    """
    mine = word_grams(pl.Series([text]), GRAM)[0]
    if not len(mine):
        return None
    best: Near | None = None
    seen = 0
    for source in _until(outputs, row["source"]):
        if source not in sources:
            continue
        kept = outputs.manifest().filter(pl.col("source") == source).select("row", "sample_id").collect()
        if source == row["source"]:
            kept = kept.filter(pl.col("row") < row["row"])
        seen += len(kept)
        if seen > MOST_TEXTS:
            return None
        texts = answers(outputs, source, kept)
        grams, offsets = word_grams(texts["text"], GRAM)
        hits = np.concatenate([[0], np.cumsum(np.isin(grams, mine))])
        common = hits[offsets[1:]] - hits[offsets[:-1]]
        shares = common / np.maximum(np.diff(offsets) + len(mine) - common, 1)
        if len(shares):
            at = int(np.argmax(shares))
            near = Near(float(shares[at]), texts["sample_id"][at])
            best = near if best is None or near.measured > best.measured else best
    return best


def answers(outputs: Outputs, source: str, kept: pl.DataFrame, *, questions: bool = False) -> pl.DataFrame:
    """The answers of the samples `kept` (`row`, `sample_id`) of a source as one text each: `sample_id`, `text`.

    With `questions`, all that is said.
    """
    raw = outputs.raw(source).select("row", "conversations").collect()
    return (
        kept.join(raw, on="row", maintain_order="left")
        .explode("conversations")
        .unnest("conversations")
        .filter((pl.col("from") == "gpt") | pl.lit(questions))
        .group_by("sample_id", maintain_order=True)
        .agg(text=pl.col("value").str.join(" "))
    )


def shared_counts(outputs: Outputs, source: str) -> pl.DataFrame:
    """How many pictures of a source share an answer, among the samples that the text block saw: see `sharing`."""
    blocks = outputs.blocks
    earlier = blocks[: blocks.index("text")] if "text" in blocks else blocks
    gone = outputs.ledger.filter(pl.col("block").is_in(earlier)).select("sample_id")
    there = outputs.index(source).select("sample_id", "row", "image_sha256")
    seen = there.join(gone.lazy(), on="sample_id", how="anti")
    raw = outputs.raw(source).select("row", "conversations")
    return sharing(messages_of(seen.join(raw, on="row")), "sample_id")


def sources_with(settings: Settings, outputs: Outputs, setting: str) -> list[str]:
    """The sources of the data set whose profile switches `setting` on."""
    profiles, sources = settings.curation.profiles, outputs.entry.sources.items()
    return [name for name, source in sources if getattr(profiles[source.profile], setting) is not None]


def _until(outputs: Outputs, source: str) -> list[str]:
    return outputs.sources[: outputs.sources.index(source) + 1]


def _nearest(row: Row, others: pl.DataFrame, name: str) -> Near | None:
    if others.is_empty():
        return None
    hashes = np.frombuffer(b"".join(others["pdq"].to_list()), dtype=np.uint8).reshape(-1, 32)
    colours = np.frombuffer(b"".join(others["colours"].to_list()), dtype=np.uint8).reshape(len(others), -1)
    bits = np.bitwise_count(hashes ^ np.frombuffer(row["pdq"], dtype=np.uint8)).sum(axis=1, dtype=np.int64)
    apart = np.abs(colours.astype(np.int16) - np.frombuffer(row["colours"], dtype=np.uint8)).mean(axis=1)
    bits[apart > MAX_COLOUR_DIFFERENCE] = np.iinfo(np.int64).max
    at = int(np.argmin(bits))
    if apart[at] > MAX_COLOUR_DIFFERENCE:
        return None
    return Near(int(bits[at]), others[name][at], round(float(apart[at]), 2))


def _nearer(first: Near | None, second: Near | None) -> Near | None:
    if first is None or second is None:
        return first or second
    return min(first, second, key=lambda near: near.measured)
