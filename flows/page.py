"""What the page shows of a stage's outputs: tables, a picture of the loss, scores, the lineage and where the report is.

An output is recognised by its file's name; one entry of `ARTIFACTS` is one kind of file. The stages know nothing of it,
and nothing is computed here that is not in the file.
"""

import base64
import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from flows.curves import draw_curve
from flows.environment import REPORTS_URL
from fusion.lineage.stages import Stage

MANY_ROWS = 200


def publish_artifacts(stage: Stage, root: Path) -> None:
    """Shows what the stage has made. A file that is not as expected is a line in the log: it fails no stage."""
    logger = get_run_logger()
    for path in _files(stage, root):
        show = ARTIFACTS.get(path.name)
        if show is None:
            continue
        try:
            show(path, path.relative_to(root).as_posix())
        except (KeyError, TypeError, ValueError, OSError) as error:
            logger.warning("%s is not shown on the page: %s: %s", path, type(error).__name__, error)


def artifact_key(*words: str) -> str:
    """A key as Prefect wants it: lower case letters, numbers and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def _files(stage: Stage, root: Path) -> Iterator[Path]:
    for out in stage.outs:
        path = root / out
        if path.is_dir():
            yield from sorted(path / name for name in ARTIFACTS if (path / name).is_file())
        elif path.is_file():
            yield path


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _curation(path: Path, name: str) -> None:
    """The funnel, block by block, and the reasons, of a data set's `summary.json`; training's has no blocks."""
    document = _read(path)
    if "blocks" not in document:
        return
    dataset = path.parent.name
    funnel, reasons = curation_tables(document)
    create_table_artifact(
        funnel, key=artifact_key("curation", dataset), description=f"{dataset}: what is left after each block"
    )
    create_table_artifact(
        reasons or [{"reason": "none"}], key=artifact_key("rejected", dataset),
        description=f"{dataset}: why samples were rejected",
    )  # fmt: skip


def curation_tables(document: dict[str, Any]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The rows of the funnel, and those of the reasons with the most frequent one first."""
    funnel, reasons = [], []
    for block in document["blocks"]:
        left = block["in"] - block["dropped"]
        share = block["dropped"] / block["in"] if block["in"] else 0.0
        funnel.append(
            {"block": block["block"], "in": block["in"], "dropped": block["dropped"], "left": left,
             "dropped %": round(100 * share, 2)}
        )  # fmt: skip
        reasons += [
            {"reason": reason, "block": block["block"], "samples": count} for reason, count in block["reasons"].items()
        ]
    return funnel, sorted(reasons, key=lambda row: -row["samples"])[:MANY_ROWS]


def _validation(path: Path, name: str) -> None:
    document = _read(path)
    failed = [result for result in document["results"] if not result["success"]]
    critical = [result for result in failed if result["severity"] == "critical"]
    verdict = "passed" if not critical else "FAILED"
    lines = [
        f"**{document['dataset']}: {verdict}** - {document['passed']} expectations hold, {len(critical)} critical and "
        f"{len(failed) - len(critical)} lesser ones do not. Details: `{Path(name).with_suffix('.html')}`",
        "",
    ]
    for result in failed[:MANY_ROWS]:
        told = ", ".join(f"{key} {value}" for key, value in sorted(result["arguments"].items()))
        lines.append(f"- {result['severity']}: {result['suite']}: {result['expectation']} ({told}): {result['why']}")
    create_markdown_artifact(
        "\n".join(lines),
        key=artifact_key("validation", path.parent.name),
        description=f"{document['dataset']}: {verdict}",
    )


