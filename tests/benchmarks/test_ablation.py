"""The ablation: its settings are what they say, its statistics are right; one short run of it goes from end to end."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks.ablation import CONDITIONS, derived, doing, end_leftovers, main, prepare, runs
from benchmarks.ablation_table import draw, group_result, markdown
from fusion.evaluate.score import ClusterBootstrap
from fusion.model.from_settings import architecture
from fusion.settings import Settings, load_settings
from tests.e2e.project import ROOT


def params() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return document


def test_runs_differ_in_one_part_of_the_model_and_in_the_seed() -> None:
    made = Settings.model_validate(derived(params(), "tiny", list(CONDITIONS), [1, 2, 3]))
    assert made.run.variants == [name for _, _, name in runs("tiny", list(CONDITIONS), [1, 2, 3])]
    published = architecture(made.variant("tiny").model)
    wanted = {
        "everything": {},
        "no-text": {"text_guided": False},
        "no-mapping": {"mapping_loss_weight": 0.0},
        "no-card": {"use_interaction": False, "num_of_vision_sampler_layers": 1},
    }
    assert published["text_guided"] and published["mapping_loss_weight"] == 0.1 and published["use_interaction"]
    for condition, seed, name in runs("tiny", list(CONDITIONS), [1, 2, 3]):
        fields = architecture(made.variant(name).model)
        assert {key: value for key, value in fields.items() if value != published[key]} == wanted[condition]
        assert made.seed(name) == seed and made.run.seed == load_settings(ROOT / "params.yaml").run.seed
        alike = {"seed", "publish_as", "model"}
        assert made.variant(name).model_dump(exclude=alike) == made.variant("tiny").model_dump(exclude=alike)


def test_a_dry_run_prints_the_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["ablation", "--variant", "micro", "--seeds", "7", "--dry-run"])
    main()
    told = yaml.safe_load(capsys.readouterr().out)
    assert list(told) == [f"micro-{name}-seed7" for name in CONDITIONS]
    assert told["micro-no-card-seed7"]["model"]["interaction"]["layers"] == 0


def test_the_table_has_means_differences_and_the_better_baseline(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    right = {"everything": 0.9, "no-card": 0.6}
    correct = {name: (generator.random((3, 400)) < share).astype(float) for name, share in right.items()}
    blind = {"grey picture": np.zeros((3, 400)), "question-only prior": np.tile([1.0, 0.0], 200)[None]}
    inside = np.ones(400, dtype=bool)
    bootstrap = ClusterBootstrap([str(number // 4) for number in range(400)], 500, 0.95, 1)
    found = group_result(correct, blind, inside, bootstrap)
    assert found["blind"] == "question-only prior" and found["baselines"]["question-only prior"]["mean"] == 0.5
    row = found["rows"]["no-card"]
    less = row["less_than_everything"]
    assert less["mean"] == pytest.approx((correct["everything"] - correct["no-card"]).mean(), abs=1e-5)
    assert 0 < less["low"] < less["mean"] < less["high"]
    assert row["accuracy"]["seeds"] == [pytest.approx(seed.mean(), abs=1e-5) for seed in correct["no-card"]]
    assert row["accuracy"]["seeds_deviation"] == pytest.approx(correct["no-card"].mean(1).std(ddof=1), abs=1e-5)
    assert found["rows"]["everything"]["less_than_everything"]["mean"] == 0
    result = {
        "variant": "tiny", "seeds": [1, 2, 3], "confidence": 0.95, "surroundings": {"commit": "c", "date": "d"},
        "conditions": {name: {"title": CONDITIONS[name].title} for name in right},
        "benchmarks": {"scenes": {"groups": {"all": found}}},
    }  # fmt: skip
    text = markdown(result)
    assert "| everything | " in text and "| no CARD | " in text and "| blind: question-only prior | 50.0 [" in text
    draw(result, tmp_path / "picture.png")
    with Image.open(tmp_path / "picture.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 5


def test_progress_is_read_from_the_newest_log(tmp_path: Path) -> None:
    assert doing(tmp_path, "x") == "data, base model"
    log = tmp_path / "runs/x/stage1.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text('{"event": "start", "steps": 9}\n{"step": 4, "loss": 1}\n{"step": 5, "lo', encoding="utf-8")
    assert doing(tmp_path, "x") == "stage1, step 4 of 9"


def test_what_a_killed_start_left_at_work_is_ended(tmp_path: Path) -> None:
    left = subprocess.Popen(["sleep", "60"], cwd=tmp_path)
    other = subprocess.Popen(["sleep", "60"])
    try:
        assert end_leftovers(tmp_path) == 1
        assert left.poll() is not None and other.poll() is None
    finally:
        other.kill()
        other.wait()
    assert end_leftovers(tmp_path) == 0 and end_leftovers(tmp_path / "none") == 0


@pytest.mark.long
def test_one_run_from_end_to_end_after_a_kill_and_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ["--variant", "micro", "--seeds", "1", "--only", "everything", "no-text"]
    arguments += ["--folder", str(tmp_path / "work"), "--output", str(tmp_path)]
    command = [sys.executable, "-m", "benchmarks.ablation", *arguments]
    killed = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    log = tmp_path / "work/micro/project/runs/micro-everything-seed1/stage2.jsonl"
    deadline = time.monotonic() + 900
    while not (log.is_file() and '"checkpoint"' in log.read_text(encoding="utf-8")):
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    killed.kill()  # alone: what it started goes on
    killed.wait()
    assert not (tmp_path / "ablation.json").exists()
    monkeypatch.setattr("sys.argv", ["ablation", *arguments])
    main()
    starts = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if '"start"' in line]
    assert [event["first_step"] > 0 for event in starts] == [False, True], "it went on where it was"
    assert (tmp_path / "ablation.png").is_file() and (tmp_path / "ablation.md").is_file()
    first = json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8"))
    assert set(first["benchmarks"]["micro-test"]["groups"]["all"]["rows"]) == {"everything", "no-text"}
    project = prepare(tmp_path / "work/micro/project", derived(params(), "micro", ["everything", "no-text"], [1]))
    assert not project.run("git", "status", "--porcelain", "params.yaml").stdout, "prepared again it stays as it is"
    main()
    again = json.loads((tmp_path / "ablation.json").read_text(encoding="utf-8"))
    assert again["benchmarks"] == first["benchmarks"] and again["seconds"] == first["seconds"], "nothing ran again"
