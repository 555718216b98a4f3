"""The rows of an embedded benchmark as they are now, fingerprinted as they were when it was asked; without torch."""

from fusion.evaluate.benchmark import Benchmark
from fusion.evaluate.records import rows_sha256
from fusion.evaluate.scorers.base import Picture, Question
from fusion.evaluate.scorers.embedded import Embedded


def benchmark_questions(benchmark: Benchmark) -> list[Question]:
    """An embedded benchmark's questions as those of any other."""
    embedded = Embedded()
    return [
        embedded.question(row, Picture(str(row["image_id"]), data=picture))
        for row, picture in zip(benchmark.questions.to_dicts(), benchmark.pictures(), strict=True)
    ]


def benchmark_rows_sha256(benchmark: Benchmark) -> str:
    """One sha256 over its questions, answers and pictures."""
    return rows_sha256(benchmark_questions(benchmark))
