"""A small project with an evaluation in it, made by the code that makes real ones, of a model that is told."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import yaml

from fusion.evaluate.asking import Ask
from fusion.evaluate.benchmark import load_benchmark
from fusion.evaluate.columns.entries import column
from fusion.evaluate.outcomes import benchmark_outcome, run_columns, write_outcomes
from fusion.evaluate.records import weights_sha256
from fusion.settings import Settings, load_settings
from tests.evaluate.scorers import made

HERE = Path(__file__).parents[2]
BENCHMARK = "made-test"
QUESTIONS = 60
Say = Callable[[Ask], str]


class Told:
    """A system whose answers are a function of the question."""

    name = "tiny stage2"

    def __init__(self, say: Say) -> None:
        self._say = say
        self.asked: list[str] = []

    def ask(
        self, asks: Sequence[Ask], max_new_tokens: int, label: str, content: object, logs: Path | None = None
    ) -> dict[str, str]:
        """Every question, and its picture looked at."""
        self.asked += [ask.id for ask in asks]
        assert all(ask.picture is None or ask.picture() for ask in asks)
        return {ask.id: self._say(ask) for ask in asks}

    def render(self, question: str, has_picture: bool) -> str:
        """A template of its own."""
        return f"<{has_picture}>{question}<end>"


class Project:
    """The folder `root` with params.yaml, data, a checkpoint, and what `evaluate` writes."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        checkpoint = root / "checkpoints/tiny/stage2"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_bytes(b"weights")
        made.make_mmvp(root / "mmvp", 150)
        self._make_benchmark()
        self.params(columns=["MMVP"], required=["MMVP"])

    def params(
        self,
        columns: list[str],
        required: list[str],
        reference: str = "FUSION-Phi3.5-3B",
        judge: str | None = None,
        roots: dict[str, str] | None = None,
        over_blind: float = 0.05,
    ) -> None:
        """Writes params.yaml: that of the project with another evaluation of `tiny`."""
        document = yaml.safe_load((HERE / "params.yaml").read_text(encoding="utf-8"))
        document["evaluation"]["bootstrap_samples"] = 200
        document["evaluation"]["roots"] = roots or {"MMVP": "mmvp", "LLaVA_W": "wild"}
        document["evaluation"]["judge"] = {
            "address": judge, "model": "j" if judge else None, "timeout_seconds": 1, "attempts": 1, "wait_seconds": 0,
        }  # fmt: skip
        document["evaluation"]["gate"]["margins"] |= dict.fromkeys(required, 3.0)
        document["variants"]["tiny"]["evaluation"] = {
            "benchmarks": {BENCHMARK: {"questions": None}},
            "columns": columns,
            "gate": {
                "reference": reference, "columns": required, "over_blind": {BENCHMARK: over_blind},
                "max_unparsed": 0.05,
            },
        }  # fmt: skip
        (self.root / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")

    @property
    def settings(self) -> Settings:
        """As they are now."""
        return load_settings(self.root / "params.yaml")

    @property
    def folder(self) -> Path:
        """What the evaluation wrote."""
        return self.root / "results/tiny/evaluation"

    def _make_benchmark(self) -> None:
        folder = self.root / "data/benchmarks" / BENCHMARK
        folder.mkdir(parents=True)
        rows = []
        with tarfile.open(folder / "images.tar", "w") as tar:
            for number in range(QUESTIONS // 3):
                data = made.picture(folder / "p.png", f"#{number:06x}")
                info = tarfile.TarInfo(f"{number}.png")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
                offset = tar.offset - (len(data) + 511) // 512 * 512
                for part in range(3):
                    rows.append({
                        "question_id": f"{number}-{part}", "image_id": f"{number}.png", "question": f"What is {part}?",
                        "answer": "yes", "kind": "open", "category": "x", "image_offset": offset,
                        "image_size": len(data),
                    })  # fmt: skip
        pl.DataFrame(rows).write_parquet(folder / "questions.parquet")

    def evaluate(self, say: Say, margin: float = 0.3) -> Told:
        """What `fusion evaluate` does, with another system; `margin` over the blind baseline goes to scores.json."""
        system, settings = Told(say), self.settings
        self.folder.mkdir(parents=True, exist_ok=True)
        submissions = self.folder / "submissions"
        chosen = [column(name) for name in settings.variant("tiny").evaluation.columns]
        outcomes = run_columns(settings, chosen, system, submissions, self.root)
        benchmark = load_benchmark(BENCHMARK, None, 0, self.root)
        rows = benchmark.questions.select("question_id").with_columns(
            benchmark=pl.lit(BENCHMARK), system=pl.lit(system.name), prediction=pl.Series(["Yes"] * QUESTIONS)
        )
        outcomes[BENCHMARK] = benchmark_outcome(settings, benchmark, system, rows)
        weights = weights_sha256(self.root / "checkpoints/tiny/stage2")
        write_outcomes(settings, "tiny", weights, outcomes, submissions, self.folder)
        row = {
            "group": "all",
            "baseline": "grey picture",
            "margin": margin,
            "low": margin - 0.02,
            "high": margin + 0.02,
        }
        (self.folder / "scores.json").write_text(json.dumps({"benchmarks": {BENCHMARK: {"margins": [row]}}}))
        return system

    @property
    def document(self) -> dict[str, Any]:
        """columns.json."""
        return dict(json.loads((self.folder / "columns.json").read_text(encoding="utf-8")))

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Changes columns.json by hand."""
        document = self.document
        change(document)
        (self.folder / "columns.json").write_text(json.dumps(document))


def mmvp(right: int) -> Say:
    """Answers the first `right` questions of MMVP right and the others wrong."""

    def say(ask: Ask) -> str:
        number = int(ask.id)
        letter = "A" if number % 2 else "B"
        return letter if number <= right else "AB"["BA".index(letter)]

    return say
