"""Pictures and texts that are nearly those of an earlier sample."""

from typing import ClassVar

import numpy as np
import polars as pl

from fusion.data.curate.base import AT, Block, Samples
from fusion.data.curate.hamming import colour_difference, distance, near_pairs
from fusion.data.curate.minhash import similar_pairs

MIN_QUALITY = 50
"""PDQ's own measure of how much a picture has to hash; its authors advise against matching below 50."""

MAX_COLOUR_DIFFERENCE = 16.0
"""Of 255, on average over a picture: a red and a blue hat of one drawing have one hash, but are two pictures."""


class NearDuplicates(Block):
    """Greedy in the order of the samples: what is near an earlier one that is kept goes.

    A picture that several samples share (with other conversations) is one picture, kept or dropped as a whole.
    Only sources whose profile sets `image_distance` or `text_similarity` take part.
    """

    name: ClassVar[str] = "near-duplicates"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        pictures = _similar_pictures(samples)
        texts = _similar_texts(samples, set(pictures[AT].to_list()))
        return pl.concat([pictures, texts]).sort(AT)


def _similar_pictures(samples: Samples) -> pl.DataFrame:
    limit = pl.col("image_distance")
    frame = samples.with_limits().filter(limit.is_not_null() & (pl.col("pdq_quality") >= MIN_QUALITY))
    shown = frame.unique("image_sha256", keep="first", maintain_order=True).select(
        "sample_id", "image_sha256", "pdq", "colours", limit
    )
    schema = {"image_sha256": pl.String, "reason": pl.String, "evidence": pl.String}
    dropped: dict[str, tuple[str, str]] = {}
    if len(shown) > 1:
        hashes = np.frombuffer(b"".join(shown["pdq"].to_list()), dtype=np.uint8).reshape(-1, 32)
        limits, names = shown["image_distance"].to_list(), shown["sample_id"].to_list()
        sha, pdq, colours = (shown[column].to_list() for column in ("image_sha256", "pdq", "colours"))
        # Searched among distinct hashes: a thousand equal ones would make half a million pairs.
        _, first, which = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        group, leaders = rank[which.ravel()], first[order]
        pairs = near_pairs(hashes[leaders], hashes[leaders], max(limits))
        near: dict[int, list[int]] = {}
        for one, other in pairs.tolist():
            near.setdefault(one, []).append(other)
        kept: dict[int, list[int]] = {}
        for position in range(len(shown)):
            mine = int(group[position])
            close = [
                (bits, other)
                for neighbour in near[mine]
                for other in kept.get(neighbour, [])
                if (bits := distance(pdq[position], pdq[other])) <= limits[position]
                and colour_difference(colours[position], colours[other]) <= MAX_COLOUR_DIFFERENCE
            ]
            if close:
                bits, other = min(close)
                dropped[sha[position]] = ("similar-picture", f"{bits} of 256 bits from {names[other]}")
            else:
                kept.setdefault(mine, []).append(position)
    rows = [(picture, *why) for picture, why in dropped.items()]
    table = pl.DataFrame(rows, schema=schema, orient="row")
    hit = samples.with_limits().filter(limit.is_not_null()).select(AT, "image_sha256")
    return hit.join(table, on="image_sha256", maintain_order="left").select(
        pl.col(AT).cast(pl.UInt32), "reason", "evidence"
    )


def _similar_texts(samples: Samples, gone: set[int]) -> pl.DataFrame:
    sources = samples.of("text_similarity")
    schema = {AT: pl.UInt32, "reason": pl.String, "evidence": pl.String}
    parts = [
        batch.filter(pl.col("role") == "gpt")
        .group_by(AT, "source", maintain_order=True)
        .agg(pl.col("value").str.join(" "))
        for batch in samples.messages(sources)
    ]
    if not parts:
        return pl.DataFrame(schema=schema)
    texts = pl.concat(parts).filter(~pl.col(AT).is_in(list(gone))).sort(AT)
    limits = [samples.profiles[source].text_similarity or 1.0 for source in texts["source"].to_list()]
    names = dict(samples.frame.select(AT, "sample_id").iter_rows())
    at = texts[AT].to_list()
    dropped: dict[int, str] = {}
    for earlier, later, value in similar_pairs(texts["value"], min(limits, default=1.0)):
        if earlier not in dropped and later not in dropped and value >= limits[later]:
            dropped[later] = f"{value:.2f} of the word 3-grams of {names[at[earlier]]}"
    rows = [(at[position], "similar-text", evidence) for position, evidence in sorted(dropped.items())]
    return pl.DataFrame(rows, schema=schema, orient="row")
