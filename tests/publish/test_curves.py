"""The pictures of the curves: there for every stage, equal for equal numbers, drawn where the numbers are."""

import csv
import math
import shutil
from pathlib import Path

import pytest
from PIL import Image

from fusion.publish.curves import draw_curves
from fusion.publish.drawing import Curve, Panel, draw
from fusion.publish.errors import PublishError
from fusion.settings import STAGES

NAMES = ["step", "loss", "cross_entropy", "learning_rate", "vision_learning_rate"]


def write_stage(folder: Path, steps: int, sources: int) -> None:
    folder.mkdir(parents=True)
    with (folder / "loss.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        for step in range(1, steps + 1):
            loss = 1 + 4 * math.exp(-5 * step / steps)
            writer.writerow([step, loss + 0.1, loss, 1e-3 * step / steps, 1e-4 * step / steps])
    with (folder / "loss_by_source.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "category", "source", "loss", "tokens", "samples"])
        for step in range(1, steps + 1):
            for number in range(sources):
                writer.writerow([step, f"category {number % 3}", f"source {number}", 1 + number / 9, 10 * number, 1])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("curves")
    for stage, sources in zip(STAGES, (1, 4, 30), strict=True):
        write_stage(made / "results/tiny" / stage, 12, sources)
    return made


def test_each_stage_has_a_picture_and_equal_numbers_give_equal_bytes(root: Path) -> None:
    folder = draw_curves("tiny", STAGES, root)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(first) == {"stage1.png", "stage1_5.png", "stage2.png", "all.png"}
    sizes = {}
    for name in first:
        with Image.open(folder / name) as picture:
            sizes[name] = picture.size
            assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20, "lines, not a white page"
    assert sizes["stage1.png"][1] == sizes["all.png"][1] and sizes["all.png"][0] > sizes["stage1.png"][0]
    draw_curves("tiny", STAGES, root)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_what_is_missing_is_named_with_the_stage_that_makes_it(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "results/tiny", tmp_path / "results/tiny")
    (tmp_path / "results/tiny/stage1_5/loss_by_source.csv").unlink()
    with pytest.raises(PublishError, match=r"loss_by_source\.csv is missing: run `dvc repro train_stage1_5@tiny`"):
        draw_curves("tiny", STAGES, tmp_path)


def coloured(picture: Image.Image, colour: tuple[int, int, int]) -> set[int]:
    """Columns that have a pixel of about this colour."""
    wide, high = picture.size
    return {
        x
        for x in range(wide)
        for y in range(high)
        if max(abs(a - b) for a, b in zip(picture.getpixel((x, y)), colour, strict=True)) < 40  # type: ignore[arg-type]
    }


def test_a_line_is_where_its_numbers_are_and_has_a_gap_where_there_are_none() -> None:
    steps = [float(step) for step in range(1, 11)]
    heights = [5.0] * 4 + [math.nan] * 3 + [5.0] * 3
    empty = draw("gap", [[Panel("loss", [Curve("red", [], [], "#ff0000", 3)], "step", 200, 10.0)]], 300)
    full = draw("gap", [[Panel("loss", [Curve("red", steps, heights, "#ff0000", 3)], "step", 200)]], 300)
    assert full.size == empty.size
    drawn = coloured(full, (255, 0, 0)) - coloured(empty, (255, 0, 0))
    assert min(drawn) == pytest.approx(62 + 30, abs=2) and max(drawn) == pytest.approx(62 + 300, abs=2)
    assert not drawn & set(range(62 + 125, 62 + 235)), "from step 4 to step 8 nothing is known"


def test_a_single_point_is_seen() -> None:
    one = draw("one", [[Panel("loss", [Curve("", [3.0], [2.0], "#ff0000", 3)], "step", 200)]], 300)
    assert coloured(one, (255, 0, 0))
