"""One stage on other ranks and under other ZeRO stages: the same samples, the same losses, a state that continues."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from benchmarks.ranks import (
    RESUMED,
    TOLERANCE,
    cell,
    clear,
    curve,
    difference,
    make_project,
    resumed,
    run,
    set_cell,
    train,
)
from fusion.data.stream.manifest import has_picture, lengths
from fusion.data.stream.packing import spread
from fusion.model.checkpoints import load_checkpoint
from fusion.plan.memory import checkpoint_bytes
from fusion.train.batches import planned_order
from fusion.train.errors import Preempted, TrainingError
from fusion.train.launch import tensor_shapes
from fusion.train.layout import Layout
from fusion.train.parts import Elements
from fusion.train.universal import PARTS, faults_of
from tests.train.test_recipe import ROOT, recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose smallest model is ready for its first stage."""
    made = tmp_path_factory.mktemp("ranks")
    make_project(made, 1)
    return made


def test_the_steps_have_what_ranks_may_trip_over(folder: Path) -> None:
    """Texts alone on one rank beside pictures on the other, and nothing at all on one."""
    made = set_cell(folder, 2, 3)
    model, _ = load_checkpoint(made.parent)
    manifest, order, _ = planned_order(made, model.config.num_patches)
    seen: set[tuple[bool | None, ...]] = set()
    for step in range(order.steps):
        rows = manifest.rows(order.step(step))
        shown = has_picture(rows)
        tokens = lengths(rows, model.config.num_patches, made.num_latents(step))
        ranks = spread(tokens, shown, 2, made.hardware.micro_batch)
        for packs in zip(*ranks, strict=True):
            seen.add(tuple(bool(shown[pack].any()) if len(pack) else None for pack in packs))
    assert {(True, False), (False, True)} & seen
    assert {(True, None), (False, None)} & seen


@pytest.mark.long
def test_a_state_of_two_ranks_continues_on_one_to_the_same_losses(folder: Path) -> None:
    """The last step has one sample, so that one of two ranks has none; ZeRO-3 must not wait for it."""
    expected = cell(folder, 1, 2)
    assert len(expected.losses) == 21 and expected.samples[-1][0] == 1
    assert difference(resumed(folder, (2, 3, 1, 3), 4), expected) < TOLERANCE["fp32"]


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_all_ranks_and_zero_stages(tmp_path: Path) -> None:
    result = run(tmp_path, (1, 2, 3, 4), (0, 1, 2, 3), RESUMED, 1, "fp32")
    assert len(result["cells"]) == 15 + len(RESUMED)


@pytest.mark.long
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_the_optimiser_may_lie_in_the_memory_of_the_host(folder: Path, zero: int) -> None:
    assert difference(cell(folder, 2, zero, offload=True), cell(folder, 2, zero)) < TOLERANCE["fp32"]


@pytest.mark.long
def test_a_state_that_cannot_be_converted_says_what_to_do(folder: Path) -> None:
    code, told = train(set_cell(folder, 2, 2), 4)
    assert code == Preempted.exit_code, told
    refused = set_cell(folder, 2, 3)
    code, told = train(refused)
    assert code == 1 and "Traceback" not in told
    assert "set zero_stage back to 2" in told and "fusion scratch --clear" in told
    code, told = train(set_cell(folder, 2, 1))
    assert code == 0 and "zero_stage 2 -> 1" in told, told
    clear(refused)


@pytest.mark.parametrize(("before", "after"), itertools.product(range(4), repeat=2))
def test_which_states_convert(before: int, after: int) -> None:
    old = Layout(2, before, 8, 1, "cpu", False, False)
    new = Layout(3, after, 8, 1, "cpu", False, False)
    if before == after == 0:
        assert not old.needs_conversion(new), "every rank has all of it"
    elif {before, after} <= {1, 2} or before == after:
        assert old.needs_conversion(new)
    else:
        with pytest.raises(TrainingError, match=f"zero_stage back to {before}"):
            old.needs_conversion(new)


