"""A benchmark asked while training goes on: of the weights as they are saved, and nothing of training depends on it."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import psutil
import pytest
import torch
import yaml

from benchmarks.ranks import VARIANT, clear, make_project, set_cell, start_ranks, train
from fusion.evaluate.benchmark import load_benchmark
from fusion.evaluate.score import is_correct
from fusion.evaluate.systems import CheckpointSystem
from fusion.hashing import file_sha256
from fusion.model.adapters import add_adapters, merge_adapters
from fusion.settings import Lora
from fusion.train.checkup import MODULE, merged
from fusion.train.recipe import Recipe
from tests.data.workshop import picture
from tests.model.tiny import build

BENCHMARK, QUESTIONS = "numbers-test", 24
STEPS = 21
LORA: dict[str, Any] = {"rank": 3, "alpha": 12.0, "dropout": 0.1, "targets": {"language": "all", "vision": ["fc1"]}}
CHECKUP: dict[str, Any] = {
    "benchmark": BENCHMARK, "questions": None, "every_steps": STEPS, "device": "cpu", "last_wait_seconds": 300.0,
}  # fmt: skip


def write_questions(folder: Path, expected: list[str]) -> None:
    """The benchmark, each picture asked about three times, with these answers expected."""
    place = folder / "data/benchmarks" / BENCHMARK
    place.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    with tarfile.open(place / "images.tar", "w") as tar:
        for number in range(QUESTIONS // 3):
            data = picture(1000 + number)
            info = tarfile.TarInfo(f"{number}.png")
            info.size = len(data)
            offset = tar.offset + 512
            tar.addfile(info, io.BytesIO(data))
            for part, text in enumerate(("what is this?", "how is it?", f"and text {number}?")):
                rows.append({
                    "question_id": f"{number}-{part}", "image_id": info.name, "question": text,
                    "answer": expected[len(rows)], "kind": "open", "category": "x", "image_offset": offset,
                    "image_size": len(data),
                })  # fmt: skip
    pl.DataFrame(rows).write_parquet(place / "questions.parquet")


def put(folder: Path, checkup: dict[str, Any] | None, lora: dict[str, Any] | None) -> None:
    """Writes both settings."""
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    params["tracking"]["checkup"] = checkup
    for stage in params["variants"][VARIANT]["stages"].values():
        stage |= {"lora": lora, "learning_rate": 0.01, "vision_learning_rate": 0.01}
    path.write_text(yaml.safe_dump(params), encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose smallest model is ready for its first stage, and a benchmark in it."""
    made = tmp_path_factory.mktemp("checkup")
    make_project(made, 1)
    write_questions(made, ["nothing"] * QUESTIONS)
    return made


def events(recipe: Recipe) -> list[dict[str, Any]]:
    """What the log says of checkups."""
    lines = map(json.loads, recipe.log.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line.get("event") == "checkup"]


def trained(recipe: Recipe) -> str:
    """Runs the stage to its end; sha256 of its weights."""
    code, told = train(recipe)
    assert code == 0, told
    return file_sha256(recipe.output / "model.safetensors")


def answers(recipe: Recipe, checkpoint: Path) -> list[str]:
    benchmark = load_benchmark(BENCHMARK, None, 0, recipe.root)
    return CheckpointSystem("tested", checkpoint, 64, "cpu").answer(benchmark)


@pytest.mark.parametrize(
    ("zero", "lora"),
    [
        pytest.param(2, LORA, id="lora"),
        pytest.param(0, None, id="zero0", marks=pytest.mark.long),
        pytest.param(3, None, id="zero3", marks=pytest.mark.long),
        pytest.param(3, LORA, id="zero3-lora", marks=pytest.mark.long),
    ],
)
def test_it_asks_the_weights_that_are_saved_and_changes_none(
    folder: Path, zero: int, lora: dict[str, Any] | None
) -> None:
    """Every second answer of the trained model is the expected one, so that other weights have another accuracy."""
    put(folder, None, lora)
    recipe = set_cell(folder, 2, zero)
    expected = trained(recipe)
    said = answers(recipe, recipe.output)
    wanted = [text if number % 2 and text else "nothing" for number, text in enumerate(said)]
    accuracy = sum(map(is_correct, said, wanted)) / QUESTIONS
    assert accuracy > 0 and accuracy != sum(map(is_correct, answers(recipe, recipe.parent), wanted)) / QUESTIONS
    write_questions(folder, wanted)
    clear(recipe)

    put(folder, CHECKUP, lora)
    recipe = set_cell(folder, 2, zero)
    assert trained(recipe) == expected
    (event,) = events(recipe)
    assert event["step"] == STEPS and event["questions"] == QUESTIONS
    assert event["accuracy"] == pytest.approx(accuracy, abs=1e-6) and event["low"] <= accuracy <= event["high"]
    assert f"checkup of step {STEPS}: {accuracy:.1%}" in (folder / "told.txt").read_text(encoding="utf-8")
    assert not list((folder / "scratch/checkup").iterdir())
    clear(recipe)


@pytest.mark.long
def test_a_kill_ends_the_process_that_asks_and_the_stage_goes_on_to_the_same_weights(folder: Path) -> None:
    """And a checkup that fails, here for want of questions, is told, while training goes on."""
    put(folder, None, None)
    recipe = set_cell(folder, 2, 2)
    expected = trained(recipe)
    clear(recipe)

    put(folder, CHECKUP | {"every_steps": 5}, None)
    recipe = set_cell(folder, 2, 2)
    ranks = start_ranks(recipe, folder / "told.txt")
    asking = None
    while asking is None:
        assert all(rank.is_alive() for rank in ranks), (folder / "told.txt").read_text(encoding="utf-8")
        asking = asked_by(ranks[0].pid)
        time.sleep(0.01)
    for rank in ranks:
        rank.kill()
        rank.join()
    assert not (recipe.output / "model.safetensors").exists() and list((folder / "scratch/checkup").iterdir())
    asking.wait(60)  # raises when it is still there

    put(folder, CHECKUP | {"every_steps": 1, "questions": QUESTIONS + 1}, None)
    recipe = set_cell(folder, 2, 2)
    assert trained(recipe) == expected
    assert any(f"has {QUESTIONS} questions" in event.get("failed", "") for event in events(recipe))
    told = (folder / "told.txt").read_text(encoding="utf-8")
    assert "training goes on" in told and "Traceback" not in told
    assert not list((folder / "scratch/checkup").iterdir())
    clear(recipe)


def asked_by(pid: int) -> psutil.Process | None:
    """The checkup's process of a rank, if it has one."""
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if MODULE in process.cmdline():
                return process
        except psutil.NoSuchProcess:
            continue
    return None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adapters_are_merged_as_at_the_end_of_a_stage(dtype: torch.dtype) -> None:
    model, _ = build("llama_3")
    names = list(model.state_dict())
    lora = Lora.model_validate(LORA)
    add_adapters(model.to(dtype), lora, seed=3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(generator=torch.Generator().manual_seed(len(name)))
    found = merged({name: tensor.clone() for name, tensor in model.state_dict().items()}, lora)
    merge_adapters(model)
    after = model.state_dict()
    assert list(after) == names and found.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in found.items())
