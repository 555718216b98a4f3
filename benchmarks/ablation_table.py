"""What benchmarks/ablation.py found: accuracies with intervals, as numbers, as a table and as a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from PIL import Image, ImageDraw, ImageFont

from fusion.evaluate.benchmark import GREY, PRIOR
from fusion.evaluate.run import groups
from fusion.evaluate.score import ClusterBootstrap

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
FULL = "everything"


def table(
    root: Path,
    variant: str,
    conditions: list[str],
    seeds: list[int],
    name: Callable[[str, str, int], str],
    statistics: dict[str, Any],
) -> dict[str, Any]:
    """The benchmarks' results of all runs.

    Args:
        root: the project that the runs were made in.
        variant, conditions, seeds: which; `name` gives a run's variant.
        statistics: `confidence` and `bootstrap_samples`.
    """
    answers = {
        (condition, seed): pl.read_parquet(
            root / "results" / name(variant, condition, seed) / "evaluation" / "answers.parquet"
        )
        for condition in conditions
        for seed in seeds
    }
    benchmarks = {}
    for benchmark in next(iter(answers.values()))["benchmark"].unique(maintain_order=True).to_list():
        correct: dict[str, list[Floats]] = {condition: [] for condition in conditions}
        grey: list[Floats] = []
        for (condition, seed), frame in answers.items():
            mine = frame.filter(pl.col("benchmark") == benchmark)
            correct[condition].append(_of(mine, f"{name(variant, condition, seed)} stage2"))
            if condition == conditions[0]:
                grey.append(_of(mine, GREY))
        questions = mine.filter(pl.col("system") == PRIOR).sort("question_id")
        bootstrap = ClusterBootstrap(
            questions["image_id"].to_list(), statistics["bootstrap_samples"], statistics["confidence"], seeds[0]
        )
        blind = {"grey picture": np.stack(grey), "question-only prior": _of(mine, PRIOR)[None]}
        stacked = {condition: np.stack(rows) for condition, rows in correct.items()}
        benchmarks[benchmark] = {
            "questions": len(questions),
            "pictures": questions["image_id"].n_unique(),
            "groups": {
                group: group_result(stacked, blind, inside, bootstrap) for group, inside in groups(questions).items()
            },
        }
    return {"confidence": statistics["confidence"], "benchmarks": benchmarks}


def _of(frame: pl.DataFrame, system: str) -> Floats:
    """[questions]: 1 where a system is right, else 0."""
    return frame.filter(pl.col("system") == system).sort("question_id")["correct"].to_numpy().astype(np.float64)


def group_result(
    correct: dict[str, Floats], blind: dict[str, Floats], inside: Bools, bootstrap: ClusterBootstrap
) -> dict[str, Any]:
    """One group of questions.

    Args:
        correct: by condition, [seeds, questions], 1 or 0.
        blind: the same for the blind baselines.
        inside: [questions], which of them form the group.
        bootstrap: over the questions' pictures.
    """
    full = correct.get(FULL, next(iter(correct.values())))
    better = max(blind, key=lambda name: blind[name][:, inside].mean())
    rows = {}
    for condition, values in correct.items():
        rows[condition] = {
            "accuracy": estimate(values, inside, bootstrap),
            "less_than_everything": estimate(full - values, inside, bootstrap),
            "above_blind": estimate(values - blind[better].mean(0), inside, bootstrap),
        }
    return {
        "n": int(inside.sum()),
        "blind": better,
        "baselines": {name: estimate(values, inside, bootstrap) for name, values in blind.items()},
        "rows": rows,
    }


def estimate(values: Floats, inside: Bools, bootstrap: ClusterBootstrap) -> dict[str, Any]:
    """Mean over seeds and questions; `low` and `high` by drawing pictures; `seeds` one by one and their deviation."""
    interval = bootstrap.interval(values.mean(0), inside)
    each = values[:, inside].mean(1)
    found: dict[str, Any] = {key: round(getattr(interval, key), 5) for key in ("mean", "low", "high")}
    found["seeds"] = [round(float(value), 5) for value in each]
    found["seeds_deviation"] = round(float(each.std(ddof=1)), 5) if len(each) > 1 else None
    return found


def _shown(result: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """The groups that table and picture show: all questions, and the open ones, which blind answers seldom hit."""
    return [
        (benchmark, group, facts["groups"][group])
        for benchmark, facts in result["benchmarks"].items()
        for group in ("all", "open")
        if group in facts["groups"]
    ]


def markdown(result: dict[str, Any]) -> str:
    """A table for people."""
    share = f"{100 * result['confidence']:.0f}%"
    lines = [
        f"# Ablation of `{result['variant']}`",
        "",
        f"Accuracy in percent after stage 2, mean of {len(result['seeds'])} seed(s). In brackets the {share} interval "
        "from drawing pictures; ± is the standard deviation between seeds. `python -m benchmarks.ablation` made it from"
        f" commit {result['surroundings']['commit']} on {result['surroundings']['date']}.",
    ]
    for benchmark, group, facts in _shown(result):
        lines += ["", f"## {benchmark}, {'all questions' if group == 'all' else 'open questions'} ({facts['n']})", ""]
        lines += ["| | accuracy | less than everything | above the better blind baseline |", "|---|---|---|---|"]
        for condition, row in facts["rows"].items():
            less = "" if condition == FULL else _cell(row["less_than_everything"])
            title = result["conditions"][condition]["title"]
            lines.append(f"| {title} | {_cell(row['accuracy'])} | {less} | {_cell(row['above_blind'])} |")
        lines += [f"| blind: {name} | {_cell(value)} | | |" for name, value in facts["baselines"].items()]
    return "\n".join(lines) + "\n"


def _cell(value: dict[str, Any]) -> str:
    text = f"{100 * value['mean']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
    deviation = value["seeds_deviation"]
    return text if deviation is None else f"{text} ± {100 * deviation:.1f}"


_LEFT, _PLOT, _ROW, _HEAD, _FOOT, _MARGIN = 250, 560, 34, 52, 40, 24
_INK, _GREY, _BLUE, _RED = (30, 30, 30), (150, 150, 150), (31, 90, 160), (178, 34, 34)


def draw(result: dict[str, Any], path: Path) -> None:
    """A PNG with one panel a benchmark and group: mean, interval, each seed as a stroke, and the blind baseline."""
    panels = _shown(result)
    height = 60 + sum(_HEAD + _ROW * len(facts["rows"]) + _FOOT for _, _, facts in panels)
    image = Image.new("RGB", (_LEFT + _PLOT + _MARGIN, height), "white")
    pen = ImageDraw.Draw(image)
    small, plain, large = (ImageFont.load_default(size) for size in (13, 15, 18))
    pen.text((_MARGIN, 14), f"Ablation of {result['variant']}: accuracy after stage 2, %", _INK, large)
    key = f"dot: mean of {len(result['seeds'])} seed(s); line: {100 * result['confidence']:.0f}% interval (pictures)"
    pen.text((_MARGIN, 38), f"{key}; strokes: seeds; red: better blind baseline", _GREY, small)
    top = 60
    for benchmark, group, facts in panels:
        _panel(pen, (small, plain), top, f"{benchmark}, {group} ({facts['n']} questions)", facts, result["conditions"])
        top += _HEAD + _ROW * len(facts["rows"]) + _FOOT
    image.save(path)


def _panel(
    pen: ImageDraw.ImageDraw, fonts: Any, top: int, title: str, facts: dict[str, Any], conditions: dict[str, Any]
) -> None:
    small, plain = fonts
    rows = [row["accuracy"] for row in facts["rows"].values()]
    blind = facts["baselines"][facts["blind"]]["mean"]
    ends = [value for row in rows for value in (row["low"], row["high"], *row["seeds"])] + [blind]
    low, high = max(0.0, np.floor(min(ends) * 20) / 20), min(1.0, np.ceil(max(ends) * 20) / 20)
    high = high if high > low else low + 0.05

    def at(value: float) -> float:
        return _LEFT + _PLOT * (value - low) / (high - low)

    pen.text((_MARGIN, top + 16), title, _INK, plain)
    first, bottom = top + _HEAD, top + _HEAD + _ROW * len(rows)
    step = 0.05 if high - low <= 0.5 else 0.1
    for tick in np.arange(low, high + step / 2, step):
        pen.line([(at(tick), first), (at(tick), bottom)], (225, 225, 225))
        pen.text((at(tick), bottom + 4), f"{100 * tick:.0f}", _GREY, small, anchor="mt")
    pen.line([(at(blind), first - 4), (at(blind), bottom)], _RED, 2)
    for number, (condition, row) in enumerate(zip(facts["rows"], rows, strict=True)):
        middle = first + _ROW * number + _ROW // 2
        pen.text((_LEFT - 14, middle), conditions[condition]["title"], _INK, plain, anchor="rm")
        pen.line([(at(row["low"]), middle), (at(row["high"]), middle)], _BLUE, 3)
        for value in row["seeds"]:
            pen.line([(at(value), middle - 9), (at(value), middle + 9)], _BLUE)
        place = at(row["mean"])
        pen.ellipse([place - 5, middle - 5, place + 5, middle + 5], _BLUE)
