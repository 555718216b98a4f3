"""Samples that hold what the model will be examined with: a benchmark's picture, or a long run of its words."""

from typing import ClassVar

import numpy as np
import polars as pl

from fusion.data.benchmarks import read_benchmark
from fusion.data.curate.base import AT, REJECTS, Block, Samples, no_rejects
from fusion.data.curate.blocks.near_duplicates import MAX_COLOUR_DIFFERENCE, MIN_QUALITY
from fusion.data.curate.hamming import colour_difference, near_pairs
from fusion.data.curate.minhash import word_grams


class Contamination(Block):
    """Against every benchmark that the data set names.

    The same picture, byte for byte, is dropped whatever the profile; near pictures where it sets `image_distance`; runs
    of `contamination_words` words that also stand in a benchmark's questions or answers where it sets that.
    """

    name: ClassVar[str] = "contamination"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        found = [no_rejects()]
        for name in samples.benchmarks:
            questions, images = read_benchmark(name, samples.root)
            found += [_same_pictures(samples, name, images), _near_pictures(samples, name, images)]
            found += _same_words(samples, name, questions)
        return pl.concat(found).unique(AT, keep="first", maintain_order=True).sort(AT)


def _same_pictures(samples: Samples, name: str, images: pl.DataFrame) -> pl.DataFrame:
    known = images.unique("sha256", keep="first", maintain_order=True).select("image_id", image_sha256="sha256")
    hit = samples.frame.select(AT, "image_sha256").join(known, on="image_sha256", maintain_order="left")
    told = pl.format("the picture {} of benchmark {}", "image_id", pl.lit(name))
    return hit.select(pl.col(AT).cast(pl.UInt32), reason=pl.lit("benchmark-picture"), evidence=told)


def _near_pictures(samples: Samples, name: str, images: pl.DataFrame) -> pl.DataFrame:
    limit = pl.col("image_distance")
    frame = (
        samples.with_limits()
        .filter(limit.is_not_null() & (pl.col("pdq_quality") >= MIN_QUALITY))
        .select(AT, "pdq", "colours", limit)
    )
    images = images.filter(pl.col("pdq_quality") >= MIN_QUALITY)
    if frame.is_empty() or images.is_empty():
        return no_rejects()
    hashes = [
        np.frombuffer(b"".join(column.to_list()), dtype=np.uint8).reshape(-1, 32)
        for column in (frame["pdq"], images["pdq"])
    ]
    rows = []
    at, limits, names = frame[AT].to_list(), frame["image_distance"].to_list(), images["image_id"].to_list()
    colours = [column.to_list() for column in (frame["colours"], images["colours"])]
    for mine, theirs in near_pairs(hashes[0], hashes[1], max(limits)).tolist():
        bits = int(np.bitwise_count(hashes[0][mine] ^ hashes[1][theirs]).sum())
        if bits <= limits[mine] and colour_difference(colours[0][mine], colours[1][theirs]) <= MAX_COLOUR_DIFFERENCE:
            rows.append(
                (at[mine], "near-benchmark-picture", f"{bits} of 256 bits from {names[theirs]} of benchmark {name}")
            )
    return pl.DataFrame(rows, schema=REJECTS, orient="row").unique(AT, keep="first", maintain_order=True)


def _same_words(samples: Samples, name: str, questions: pl.DataFrame) -> list[pl.DataFrame]:
    found = []
    sizes = {source: samples.profiles[source].contamination_words for source in samples.of("contamination_words")}
    for size in sorted({value for value in sizes.values() if value is not None}):
        both = questions.select(text=pl.format("{} {}", "question", "answer"))["text"].unique(maintain_order=True)
        known = np.unique(word_grams(both, size)[0])
        if not len(known):
            continue
        for batch in samples.messages([source for source, value in sizes.items() if value == size]):
            texts = batch.group_by(AT, maintain_order=True).agg(pl.col("value").str.join(" "))
            grams, offsets = word_grams(texts["value"], size)
            hits = np.concatenate([[0], np.cumsum(np.isin(grams, known))])
            count = hits[offsets[1:]] - hits[offsets[:-1]]
            told = pl.format("{} run(s) of {} words of benchmark {}", pl.Series(count), pl.lit(size), pl.lit(name))
            hit = texts.with_columns(reason=pl.lit("benchmark-text"), evidence=told).filter(pl.Series(count > 0))
            found.append(hit.select(pl.col(AT).cast(pl.UInt32), "reason", "evidence"))
    return found
