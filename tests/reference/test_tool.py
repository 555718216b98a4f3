"""The comparison itself: it takes cases of every form, and a wrong number does not pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.reference.__main__ import main
from tests.reference.compare import compare_case
from tests.reference.recorder import Shape, record

SHAPES = [
    Shape(),
    Shape(family="llama", seed=7, query_len=1, turns=(1,), seen=(True,)),
    Shape(seed=3, query_len=9, window_size=1, turns=(1, 4, 2), seen=(True, True, True), patch_size=14),
    Shape(family="llama", seed=4, turns=(3, 2), seen=(False, False), tower_layers=8),
    Shape(seed=5, turns=(2,), seen=(False,), query_len=16),
    Shape(family="llama", seed=6, decoder_layers=5, interaction=(2, 1, 3), turns=(1, 1, 2), seen=(False, True, True)),
    Shape(seed=8, decoder_layers=3, interaction=(3, 0, 1), tied=True, turns=(1, 2), seen=(True, False)),
]


def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["tests.reference", str(folder)])
    return main()


def test_cases_of_every_form_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for index, shape in enumerate(SHAPES):
        record(shape, tmp_path / f"case-{index}")
    assert run(monkeypatch, tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(SHAPES) and all(line.startswith("ok ") for line in lines)
    assert all(name in lines[0] for name in ("pixels", "embeds", "context", "loss", "logits", "grads"))


QUANTITIES = (
    "input_ids", "labels", "pixel_mean", "pixel_probe", "inputs_embeds", "inputs_embeds_sum", "merged_labels",
    "instructs", "global_ctx", "instruct_pos", "vision_pos", "logits_tail", "generated", "image_0",
)  # fmt: skip


def test_every_wrong_number_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prefix = tmp_path / "case"
    record(SHAPES[0], prefix)
    path = Path(f"{prefix}.io.safetensors")
    recorded = load_file(path)
    for name in QUANTITIES:
        tensor = recorded[name].clone()
        flat = tensor.view(-1)
        index = int((flat > 3).nonzero()[0]) if name in ("input_ids", "labels", "instructs", "merged_labels") else 0
        flat[index] += 1 if not tensor.is_floating_point() else 1e-2
        save_file({**recorded, name: tensor}, path)
        assert not compare_case(prefix).passed, name
    save_file({**recorded, "logits_tail": torch.full_like(recorded["logits_tail"], float("nan"))}, path)
    assert not compare_case(prefix).passed
    save_file({name: tensor for name, tensor in recorded.items() if name != "global_ctx"}, path)
    assert run(monkeypatch, tmp_path) == 1
    assert capsys.readouterr().out.startswith("FAIL case:") and Path(f"{prefix}.json").is_file()
    save_file(recorded, path)
    assert compare_case(prefix).passed

    weights = load_file(f"{prefix}.weights.safetensors")
    changed = weights["model.vision_sampler_layers.1.layers.0.proj_out.linear_2.weight"].clone()
    changed.view(-1)[0] += 0.05
    save_file(
        {**weights, "model.vision_sampler_layers.1.layers.0.proj_out.linear_2.weight": changed},
        f"{prefix}.weights.safetensors",
    )
    assert run(monkeypatch, tmp_path) == 1
    Path(f"{prefix}.weights.safetensors").unlink()
    assert run(monkeypatch, tmp_path) == 1
    assert "missing lm_head.weight" in capsys.readouterr().out


def test_an_empty_folder_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, tmp_path) == 2
