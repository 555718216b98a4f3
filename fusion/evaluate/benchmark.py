"""A benchmark as the `benchmark` stage left it: questions in a parquet file, pictures in a tar."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fusion.errors import FusionError

GREY, PRIOR = "grey picture", "question-only prior"
"""The blind baselines, as they are named in the results."""


class BenchmarkError(FusionError):
    """A benchmark is missing or does not hold what it should."""


@dataclass(frozen=True)
class Benchmark:
    """Questions, one a row (question_id, image_id, question, answer, kind, category), and the archive of pictures."""

    name: str
    questions: pl.DataFrame
    images: Path

    def pictures(self) -> list[bytes]:
        """The encoded picture of every question, in order."""
        descriptor = os.open(self.images, os.O_RDONLY)
        try:
            columns = self.questions.select("image_offset", "image_size").iter_rows()
            return [os.pread(descriptor, size, offset) for offset, size in columns]
        finally:
            os.close(descriptor)


def load_benchmark(name: str, limit: int | None, seed: int, root: Path = Path()) -> Benchmark:
    """Reads a benchmark; with `limit`, a seeded choice of that many questions, in their original order.

    Raises `BenchmarkError` when it has not been built, or holds fewer questions than asked for.
    """
    folder = root / "data" / "benchmarks" / name
    if not (folder / "questions.parquet").is_file():
        raise BenchmarkError(f"benchmark {name} is not in {folder}: run `dvc repro` (or `fusion benchmark {name}`)")
    questions = pl.read_parquet(folder / "questions.parquet")
    if limit is not None:
        if limit > len(questions):
            raise BenchmarkError(f"benchmark {name} has {len(questions)} questions, params.yaml asks for {limit}")
        chosen = np.sort(np.random.default_rng(seed).choice(len(questions), size=limit, replace=False))
        questions = questions[chosen]
    return Benchmark(name, questions, folder / "images.tar")
