"""The loss curves of a variant as pictures, one a stage and one of all three, with learning rates and sources.

`fusion curves` is a stage of dvc.yaml: a picture that is drawn in another way trains nothing anew.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from fusion.data.store.folders import output_folder
from fusion.publish.charts import smooth
from fusion.publish.drawing import FAINT, PALETTE, POINTS, Curve, Panel, draw
from fusion.publish.facts import STAGE_TITLES, SourceRow, read_curve, read_sources

_PLOT = 440
_TOLD_APART = len(PALETTE)


def draw_curves(variant: str, stages: Sequence[str], root: Path = Path()) -> Path:
    """Writes results/curves/<variant>/ with a picture of each stage, and all.png; its path.

    Not below results/<variant>/, which the package depends on: a picture is no part of its lineage.

    Raises:
        PublishError: naming what is missing and the stage that makes it.
    """
    results = root / "results" / "curves" / variant
    columns = stage_panels(variant, stages, root)
    with output_folder(results) as folder:
        for stage, panels in columns.items():
            picture = draw(f"{variant}, {STAGE_TITLES[stage].lower()}", [panels], 2 * _PLOT)
            picture.save(folder / f"{stage}.png", optimize=True)
        all_stages(variant, columns).save(folder / "all.png", optimize=True)
    return results


def all_stages(variant: str, columns: Mapping[str, Sequence[Panel]]) -> Image.Image:
    """The panels of all stages side by side; see `stage_panels`."""
    return draw(variant, [_titled(STAGE_TITLES[stage], panels) for stage, panels in columns.items()], _PLOT)


def stage_panels(variant: str, stages: Sequence[str], root: Path = Path()) -> dict[str, list[Panel]]:
    """Each of `stages` -> loss, learning rates, and cross-entropy by source (by category where there are many)."""
    results = root / "results" / variant
    return {stage: _panels(results / stage, f"train_{stage}@{variant}") for stage in stages}


def _panels(results: Path, made_by: str) -> list[Panel]:
    curve, sources = read_curve(results / "loss.csv", made_by), read_sources(results / "loss_by_source.csv", made_by)
    steps = curve["step"]
    last = max(steps, default=1.0)
    together = math.ceil(len(steps) / POINTS)
    window = max(1, len(steps) // 40)
    losses = [
        Curve("each step" if together == 1 else f"mean of {together} steps", steps, curve["loss"], FAINT, 1.2),
        Curve("cross-entropy, mean", steps, smooth(curve["cross_entropy"], window), PALETTE[3], 2),
        Curve("loss, running mean", steps, smooth(curve["loss"], window), PALETTE[0], 2.5),
    ]
    rates = [Curve("LLM and projectors", steps, curve["learning_rate"], PALETTE[0])]
    if curve["vision_learning_rate"] == curve["learning_rate"]:
        rates = [Curve("all parts", steps, curve["learning_rate"], PALETTE[0])]
    else:
        rates.append(Curve("vision tower", steps, curve["vision_learning_rate"], PALETTE[3]))
    names = sorted({row.source for row in sources})
    by_source = len(names) <= _TOLD_APART
    if by_source:
        parts = [(name, [row for row in sources if row.source == name]) for name in names]
    else:
        categories = sorted({row.category for row in sources})
        parts = [(name, [row for row in sources if row.category == name]) for name in categories]
    lines = [
        Curve(name, *_means(rows), PALETTE[place % _TOLD_APART]) for place, (name, rows) in enumerate(parts)
    ]  # fmt: skip
    return [
        Panel("loss", losses, "optimiser step", 330, last),
        Panel("learning rate", rates, "optimiser step", 170, last),
        Panel(f"cross-entropy by {'source' if by_source else 'category'}", lines, "optimiser step", 300, last),
    ]


def _means(rows: Sequence[SourceRow]) -> tuple[list[float], list[float]]:
    """Steps, and the mean over supervised tokens of the rows of each."""
    sums: dict[float, list[float]] = {}
    for row in rows:
        if row.tokens:
            total = sums.setdefault(row.step, [0.0, 0.0])
            total[0] += row.loss * row.tokens
            total[1] += row.tokens
    return list(sums), [loss / tokens for loss, tokens in sums.values()]


def _titled(title: str, panels: Sequence[Panel]) -> list[Panel]:
    return [Panel(f"{title}: {panel.title}", panel.curves, panel.x_label, panel.height, panel.x_top)
            for panel in panels]  # fmt: skip
