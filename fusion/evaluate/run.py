"""Evaluates a variant: its last and its first trained checkpoint beside two blind baselines, on the same questions."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from fusion.data.store.folders import output_folder, write_parquet
from fusion.evaluate.asking import FOLDER
from fusion.evaluate.benchmark import GREY, PRIOR, Benchmark, BenchmarkError, load_benchmark
from fusion.evaluate.columns.entries import column
from fusion.evaluate.outcomes import benchmark_outcome, run_columns, write_outcomes
from fusion.evaluate.records import weights_sha256
from fusion.evaluate.score import ClusterBootstrap, is_correct
from fusion.evaluate.systems import CheckpointSystem, QuestionPrior
from fusion.files import write_json
from fusion.quiet import quiet_libraries
from fusion.settings import Settings, Variant


def evaluate_variant(settings: Settings, variant: str, root: Path = Path()) -> None:
    """Writes results/<variant>/evaluation/: scores.json, answers.parquet, and columns.json with records.parquet.

    A column of the model zoo that cannot be scored is INVALID there, with the reason; `fusion gate` fails on it.

    Raises `BenchmarkError` for a missing benchmark or none at all, and whatever loading a missing checkpoint raises.
    """
    quiet_libraries()
    chosen = settings.variant(variant)
    torch.set_num_threads(
        chosen.hardware.ranks * chosen.hardware.threads_per_rank if chosen.hardware.device == "cpu" else 1
    )
    if not chosen.evaluation.benchmarks:
        raise BenchmarkError(
            f"variants.{variant}.evaluation.benchmarks in params.yaml is empty: name one of data/catalog/"
        )
    benchmarks = [
        load_benchmark(name, use.questions, settings.run.seed, root)
        for name, use in chosen.evaluation.benchmarks.items()
    ]
    chosen_columns = [column(name) for name in chosen.evaluation.columns]
    first, last = (root / "checkpoints" / variant / stage for stage in (chosen.first_stage, "stage2"))
    for path in (first, last):
        if not (path / "config.json").is_file():
            raise BenchmarkError(
                f"{path} is not there, and the answers of {variant} after its first and last stage are compared: run "
                f"`dvc repro`, or, if its first stage was adopted, set variants.{variant}.adopted in params.yaml"
            )
    trained = CheckpointSystem(f"{variant} stage2", last, settings.evaluation.batch_size, chosen.hardware.device)
    logs = root / FOLDER / variant
    with output_folder(root / "results" / variant / "evaluation") as folder:
        submissions = folder / "submissions"
        outcomes = run_columns(settings, chosen_columns, trained, submissions, root, logs)
        answers = answer_all(settings, variant, benchmarks, trained, root, logs)
        scores: dict[str, Any] = {
            "variant": variant,
            "checkpoints": {chosen.first_stage: weights_sha256(first), "stage2": weights_sha256(last)},
            "confidence": settings.evaluation.confidence,
            "benchmarks": {benchmark.name: score(settings, variant, benchmark, answers) for benchmark in benchmarks},
        }
        outcomes |= {
            benchmark.name: benchmark_outcome(settings, benchmark, trained, answers) for benchmark in benchmarks
        }
        write_parquet(answers, folder / "answers.parquet")
        write_json(scores, folder / "scores.json")
        write_json(metrics(scores), folder / "metrics.json")
        write_outcomes(settings, variant, scores["checkpoints"]["stage2"], outcomes, submissions, folder)
    shutil.rmtree(logs, ignore_errors=True)


def answer_all(
    settings: Settings,
    variant: str,
    benchmarks: list[Benchmark],
    trained: CheckpointSystem,
    root: Path,
    logs: Path | None = None,
) -> pl.DataFrame:
    """One row per benchmark, system and question: what was asked, expected and answered."""
    chosen = settings.variant(variant)
    frames = []
    for benchmark in benchmarks:
        frames.append(_frame(benchmark, trained.name, trained.answer(benchmark, logs=logs)))
        frames.append(_frame(benchmark, GREY, trained.answer(benchmark, grey=True, logs=logs)))
    checkpoint = root / "checkpoints" / variant / chosen.first_stage
    first = CheckpointSystem(
        f"{variant} {chosen.first_stage}", checkpoint, settings.evaluation.batch_size, chosen.hardware.device
    )
    frames += [_frame(benchmark, first.name, first.answer(benchmark, logs=logs)) for benchmark in benchmarks]
    prior = QuestionPrior(training_manifests(chosen, root), chosen.data.tokenizer, root)
    frames += [_frame(benchmark, PRIOR, prior.answer(benchmark)) for benchmark in benchmarks]
    return pl.concat(frames)


def training_manifests(variant: Variant, root: Path) -> list[Path]:
    """The manifests of everything that the variant was trained on."""
    datasets = [getattr(variant.data, stage) for stage in variant.stage_names]
    return [root / "data" / "manifests" / dataset / "manifest.parquet" for dataset in datasets]


def _frame(benchmark: Benchmark, system: str, predictions: list[str]) -> pl.DataFrame:
    questions = benchmark.questions.select("question_id", "image_id", "question", "answer", "kind", "category")
    expected = questions["answer"].to_list()
    correct = [is_correct(prediction, answer) for prediction, answer in zip(predictions, expected, strict=True)]
    names = [pl.lit(benchmark.name).alias("benchmark"), pl.lit(system).alias("system")]
    return questions.select(*names, pl.all()).with_columns(
        pl.Series("prediction", predictions), pl.Series("correct", correct, dtype=pl.Boolean)
    )


def score(settings: Settings, variant: str, benchmark: Benchmark, answers: pl.DataFrame) -> dict[str, Any]:
    """Accuracies by group with intervals, and the margin over the better blind baseline of the group."""
    mine = answers.filter(pl.col("benchmark") == benchmark.name)
    questions = benchmark.questions
    bootstrap = ClusterBootstrap(
        questions["image_id"].to_list(),
        settings.evaluation.bootstrap_samples,
        settings.evaluation.confidence,
        settings.run.seed,
    )
    systems = [f"{variant} stage2", f"{variant} {settings.variant(variant).first_stage}", GREY, PRIOR]
    correct = {name: mine.filter(pl.col("system") == name)["correct"].to_numpy().astype(np.float64) for name in systems}
    rows, margins = [], []
    for group, inside in groups(questions).items():
        accuracies = {name: bootstrap.interval(correct[name], inside) for name in systems}
        for name, value in accuracies.items():
            rows.append({
                "system": name, "group": group, "n": int(inside.sum()),
                "accuracy": round(value.mean, 6), "low": round(value.low, 6), "high": round(value.high, 6),
            })  # fmt: skip
        better = max((GREY, PRIOR), key=lambda name: accuracies[name].mean)
        margin = bootstrap.interval(correct[systems[0]] - correct[better], inside)
        margins.append({
            "group": group, "baseline": better,
            "margin": round(margin.mean, 6), "low": round(margin.low, 6), "high": round(margin.high, 6),
        })  # fmt: skip
    return {"questions": len(questions), "pictures": questions["image_id"].n_unique(), "rows": rows, "margins": margins}


def metrics(scores: dict[str, Any]) -> dict[str, Any]:
    """What `dvc metrics diff` compares: the trained model's accuracy and its margin over the better blind baseline."""
    chosen: dict[str, Any] = {}
    for name, benchmark in scores["benchmarks"].items():
        margins = {entry["group"]: entry["margin"] for entry in benchmark["margins"]}
        trained = [row for row in benchmark["rows"] if row["system"] == f"{scores['variant']} stage2"]
        chosen[name] = {row["group"]: {"accuracy": row["accuracy"], "margin": margins[row["group"]]} for row in trained}
    return chosen


def groups(questions: pl.DataFrame) -> dict[str, np.ndarray[Any, np.dtype[np.bool_]]]:
    """The groups that are scored: all questions, each kind, each category where there are several."""
    found = {"all": np.ones(len(questions), dtype=bool)}
    for key in ("kind", "category"):
        values = questions[key].unique().sort().to_list()
        if key == "kind" or len(values) > 1:
            found |= {value: (questions[key] == value).to_numpy() for value in values if value not in found}
    return found
