"""The three stages on a GPU: refused without one, its settings can be planned, its numbers are those of the log, and
the whole program runs on the CPU with micro.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from benchmarks import gpu_stages
from benchmarks.gpu_stages import ALL, KILLED, MIDDLE, WARM_UP, chosen_gpu, derived, measured, outline, plan, repeated
from fusion.agreement import check_agreement
from fusion.data.catalog import load_catalog
from fusion.plan.errors import PlanError
from fusion.settings import Settings
from tests.e2e.project import ROOT


def params() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    return document


def test_without_a_gpu_it_is_refused_before_anything_is_made(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu_stages", "--folder", str(tmp_path / "work"), "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        gpu_stages.main()
    assert ended.value.code == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "sees no GPU here" in told and "`--device cpu`" in told
    assert list(tmp_path.iterdir()) == []


def test_the_settings_are_valid_and_can_be_planned() -> None:
    variant, made = derived(params(), "cuda")
    settings = Settings.model_validate(made)
    assert variant == MIDDLE and settings.run.variants == [MIDDLE] and settings.hardware(MIDDLE).device == "cuda"
    check_agreement(settings, load_catalog(ROOT / "data/catalog"))
    planned = plan(made, variant, "h100", ROOT)
    assert list(planned.stages) == list(ALL)
    for stage, one in planned.stages.items():
        assert 3e8 < one.model.parameters.total < 7e8
        assert one.as_set.fits and one.model.settings.precision == "bf16"
        assert settings.stage(variant, stage).save_every_steps == (60 if stage == KILLED else 1000)
    # Even 20,000 samples a stage would leave half of the time for starts, checkpoints and a slower GPU than planned.
    samples = [one.as_set.seconds / one.model.settings.global_batch for one in planned.stages.values()]
    assert sum(samples) * 20_000 < gpu_stages.GOAL_SECONDS / 2
    assert "million parameters" in outline(planned) and "ZeRO-2, micro-batch 32" in outline(planned)


def test_a_dry_run_prints_settings_and_plan(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_stages", "--dry-run", "--gpu", "a100", "--folder", str(tmp_path)])
    gpu_stages.main()
    told = capsys.readouterr().out
    assert yaml.safe_load(told)["variants"][MIDDLE]["publish_as"] == "FUSION-Middle"
    assert "on a100 at 40%" in told and "# stage2: " in told


def test_the_gpu_is_known_by_its_driver_or_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    assert chosen_gpu(None, "cuda") == "h200" and chosen_gpu("a100", "cuda") == "a100"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA T4")
    with pytest.raises(PlanError, match=r"NVIDIA T4 .* say with --gpu"):
        chosen_gpu(None, "cuda")
    with pytest.raises(PlanError, match="no-such-gpu"):
        chosen_gpu("no-such-gpu", "cuda")


def step(number: int, seconds: float, loss: float = 2.0) -> dict[str, Any]:
    return {"step": number, "loss": loss, "seconds": seconds, "tokens": 100, "samples": 4, "flops": 10**12}


def test_rates_leave_out_the_first_steps_of_every_start() -> None:
    start = {"event": "start", "flops_a_second_of_devices": 4e12, "first_step": 0}
    slow, fast = [step(n, 9.0) for n in range(1, WARM_UP + 1)], [step(n, 0.5) for n in range(WARM_UP + 1, 21)]
    again = [step(n, 9.0, 1.0) for n in range(16, 16 + WARM_UP)]
    lines = [start, *slow, *fast, {"event": "checkpoint", "step": 15}, {**start, "first_step": 15}, *again]
    found = measured(lines)
    assert (found["steps"], found["steps_timed"]) == (20, 15)
    assert found["seconds_a_step"] == {"mean": 0.5, "median": 0.5}
    assert (found["tokens_a_second"], found["samples_a_second"]) == (200.0, 8.0)
    assert (found["tflops"], found["model_flops_utilisation"]) == (2.0, 0.5)
    assert found["loss"] == {"first_tenth": 2.0, "last_tenth": 1.0}, "of a step done twice the last word counts"
    assert measured([start, *slow])["tokens_a_second"] == round(100 / 9, 1)
    told = repeated(lines)
    assert told == {
        "after_step": 20, "continued_after_step": 15, "steps_done_twice": 5, "same_samples": True,
        "largest_difference_of_losses": 0.5,
    }  # fmt: skip
    with pytest.raises(RuntimeError, match="began anew"):
        repeated([start, *slow, start, *slow])


def test_a_rank_leaves_its_peak_of_memory_and_no_other_process_does(tmp_path: Path) -> None:
    folder = str(ROOT / "benchmarks/peaks")
    inside = {**os.environ, "PYTHONPATH": folder, gpu_stages.FOLDER: str(tmp_path)}
    inside.pop("RANK", None)
    command = [sys.executable, "-c", "bytearray(1 << 26)"]
    subprocess.run(command, env=inside, check=True)
    assert list(tmp_path.iterdir()) == []
    subprocess.run(command, env={**inside, "RANK": "3"}, check=True)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith("3-") and json.loads(left.read_text(encoding="utf-8"))["main_memory"] > 1 << 26


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_whole_program_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ["--device", "cpu", "--folder", str(tmp_path / "work"), "--output", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["gpu_stages", *arguments])
    gpu_stages.main()
    result = json.loads((tmp_path / "gpu_stages.json").read_text(encoding="utf-8"))
    assert result["trial"] and result["variant"]["name"] == "micro" and not result["liger"]
    assert list(result["stages"]) == list(ALL)
    for stage, found in result["stages"].items():
        assert found["tokens_a_second"] > 0 and found["peak_memory_bytes"]["main_memory"] > 1 << 27
        assert found["planned"]["steps"] is not None, "from the manifest that was made"
        assert ("killed" in found) == (stage == KILLED)
    killed = result["stages"][KILLED]["killed"]
    assert killed["continued_after_step"] >= 5 and killed["steps_done_twice"] > 0 and killed["same_samples"]
    assert killed["largest_difference_of_losses"] == 0.0