def test_other_threads_or_batches_need_no_conversion_and_are_told() -> None:
    old = Layout.of(recipe(ROOT))
    assert Layout.stored(old.as_dict() | {"first_step": 3}) == old and old.differences(old) == []
    new = Layout.stored(old.as_dict() | {"micro_batch": 16})
    assert not old.needs_conversion(new) and old.differences(new) == ["micro_batch 32 -> 16"]


def universal(folder: Path) -> tuple[Path, Path]:
    """A state of two weights, as DeepSpeed writes it, and its universal form."""
    weights = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    source, target = folder / "source", folder / "target"
    source.mkdir()
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    torch.save({"param_shapes": [shapes], "module": weights}, source / "mp_rank_00_model_states.pt")
    for name, tensor in weights.items():
        (target / "zero" / name).mkdir(parents=True)
        for part in PARTS:
            torch.save({"param": tensor if part == "fp32" else tensor**2}, target / "zero" / name / f"{part}.pt")
    return source, target


def _change(path: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    torch.save({"param": change(torch.load(path)["param"])}, path)


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a file": ("exp_avg of b is missing", lambda zero: (zero / "b/exp_avg.pt").unlink()),
    "a parameter": ("fp32 of a is missing", lambda zero: shutil.rmtree(zero / "a")),
    "elements": ("exp_avg_sq of b has 4 elements instead of 5", lambda zero: _change(zero / "b/exp_avg_sq.pt", _cut)),
    "a number": ("exp_avg of a is not finite", lambda zero: _change(zero / "a/exp_avg.pt", torch.log)),
    "a weight": ("a differs from the weight", lambda zero: _change(zero / "a/fp32.pt", lambda weight: weight + 1e-6)),
}


def _cut(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[:-1]


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_conversion_that_lost_something_is_found(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(1)
    source, target = universal(tmp_path)
    assert list(faults_of(source, target)) == []
    fault, damage = DAMAGES[kind]
    if kind == "a number":
        _change(target / "zero/a/exp_avg.pt", lambda tensor: tensor - tensor)  # the logarithm of 0
    damage(target / "zero")
    assert any(fault in line for line in faults_of(source, target))


LORA = {"rank": 3, "alpha": 6.0, "dropout": 0.1, "targets": {"language": "all", "vision": ["fc1"]}}
OVERHEAD = 400_000
"""Bytes of names and the like in the files of a state."""


@pytest.mark.long
def test_adapters_on_two_ranks_under_every_zero_stage(tmp_path: Path) -> None:
    """The same curve under all of them, also after a stop, and a state that other ranks continue."""
    make_project(tmp_path, 1)
    path = tmp_path / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["variants"]["micro"]["stages"]["stage1"]["lora"] = LORA
    path.write_text(yaml.safe_dump(params), encoding="utf-8")
    expected = cell(tmp_path, 2, 0)
    for zero in (1, 2, 3):
        made = set_cell(tmp_path, 2, zero)
        assert train(made, 7)[0] == Preempted.exit_code
        elements = Elements.of(tensor_shapes(made.parent), made.settings)
        state = sum(file.stat().st_size for file in next((made.root / "scratch/train").glob("*/step-*")).glob("*.pt"))
        planned = checkpoint_bytes(elements.all, elements.trained, 4, zero, on_gpu=False)
        assert elements.trained < elements.all / 2 and planned < state < planned + OVERHEAD
        code, told = train(made)
        assert code == 0, told
        assert difference(curve(made), expected) < TOLERANCE["fp32"]
        clear(made)
    # Masks of dropout follow from a rank's number: on other ranks the curve is another one, by a little.
    for way in ((2, 2, 1, 2), (2, 3, 1, 3), (1, 2, 2, 1)):
        assert difference(resumed(tmp_path, way, 7), expected) < 1e-2
