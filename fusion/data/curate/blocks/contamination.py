"""Samples that hold what the model will be examined with: a benchmark's picture, or a long run of its words."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import polars as pl

from fusion.data.benchmarks import read_benchmark
from fusion.data.curate.base import REJECTS, Block, no_rejects
from fusion.data.curate.digests import Numbers
from fusion.data.curate.hamming import colour_difference, near_pairs
from fusion.data.curate.minhash import word_grams
from fusion.data.curate.near_pictures import MAX_COLOUR_DIFFERENCE, MIN_QUALITY
from fusion.data.curate.samples import AT, Part, Samples
from fusion.data.curate.words import runs, word_numbers
from fusion.data.store.filled import filled

_FIRST_BITS = 20


@dataclass(frozen=True)
class Exam:
    """A benchmark as samples are compared with it. `grams`: by size, sorted, of questions with their answers."""

    name: str
    pictures: pl.DataFrame
    grams: dict[int, Numbers]


class Contamination(Block):
    """Against every benchmark that the data set names.

    The same picture, byte for byte, is dropped whatever the profile; near pictures where it sets `image_distance`; runs
    of `contamination_words` words that also stand in a benchmark's questions or answers where it sets that.
    """

    name: ClassVar[str] = "contamination"

    def rejects(self, samples: Samples) -> pl.DataFrame:
        asked = (profile.contamination_words for profile in samples.profiles.values())
        sizes = sorted({size for size in asked if size is not None})
        exams = [_exam(samples, name, sizes) for name in samples.benchmarks]
        if not exams:
            return no_rejects()
        return pl.concat([no_rejects(), *samples.map("contamination", _compare, samples.parts(), exams)]).sort(AT)


def _exam(samples: Samples, name: str, sizes: list[int]) -> Exam:
    questions, pictures = read_benchmark(name, samples.root)
    both = questions.select(text=filled("{} {}", "question", "answer"))["text"].unique(maintain_order=True)
    grams = {size: np.unique(word_grams(both, size)[0]) for size in sizes}
    return Exam(name, pictures.select("image_id", "sha256", "pdq", "pdq_quality", "colours"), grams)


def _compare(part: Part, exams: list[Exam]) -> pl.DataFrame:
    """The first that is found of each sample: benchmark by benchmark, same picture, near picture, words."""
    index = part.index("image_sha256", "pdq", "pdq_quality", "colours")
    found = []
    words = _words(part, exams)
    for exam in exams:
        found += [_same_pictures(index, exam), _near_pictures(part, index, exam)]
        found += [words[exam.name]] if exam.name in words else []
    return pl.concat(found).unique(AT, keep="first", maintain_order=True)


def _same_pictures(index: pl.DataFrame, exam: Exam) -> pl.DataFrame:
    known = exam.pictures.unique("sha256", keep="first", maintain_order=True).select("image_id", image_sha256="sha256")
    hit = index.select(AT, "image_sha256").join(known, on="image_sha256", maintain_order="left")
    told = filled("the picture {} of benchmark {}", "image_id", pl.lit(exam.name))
    return hit.select(AT, reason=pl.lit("benchmark-picture"), evidence=told).cast(REJECTS)


def _near_pictures(part: Part, index: pl.DataFrame, exam: Exam) -> pl.DataFrame:
    limit = part.profile.image_distance
    mine, theirs = (frame.filter(pl.col("pdq_quality") >= MIN_QUALITY) for frame in (index, exam.pictures))
    if limit is None or mine.is_empty() or theirs.is_empty():
        return no_rejects()
    hashes = [
        np.frombuffer(b"".join(frame["pdq"].to_list()), dtype=np.uint8).reshape(-1, 32) for frame in (mine, theirs)
    ]
    rows = []
    for one, other in near_pairs(hashes[0], hashes[1], limit).tolist():
        if colour_difference(mine["colours"][one], theirs["colours"][other]) <= MAX_COLOUR_DIFFERENCE:
            bits = int(np.bitwise_count(hashes[0][one] ^ hashes[1][other]).sum())
            told = f"{bits} of 256 bits from {theirs['image_id'][other]} of benchmark {exam.name}"
            rows.append((mine[AT][one], "near-benchmark-picture", told))
    return pl.DataFrame(rows, schema=REJECTS, orient="row").unique(AT, keep="first", maintain_order=True)


def _words(part: Part, exams: list[Exam]) -> dict[str, pl.DataFrame]:
    """What is found by words, by benchmark."""
    size = part.profile.contamination_words
    if size is None or not any(len(exam.grams[size]) for exam in exams):
        return {}
    texts = part.messages().group_by(AT, maintain_order=True).agg(pl.col("value").str.join(" "))
    grams, offsets = runs(*word_numbers(texts["value"]), size)
    found = {}
    for exam in exams:
        hit = np.flatnonzero(_members(grams, exam.grams[size]))
        touched = np.unique(np.searchsorted(offsets, hit, "right") - 1)
        # A run counts once a text, however often it comes in it.
        own, own_offsets = word_grams(texts["value"].gather(touched), size)
        hits = np.concatenate([[0], np.cumsum(_members(own, exam.grams[size]))])
        count = pl.Series(hits[own_offsets[1:]] - hits[own_offsets[:-1]])
        told = filled("{} run(s) of {} words of benchmark {}", count, pl.lit(size), pl.lit(exam.name))
        rows = texts.select(pl.col(AT).gather(touched)).with_columns(reason=pl.lit("benchmark-text"), evidence=told)
        found[exam.name] = rows.cast(REJECTS)
    return found


def _members(grams: Numbers, known: Numbers) -> npt.NDArray[np.bool_]:
    """Whether each gram is one of `known`, which is sorted."""
    found = np.zeros(len(grams), np.bool_)
    # Nearly none is: a table of their first bits tells that without a search.
    table = np.zeros(1 << _FIRST_BITS, np.bool_)
    table[known >> np.uint64(64 - _FIRST_BITS)] = True
    likely = np.flatnonzero(table[grams >> np.uint64(64 - _FIRST_BITS)])
    if len(likely):
        place = np.minimum(np.searchsorted(known, grams[likely]), len(known) - 1)
        found[likely] = known[place] == grams[likely]
    return found
