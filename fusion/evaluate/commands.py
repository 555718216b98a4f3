"""The commands `fusion gate` and `fusion compare`; `fusion columns` lies beside."""

import json as json_format
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fusion.evaluate.columns_command import columns
from fusion.settings import Settings, load_settings

__all__ = ["columns", "compare", "gate", "with_lmms"]


def gate(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="A variant of params.yaml.")],
    accept: Annotated[bool, typer.Option("--accept", help="After a pass: what the next one is held to.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Judge a variant's evaluation: one table, and exit code 1 unless every required column passes."""
    from fusion.evaluate.accepted import accept as make_accepted
    from fusion.evaluate.gate import judge_variant, read_evaluated
    from fusion.evaluate.verdict import table

    settings = load_settings()
    settings.variant(variant)
    verdicts = judge_variant(settings, variant)
    blocked = [verdict for verdict in verdicts if verdict.blocks]
    if json:
        print(json_format.dumps([asdict(verdict) for verdict in verdicts], indent=1, ensure_ascii=False))
    else:
        print(table(verdicts))
        names = ", ".join(verdict.column for verdict in blocked)
        print(f"\n{variant}: " + (f"does not pass: {names}" if blocked else "passes"))
    if blocked:
        sys.exit(1)
    if accept:
        evaluated = read_evaluated(variant, Path())
        folder = make_accepted(variant, evaluated.document, evaluated.records)
        print(f"accepted: {folder}. Commit it: `git add {folder}`", file=sys.stderr)


def compare(
    a: Annotated[str, typer.Argument(metavar="A", help="A variant, accepted/VARIANT, or an evaluation's folder.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same, compared with A.")],
    smallest: Annotated[
        float, typer.Option(min=0.01, max=100.0, help="Difference to find, in percent of the scale.")
    ] = 1.0,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Compare two checkpoints on the same questions: paired, clustered, corrected for the number of columns."""
    from fusion.evaluate.compare import as_document, read_side, told
    from fusion.evaluate.compare import compare as compared

    settings = load_settings()
    one, other = read_side(a), read_side(b)
    rows = compared(settings, one, other, smallest)
    if json:
        print(json_format.dumps(as_document(rows), indent=1, ensure_ascii=False))
    else:
        print(told(rows, one, other, settings.evaluation.confidence, smallest))


def with_lmms(settings: Settings, variant: str) -> None:
    """`fusion evaluate VARIANT --engine lmms`; no part of the stage `evaluate`."""
    from fusion.evaluate.lmms.run import evaluate_with_lmms, show

    show(evaluate_with_lmms(settings, variant))
