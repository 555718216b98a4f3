"""`fusion trace` and `fusion forget`: from a sample, a picture, a source or a licence to all that saw it."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fusion.cli import app
from fusion.data.stream.order import TrainingOrder
from fusion.errors import FusionError
from fusion.inquiry.forget import removal_plan
from fusion.inquiry.seen import as_ranges, steps_of
from fusion.inquiry.trace import tell, trace_document
from tests.inquiry.finished import BATCH, EPOCHS, LEFT_OUT, SEED, Project, picture


@pytest.fixture
def root(finished: Project, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(finished.root)
    return finished.root


@given(
    st.lists(st.integers(0, 3), min_size=4, max_size=300), st.integers(1, 3), st.integers(1, 40),
    st.integers(1, 9), st.integers(1, 6), st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_steps_are_those_of_the_training_order(draws, epochs, batch, block, window, data):
    if not any(draws):
        return
    order = TrainingOrder("a" * 64, 7, epochs, batch, np.array(draws), block, window)
    rows = np.unique(data.draw(st.lists(st.integers(0, len(draws) - 1), min_size=1, max_size=3)))
    expected = [step + 1 for step in range(order.steps) if np.isin(order.step(step), rows).any()]
    assert steps_of(rows, order).tolist() == expected


def steps_by_hand(root: Path, dataset: str, stage: str, sample: str) -> list[int]:
    table = pl.read_parquet(root / f"data/manifests/{dataset}/manifest.parquet")
    summary = json.loads((root / f"results/tiny/{stage}/summary.json").read_text())
    draws = (table["sample_id"] != LEFT_OUT).cast(int).to_numpy()
    seed = 20250414
    assert seed != SEED
    order = TrainingOrder(summary["manifest_sha256"], seed, EPOCHS, BATCH, draws)
    row = table["sample_id"].to_list().index(sample)
    return [step + 1 for step in range(order.steps) if row in order.step(step)]


def test_a_sample_leads_to_its_shard_its_steps_and_every_checkpoint(root: Path):
    document = trace_document("one/animals/00000007")
    (found,) = document["datasets"]
    assert found["shards"] == {"data/shards/one/animals/000000.tar": 1} and found["kept"] == 1
    (run,) = found["runs"]
    assert run["stage"] == "train_stage1@tiny" and run["checkpoint"] == "checkpoints/tiny/stage1"
    assert run["descendants"] == ["checkpoints/tiny/stage2"]
    assert run["seen_at"] == steps_by_hand(root, "one", "stage1", "one/animals/00000007") and len(run["seen_at"]) == 2


def test_a_picture_is_found_by_its_bytes_and_by_its_looks(root: Path, tmp_path: Path):
    (tmp_path / "same.png").write_bytes(picture(9))
    both = trace_document(str(tmp_path / "same.png"), near=0)
    assert [(f["dataset"], f["samples"][0]["sample_id"]) for f in both["datasets"]] == [
        ("one", "one/animals/00000009"), ("two", "two/animals/00000009"),
    ]  # fmt: skip
    image = Image.open(io.BytesIO(picture(9))).resize((150, 150)).convert("RGB")
    image.save(tmp_path / "like.jpg", quality=70)
    assert not trace_document(str(tmp_path / "like.jpg"), near=0)["datasets"]
    near = trace_document(str(tmp_path / "like.jpg"), near=40)["datasets"]
    assert {s["sample_id"] for f in near for s in f["samples"]} == {"one/animals/00000009", "two/animals/00000009"}
    assert all(0 < s["distance"] <= 40 for f in near for s in f["samples"])


def test_a_source_a_licence_and_a_hash(root: Path):
    (plants,) = trace_document("plants")["datasets"]
    assert plants["kept"] == 23 and sum(plants["shards"].values()) == 23
    assert [f["dataset"] for f in trace_document("CC0-1.0")["datasets"]] == ["one", "two"]
    assert [f["dataset"] for f in trace_document("two/animals")["datasets"]] == ["two"]
    sha = trace_document("two/plants/00000001")["datasets"][0]["samples"][0]["image_sha256"]
    assert trace_document(sha)["datasets"][0]["samples"][0]["sample_id"] == "two/plants/00000001"


def test_what_was_dropped_or_left_out_or_never_seen_is_told(root: Path):
    text = tell(trace_document("one/animals/00000005"))
    assert "dropped, nothing was trained on it: text/too-short (2)" in text and "train_stage1" not in text
    text = tell(trace_document(LEFT_OUT))
    assert "train_stage2@tiny: not drawn" in text
    assert "nothing here has seen it" in tell(trace_document("one/animals/00009999"))
    assert "nothing here has seen it" in tell(trace_document("GPL-3.0"))


def test_steps_are_not_made_up_when_the_manifest_is_another(finished: Project, tmp_path: Path):
    project = finished.copy(tmp_path / "copy")
    path = project.root / "data/validation/one/validation.json"
    path.chmod(0o644)
    path.write_text('{"manifest_sha256": "other"}')
    (run,) = trace_document("one/animals/00000007", root=project.root)["datasets"][0]["runs"]
    assert run["seen_at"] is None and "another manifest" in run["note"]


def test_the_plan_of_a_removal_names_rows_stages_and_costs_and_changes_nothing(root: Path):
    plan = removal_plan("two/plants/00000001")
    assert plan["rows"] == {"two": [{"row": 24, "sample_id": "two/plants/00000001"}]}
    assert plan["stages"][-2:] == ["train_stage2@tiny", "evaluate@tiny"] and "train_stage1@tiny" not in plan["stages"]
    assert plan["checkpoints"] == ["checkpoints/tiny/stage2"]
    assert "not_planned" not in plan["cost"]["tiny"], plan["cost"]
    assert plan["cost"]["tiny"]["gpu_hours"].keys() == {"stage2"}
    assert plan["cost"]["tiny"]["recorded_seconds"].keys() == {"train_stage2@tiny", "evaluate@tiny"}
    with pytest.raises(FusionError, match="nothing here has seen"):
        removal_plan("two/plants/00009999")
    done = CliRunner().invoke(app, ["forget", "two/plants/00000001", "--dry-run"])
    assert done.exit_code == 0 and "nothing was changed" in done.output
    with pytest.raises(FusionError, match="--dry-run"):
        CliRunner().invoke(app, ["forget", "two/plants/00000001"], catch_exceptions=False)


def test_ranges_of_steps():
    assert as_ranges((1, 2, 3, 7, 9, 10)) == "1\N{EN DASH}3, 7, 9\N{EN DASH}10"
