"""The benchmarks at tiny sizes: every saving off gives the same numbers, and reports are whole. No times are judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_train_step, train_step
from benchmarks.cases import Case, cases, seeded
from benchmarks.plain_model import ITEMS, PlainFusion
from benchmarks.rates import Recorder
from fusion.model.modeling import FusionForConditionalGeneration

torch.set_num_threads(1)


@pytest.mark.parametrize("case", cases(True).values(), ids=cases(True))
def test_every_saving_off_gives_the_same_loss_and_gradients(case: Case) -> None:
    batch = case.batch()
    model = seeded(FusionForConditionalGeneration, case.config())
    loss = model(batch, num_latents=case.num_latents).loss
    loss.backward()
    plain = seeded(PlainFusion, case.config()).train()
    choices = [frozenset(), *(frozenset([item]) for item in ITEMS), frozenset(ITEMS), frozenset(ITEMS)]
    for number, off in enumerate(choices):
        if number == len(choices) - 1:
            plain.enable_activation_checkpointing()
        plain.switch_off(off).zero_grad()
        with plain.running():
            found = plain(plain.prepare(batch), num_latents=case.num_latents).loss
            found.backward()
        assert float(found.detach()) == pytest.approx(float(loss.detach()), abs=1e-6), sorted(off)
        gradients = {name: parameter.grad for name, parameter in plain.named_parameters()}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_what_is_off_does_cost_something() -> None:
    """The plain path does more arithmetic and hands over floating point pixels: it is no second name of the product."""
    case = cases(True)["text_only_samples"]
    flops = {}
    for name, off in {"product": frozenset(), "plain": frozenset(ITEMS)}.items():
        model = seeded(PlainFusion, case.config()).switch_off(off)
        with model.running(), Recorder() as recorder:
            model(model.prepare(case.batch()), num_latents=case.num_latents).loss.backward()
        flops[name] = recorder.flops
    assert flops["plain"] > 1.5 * flops["product"]
    assert model.prepare(case.batch())["pixels"].dtype == torch.float32


def test_counted_operations_agree_with_those_on_paper() -> None:
    case = cases(True)["base"]
    model, batch = seeded(FusionForConditionalGeneration, case.config()), case.batch()
    with Recorder() as recorder:
        model(batch, num_latents=case.num_latents).loss.backward()
    on_paper = gpu_train_step.step_flops(model, model.layout(batch, case.num_latents, packed=True), 2)
    assert recorder.flops == pytest.approx(on_paper, rel=0.1)
    assert min(recorder.ideal_seconds(1).values()) > 0


def test_the_report_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    def here(arguments: list[str]) -> dict[str, float]:
        variant, name = arguments[1], arguments[3]
        case = cases(True)[name]
        if variant == "efficiency":
            return train_step.measure_efficiency(case, 1)
        return train_step.measure(variant, case, 0)

    monkeypatch.setattr(train_step, "in_fresh_process", here)
    report = train_step.run(1, ["--tiny"])
    assert report["wanted"].keys() == report["reached"].keys()
    rows = {variant for case in report["cases"].values() for variant in case}
    assert {"product", "plain", "product_checkpointed", *(f"without:{item}" for item in ITEMS)} <= rows
    assert all(row["seconds"] > 0 and row["peak_mb"] > 0 for case in report["cases"].values() for row in case.values())
    assert {"date", "versions", "processor"} <= report["surroundings"].keys()
    json.dumps(report)


def test_one_measurement_runs_in_its_own_process() -> None:
    result = train_step.in_fresh_process(["--measure", "plain", "--case", "base", "--tiny", "--steps", "1"])
    assert result["seconds"] > 0 and result["peak_mb"] > 50


def test_the_gpu_benchmark_runs_on_a_cpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.argv", ["gpu_train_step", "--device", "cpu", "--tiny", "--steps", "1"])
    monkeypatch.setattr(gpu_train_step, "write_result", lambda name, result: results.append(result) or tmp_path)
    results: list[dict[str, dict[str, dict[str, float]]]] = []
    gpu_train_step.main()
    row = results[0]["models"]["tiny"]
    assert row["decoder_positions_a_second"] > 0 and row["model_flops_utilisation"] > 0


def test_layers_that_fit() -> None:
    for case in gpu_train_step.shapes(False).values():
        assert gpu_train_step.layers_that_fit(case, 139 * 2**30) == 32
        fewer = gpu_train_step.layers_that_fit(case, 40 * 2**30)
        assert 1 <= fewer < 32
        cut = gpu_train_step.with_layers(case, fewer).config()
        assert cut.interaction_layers[-1] < fewer