def _curve(path: Path, name: str) -> None:
    with path.open(encoding="utf-8", newline="") as file:
        points = [(float(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    stage, variant = path.parent.name, path.parent.parent.name
    picture = io.BytesIO()
    draw_curve(points, f"{variant} {stage}: loss").save(picture, "PNG", optimize=True)
    url = "data:image/png;base64," + base64.b64encode(picture.getvalue()).decode("ascii")
    create_image_artifact(
        url, key=artifact_key("loss", variant, stage),
        description=f"{variant} {stage}: loss {points[0][1]:.3f} at step 1, {points[-1][1]:.3f} at step {len(points)}",
    )  # fmt: skip


def _lineage(path: Path, name: str) -> None:
    document = _read(path)
    variant = path.parent.name
    stages = "\n".join(f"| {stage} | `{facts['digest'][:16]}` |" for stage, facts in document["stages"].items())
    create_markdown_artifact(
        f"Lineage digest of **{variant}**: `{document['digest']}`\n\n"
        "It is equal for equal data, weights, parameters and code.\n\n"
        f"| stage | digest |\n|---|---|\n{stages}\n",
        key=artifact_key("lineage", variant),
        description=f"digest {document['digest'][:16]}",
    )


ARTIFACTS: dict[str, Callable[[Path, str], None]] = {
    "summary.json": _curation,
    "validation.json": _validation,
    "loss.csv": _curve,
    "lineage.json": _lineage,
}
"""File name -> what shows it."""


def show_plan(rows: list[dict[str, str]]) -> None:
    """The table of a dry run."""
    create_table_artifact(rows or [{"stage": "none"}], key="plan", description="What a run would start, and why")


def show_scores(document: dict[str, Any], own: list[dict[str, Any]]) -> None:
    """Our own scores, and the published ones of the model zoo below them.

    Args:
        document: what `fusion zoo --json` prints.
        own: rows of our own benchmarks: system, benchmark, questions, score, interval.
    """
    if own:
        create_table_artifact(own, key="scores", description="Scores of this run, with intervals and blind baselines")
    create_table_artifact(
        zoo_rows(document), key="model-zoo", description="The zoo's columns: this run, published models"
    )


def zoo_rows(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a model, one column a benchmark: this run's models first, then the published ones."""
    published = document["published"]
    columns = [column["name"] for column in published["columns"]]
    rows = []
    for model in document.get("own") or []:
        scores = model.get("zoo_columns") or {}
        rows.append({"model": f"{model['name']} (this run)", **{name: _cell(scores.get(name)) for name in columns}})
    for model in published["models"]:
        scores = model.get("scores") or {}
        name = f"{model['version']} {model['llm']}, {model['encoder']}"
        rows.append({"model": name, **{name: _cell(scores.get(name)) for name in columns}})
    return rows


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        value = value.get("score", value.get("status"))
    return "" if value is None else value


def score_rows(root: Path, variants: list[str]) -> list[dict[str, Any]]:
    """Our own benchmarks' scores of these variants, from results/VARIANT/evaluation/scores.json."""
    rows = []
    for variant in variants:
        path = root / "results" / variant / "evaluation" / "scores.json"
        if not path.is_file():
            continue
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
            for benchmark, facts in _read(path)["benchmarks"].items():
                rows += [
                    {
                        "system": row["system"],
                        "benchmark": benchmark,
                        "questions": row["n"],
                        "score": f"{100 * row['accuracy']:.1f}",
                        "interval": f"{100 * row['low']:.1f} - {100 * row['high']:.1f}",
                    }
                    for row in facts["rows"]
                    if row["group"] == "all"
                ]
    return rows


def show_reports(root: Path, variants: list[str]) -> None:
    """A link to each report: served by `make ui`, or the file's place."""
    for variant in variants:
        path = root / "reports" / variant / "report.html"
        if not path.is_file():
            continue
        served, project = os.environ.get(REPORTS_URL), Path(os.environ.get("FUSION_PROJECT", "."))
        below = path.resolve().is_relative_to(project.resolve())
        link = path.resolve().as_uri()
        if served and below:
            link = f"{served.rstrip('/')}/{path.resolve().relative_to(project.resolve()).as_posix()}"
        create_link_artifact(
            link,
            link_text=f"Report of {variant}",
            key=artifact_key("report", variant),
            description=path.relative_to(root).as_posix(),
        )
