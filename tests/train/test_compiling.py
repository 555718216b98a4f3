"""Compiled layers: the same loss and gradients, the same names, and code that is not made anew for every batch."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from torch._inductor.compile_fx import compile_fx

from fusion.settings import Settings, SettingsError, load_settings
from fusion.train import compiling
from fusion.train.compiling import check_compiler, compile_layers
from fusion.train.errors import TrainingError
from fusion.train.launch import rank_variables
from fusion.train.recipe import Recipe
from tests.e2e.project import ROOT
from tests.model.test_modeling import gradients, samples
from tests.model.tiny import build
from tests.train.test_options import train_cases
from tests.train.test_recipe import recipe


class Backend:
    """Counts the pieces of code that are made, and makes them with inductor or leaves them to torch."""

    def __init__(self, inductor: bool) -> None:
        self.inductor, self.made = inductor, 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> object:
        self.made += 1
        return compile_fx(graph, inputs) if self.inductor else graph


def compare(shapes: list[list[int]], backend: Backend, tolerance: float, decoder_alone: bool = False) -> list[int]:
    """Trains on batches of the samples with these numbers, activations checkpointed; pieces of code after each."""
    model, processor = build("llama_3")
    every = samples(processor)
    batches = [processor.collate([every[number] for number in chosen]) for chosen in shapes]
    model.train().enable_activation_checkpointing()
    expected = []
    for batch in batches:
        loss = model(batch).loss
        loss.backward()
        expected.append((loss.detach(), gradients(model)))
    names = list(model.state_dict())
    torch._dynamo.reset()
    used = (model.config.used_tower_layers, 2, len(model.config.interaction_layers))
    if decoder_alone:
        assert compile_layers(model.model.layers, backend) == 2
    else:
        assert compile_layers(model, backend) == sum(used)
    assert list(model.state_dict()) == names and [name for name, _ in model.named_parameters()] == names
    made = []
    for batch, (loss, wanted) in zip(batches, expected, strict=True):
        output = model(batch)
        output.loss.backward()
        torch.testing.assert_close(output.loss.detach(), loss, rtol=tolerance, atol=tolerance)
        found = gradients(model)
        assert found.keys() == wanted.keys()
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, wanted[name], rtol=100 * tolerance, atol=10 * tolerance)
        made.append(backend.made)
    return made


def test_compiled_layers_give_the_same_and_settle() -> None:
    """Batches with other lengths, turns and numbers of pictures need no code of their own."""
    first, *others = compare([[0, 1, 2], [1, 3, 4], [4, 0, 1]], Backend(inductor=False), 1e-6, decoder_alone=True)
    assert 0 < first <= 8 and set(others) == {first}


@pytest.mark.long
def test_compiled_by_inductor_they_give_the_same_and_settle() -> None:
    """One picture, none, or one text are kinds of their own; no kind is compiled twice."""
    shapes = [[0, 1, 2], [1, 3, 4], [0], [2], [0, 4, 1], [2, 3], [4, 3], [1], [3], [3, 2], [1, 4, 2, 3]]
    made = compare(shapes, Backend(inductor=True), 1e-5)
    assert made[-1] == made[-5] <= 80, f"pieces of code after each batch: {made}"


@pytest.mark.long
def test_the_engine_trains_the_same_with_compiled_layers(tmp_path: Path) -> None:
    whole = {"zero_stage": 2}
    train_cases(tmp_path, {"plain": whole, "compiled": whole | {"compile": True}})
    found = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert found["compiled"]["losses"][0] == pytest.approx(found["plain"]["losses"][0], rel=1e-5)
    # At the learning rate of these few steps a rounding grows fast.
    assert found["compiled"]["losses"] == pytest.approx(found["plain"]["losses"], rel=2e-2)
    assert found["compiled"]["losses"] != found["plain"]["losses"], "nothing was compiled"
    for name in ("changed", "trained", "states"):
        assert found["compiled"][name] == found["plain"][name]


def test_a_copy_of_a_compiled_layer_is_its_own() -> None:
    model, processor = build("phi_3")
    compile_layers(model, Backend(inductor=False))
    layer = model.model.layers[0]
    copied = copy.deepcopy(layer)
    assert copied.forward.args[0] is copied and layer.forward.args[0] is layer
    with torch.no_grad():  # evaluation runs what is not compiled
        assert torch.isfinite(model(processor.collate(samples(processor))).loss)


def compiled(tmp_path: Path, device: str = "cpu") -> Recipe:
    made = recipe(tmp_path)
    hardware = made.hardware.model_copy(update={"compile": True, "device": device})
    return dataclasses.replace(made, hardware=hardware)


def test_ranks_on_processors_may_compile_where_it_is_asked_for(tmp_path: Path) -> None:
    assert "TORCHDYNAMO_DISABLE" in rank_variables(recipe(tmp_path))
    assert "TORCHDYNAMO_DISABLE" not in rank_variables(compiled(tmp_path))


def test_what_cannot_compile_is_refused_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    monkeypatch.delenv("CC", raising=False)
    check_compiler(compiled(tmp_path))
    monkeypatch.setattr(compiling, "find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"hardware\.compile: .* package triton"):
        check_compiler(compiled(tmp_path, "cuda"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TrainingError, match=r"needs a compiler \(g\+\+\)"):
        check_compiler(compiled(tmp_path))
    check_compiler(recipe(tmp_path))
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    with pytest.raises(TrainingError, match="TORCHDYNAMO_DISABLE switches torch"):
        check_compiler(compiled(tmp_path))


def test_zero_3_is_refused_in_the_settings(tmp_path: Path) -> None:
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    tiny = document["variants"]["tiny"]
    tiny["hardware"]["compile"] = True
    assert Settings.model_validate(document).hardware("tiny").compile
    tiny["stages"]["stage1_5"]["zero_stage"] = 3
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
    with pytest.raises(SettingsError, match=r"tiny\.hardware\.compile: needs a zero_stage of 0, 1 or 2, and stage1_5"):
        load_settings(tmp_path / "params.yaml")
