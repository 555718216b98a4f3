"""The command `fusion zoo`: the same facts as tables, JSON or a page, and the check of the published numbers."""

import json as json_format
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fusion.publish.own_models import own_models
from fusion.settings import load_settings
from fusion.zoo.arithmetic import impossible_scores, stale_notes
from fusion.zoo.entries import Zoo, ZooError, load_zoo
from fusion.zoo.markdown import markdown as zoo_page
from fusion.zoo.own import NOT_RUN, OwnModel
from fusion.zoo.terminal import print_zoo


def show_zoo(
    *, json: bool, markdown: bool, published: bool, check: bool, output: Path | None, root: Path = Path(".")
) -> int:
    """Prints or writes the zoo; returns the exit code, 1 when the check finds something that no note tells.

    Raises `ZooError` for options that exclude each other and for a folder that is not a project.
    """
    if json + markdown + check > 1:
        raise ZooError("give one of --json, --markdown and --check")
    if output is not None and not (json or markdown):
        raise ZooError("--output needs --json or --markdown")
    zoo = load_zoo()
    if check:
        lines, good = check_lines(zoo)
        print("\n".join(lines))
        return 0 if good else 1
    own = None if published else own_models(load_settings(root / "params.yaml"), root)
    if not (json or markdown):
        print_zoo(zoo, own)
        return 0
    text = (
        zoo_page(zoo, own) if markdown else json_format.dumps(document(zoo, own), indent=1, ensure_ascii=False) + "\n"
    )
    if output is None:
        print(text, end="")
    else:
        partial = output.with_name(f".{output.name}.partial")
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, output)
        print(f"wrote {output}")
    return 0


def document(zoo: Zoo, own: Sequence[OwnModel] | None) -> dict[str, Any]:
    """The zoo for programs: zoo.yaml, the scores that cannot be and, unless None, this checkout's checkpoints."""
    impossible = [
        {**asdict(finding), "below": float(finding.below), "above": float(finding.above)}
        for finding in impossible_scores(zoo)
    ]
    made: dict[str, Any] = {"published": zoo.model_dump(mode="json"), "impossible_scores": impossible}
    if own is not None:
        names = [column.name for column in zoo.columns]
        made["own"] = [
            {**asdict(model), "zoo_columns": dict.fromkeys(names, NOT_RUN) | _values(model, names)} for model in own
        ]
    return made


def _values(model: OwnModel, names: Sequence[str]) -> dict[str, Any]:
    return {score.benchmark: score.value for score in model.scores if score.benchmark in names}


def check_lines(zoo: Zoo) -> tuple[list[str], bool]:
    """What the check of the published page says, line by line, and whether notes and numbers agree."""
    findings, stale = impossible_scores(zoo), stale_notes(zoo)
    lines = [
        f"zoo.yaml: {len(zoo.models)} models, {len(zoo.stage_checkpoints)} stage checkpoints, "
        f"{len(zoo.columns)} columns"
    ]
    for finding in findings:
        hint = "; fits when rounded up" if finding.rounded_up else ""
        lines.append(
            f"{'noted' if finding.noted else 'FAIL '} {finding.model} {finding.column} {finding.score:.1f}: "
            f"possible are {float(finding.below):.3f} and {float(finding.above):.3f}{hint}"
        )
    lines += [f"FAIL  {line}: a note calls it impossible, but it is possible" for line in stale]
    lines += [f"note  {note.text}" for note in zoo.notes if not note.scores]
    return lines, not stale and all(finding.noted for finding in findings)
