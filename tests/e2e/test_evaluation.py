"""Evaluation in a whole run of micro: through the real lmms-eval, of a broken model, and while training goes on."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from fusion.hashing import file_sha256
from tests.e2e.project import Project, copy_project, executed

pytestmark = pytest.mark.long
WEIGHTS = Path("checkpoints/micro/stage2/model.safetensors")
CHECKUP: dict[str, Any] = {
    "benchmark": "micro-test", "questions": 40, "every_steps": 5, "device": "cpu", "last_wait_seconds": 600.0,
}  # fmt: skip


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which `dvc repro` has built micro."""
    project = copy_project(tmp_path_factory.mktemp("evaluation") / "project", "micro")
    project.repro()
    return project


@pytest.mark.skipif(find_spec("lmms_eval") is None, reason="the extra `eval` is not installed (docs/evaluation.md)")
def test_both_engines_give_the_same_score(built: Project) -> None:
    told = built.run("fusion", "evaluate", "micro", "--engine", "lmms", HF_HUB_OFFLINE="1").stdout
    assert "the same" in told and "DIFFERENT" not in told
    (row,) = json.loads((built.root / "runs/lmms/micro.json").read_text(encoding="utf-8"))["columns"]
    assert row["lmms"] == pytest.approx(row["direct"]) and row["lmms"] > 0


def test_checkups_change_no_weight_and_their_scores_are_in_the_log(built: Project) -> None:
    expected = file_sha256(built.root / WEIGHTS)
    built.set("tracking.checkup", CHECKUP)
    shutil.rmtree(built.root / WEIGHTS.parent)
    built.run("fusion", "train", "micro", "stage2")
    assert file_sha256(built.root / WEIGHTS) == expected
    lines = (built.root / "runs/micro/stage2.jsonl").read_text(encoding="utf-8").splitlines()
    found = [line for line in map(json.loads, lines) if line.get("event") == "checkup" and "accuracy" in line]
    assert found and all(line["questions"] == 40 and line["low"] <= line["accuracy"] <= line["high"] for line in found)
    assert not list((built.root / "scratch").glob("checkup/*"))
    built.set("tracking.checkup", None)


def test_a_broken_model_is_not_packaged_and_the_gate_says_which_column_and_why(built: Project) -> None:
    """Trained with a rate at which nothing is learned; the gate has the settings that the good one passed."""
    built.run("fusion", "gate", "micro", "--accept")
    built.set("variants.micro.stages.stage2.learning_rate", 0.9)
    built.set("guards.max_loss_ratio", None)
    result = built.repro(check=False)
    assert result.returncode != 0 and executed(result)[-1] == "package@micro"
    told = result.stdout + result.stderr
    assert "micro does not pass the gate: micro-test (FAIL)" in told and "to the accepted checkpoint" in told
    assert not (built.root / "packages/micro/model.safetensors").exists()
