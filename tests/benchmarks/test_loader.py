"""The benchmarks of the loader at small sizes: reports are whole, what is compared is the same. No times are judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import chaos_stream, loader, packing, waits
from benchmarks.manifests import DATASET
from fusion.train.batches import RankBatches


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("loader")
    loader.make_set(made, 12, 3000)
    return made


def test_the_plain_way_makes_the_pictures_that_the_loader_makes(folder: Path) -> None:
    """But for what rounding and the borders of the quarters differ in."""
    rank = RankBatches(loader.recipe_of(folder, 32, 0), loader.make_processor(), loader.PATCHES, 3)
    (batch, *_), (rows, *_) = (lambda step: (step.batches, step.rows))(next(rank(0, folder / "notes")))
    assert batch is not None
    index = int(np.flatnonzero(batch["image_index"].numpy() >= 0)[0])
    origin = rank.manifest.origins([rows[index]])[0]
    # Rows take the samples of the pool in turn, the pictures first.
    plain = loader.plain_picture(folder / "pictures" / f"{origin['row'] % 13:06d}.jpg")
    ours = (batch["pixels"][int(batch["image_index"][index])].float() / 255 - 0.5) / 0.5
    assert plain.shape == ours.shape
    assert float((plain - ours).abs().mean()) < 0.02


def test_a_core_is_measured(folder: Path) -> None:
    report = loader.pictures_a_second(folder, 8, 1)
    assert min(report["pictures_a_second"].values()) > 0 and report["loader_over_plain"] > 0


def test_waiting_is_measured_against_the_planned_time_of_a_step(folder: Path) -> None:
    planned = waits.plan_of(folder, 0.4)
    assert planned.model.target.gpus == 32 and planned.model.traffic.source == "counted in its manifest"
    report = waits.measure(folder, planned, 1, 0, 0.1)
    assert 0 <= report["share_waited"] <= 1 and report["pictures_a_second"] > 0
    # The steps that are read have the samples that the plan was made for, but for the latents that a step draws.
    ratio = report["planned_seconds_of_these_steps"] / report["planned_seconds_of_an_average_step"]
    assert 0.7 < ratio < 1.4, "within what one step differs from the mean by"
    faster = waits.plan_of(folder, 0.8)
    assert faster.advised.compute_seconds == pytest.approx(planned.advised.compute_seconds / 2, rel=0.01)


def test_opening_is_measured_in_a_fresh_process(folder: Path) -> None:
    row = loader.in_fresh_process(["--open", str(folder), "--ranks", "32", "--workers", "0"])
    assert row["rows"] == 3000 and row["samples_of_the_first_step"] == 256
    assert row["open_seconds"] <= row["first_batch_seconds"]
    assert row["most_mb_above_imports"] < 300
    assert list((folder / "scratch/tables").glob("manifest-*"))


def test_killed_streams_give_the_same_batches(tmp_path: Path) -> None:
    report = chaos_stream.run(tmp_path, 8, 0, rows=600)
    assert report["kills"] == 8 and report["steps"] == 38 and report["equal"]


def test_a_manifest_of_any_size_has_distinct_rows_of_all_sources(folder: Path) -> None:
    rank = RankBatches(loader.recipe_of(folder, 1, 0), loader.make_processor(), loader.PATCHES, 0)
    origins: list[dict[str, Any]] = rank.manifest.origins(range(3000))
    assert len({origin["sample_id"] for origin in origins}) == 3000
    assert len({origin["source"] for origin in origins}) == 9
    assert {origin["dataset"] for origin in origins} == {DATASET}


def test_the_tables_of_packing_are_whole() -> None:
    report = packing.run(["fusion-5m-stage1_5"], 3)
    rows = report["datasets"]["fusion-5m-stage1_5"]["rows"]
    assert [row["ranks"] for row in rows] == [1, 2, 8, 32]
    assert all(0 < row["real_share_plain"] < row["real_share"] <= 1 for row in rows)
    json.dumps(report)
