"""Evaluation in a whole run of micro: through the real lmms-eval, of a broken model, and while training goes on."""

import json
import shutil
import socket
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fusion.hashing import file_sha256
from tests.e2e.project import Project, copy_project, executed

pytestmark = pytest.mark.long
NEEDED = pytest.mark.skipif(
    find_spec("lmms_eval") is None, reason="the extra `eval` is not installed (docs/evaluation.md)"
)
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


@NEEDED
def test_both_engines_give_the_same_score(built: Project) -> None:
    told = built.run("fusion", "evaluate", "micro", "--engine", "lmms", HF_HUB_OFFLINE="1").stdout
    assert "the same" in told and "DIFFERENT" not in told
    (row,) = json.loads((built.root / "runs/lmms/micro.json").read_text(encoding="utf-8"))["columns"]
    assert row["lmms"] == pytest.approx(row["direct"]) and row["lmms"] > 0
    assert row["version"] == version("lmms-eval")
    asked = [json.loads(line) for line in (built.root / "runs/lmms/micro/micro-test.jsonl").read_text().splitlines()]
    records = pl.read_parquet(built.root / "results/micro/evaluation/records.parquet")
    assert [(line["question"], line["answer"]) for line in asked] == records.select("question", "raw").rows()


@NEEDED
def test_columns_that_lmms_eval_cannot_run_are_told_and_no_number(built: Project) -> None:
    """An unknown task, and data that cannot be fetched, for want of a token at the latest: exit code 1, no number."""
    built.set("variants.micro.evaluation.columns", ["POPE", "MMVP"])
    built.set("engine.task", "popes", "fusion/evaluate/columns/pope.yaml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}"
    home = str(built.root / "scratch/home")
    result = built.run("fusion", "evaluate", "micro", "--engine", "lmms", check=False, HF_ENDPOINT=nobody, HF_HOME=home)
    assert result.returncode == 1
    lines = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert "the same" in lines["micro-test"]
    for name, said in (("POPE", "lmms-eval has no task `popes`"), ("MMVP", "exit code 1")):
        assert lines[name].split()[1:3] == ["lmms-eval", "-"] and said in result.stderr
    rows = {row["name"]: row for row in json.loads((built.root / "runs/lmms/micro.json").read_text())["columns"]}
    assert rows["POPE"]["lmms"] is rows["MMVP"]["lmms"] is None
    built.set("variants.micro.evaluation.columns", [])
    built.run("git", "checkout", "--", "fusion/evaluate/columns/pope.yaml")


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
    """Its rates are such that nothing is learned, and no loss looks odd; the gate asks what the good one passed."""
    built.run("fusion", "gate", "micro", "--accept")
    for stage in ("stage1", "stage1_5", "stage2"):
        for rate in ("learning_rate", "vision_learning_rate"):
            built.set(f"variants.micro.stages.{stage}.{rate}", 1e-12)
    result = built.repro(check=False)
    assert result.returncode != 0 and executed(result)[-1] == "package@micro"
    told = result.stdout + result.stderr
    assert "micro does not pass the gate: micro-test (FAIL)" in told and "to the accepted checkpoint" in told
    assert not (built.root / "packages/micro").exists()
    judged = built.run("fusion", "gate", "micro", check=False)
    assert judged.returncode == 1 and "micro: does not pass: micro-test" in judged.stdout
    refused = built.run("fusion", "publish", "micro", check=False)
    assert refused.returncode == 1 and not (built.root / "published").exists(), refused.stdout
