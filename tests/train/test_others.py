"""A start that finds states of its stage which it does not continue says which, and what is different."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fusion.train.recipe import Recipe
from fusion.train.resume import _look
from fusion.train.state import ResumableState
from tests.train.test_recipe import recipe


@pytest.fixture
def made(tmp_path: Path) -> Recipe:
    """A recipe whose inputs are there."""
    one = recipe(tmp_path, "micro", "stage1")
    one.manifest.parent.mkdir(parents=True)
    one.manifest.write_bytes(b"rows")
    one.parent.mkdir(parents=True)
    (one.parent / "model.safetensors").write_bytes(b"weights")
    return one


def begun(made: Recipe, steps: int) -> Path:
    """The folder of a state that an interrupted run of `made` left."""
    state = ResumableState(made)
    _look(made, state)
    (state.folder / f"partial-{steps}").mkdir()
    state.complete(steps, {"layouts": []})
    return state.folder


def with_rate(made: Recipe, rate: float) -> Recipe:
    return replace(made, settings=made.settings.model_copy(update={"learning_rate": rate}))


def test_a_state_that_is_not_continued_is_told_with_what_differs(
    made: Recipe, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = begun(made, 10)
    assert capfd.readouterr().err == ""
    made.manifest.write_bytes(b"other rows")
    changed = with_rate(made, 0.25)
    assert _look(changed, ResumableState(changed)).steps == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert "stage1 of micro begins at its first step" in line and f"{folder} has a state after step 10" in line
    assert "(data, settings.learning_rate 0.001, now 0.25)" in line
    assert f"fusion scratch --clear train/{folder.name}" in line
    # States without a checkpoint, of other stages, or without what decided them.
    (folder / "decisive.json").unlink()
    (folder.parent / "micro-stage1-0123456789abcdef").mkdir()
    (folder.parent / "micro-stage1_5-0123456789abcdef/step-5").mkdir(parents=True)
    _look(changed, ResumableState(changed))
    (line,) = capfd.readouterr().err.splitlines()
    assert "it does not say with what" in line
    shutil.rmtree(folder)
    _look(changed, ResumableState(changed))
    assert capfd.readouterr().err == ""


def test_what_a_message_advises_without_beginning_anew_keeps_the_state(made: Recipe) -> None:
    before = ResumableState(made).folder
    for advised in ({"activation_checkpointing": True}, {"on_bad_sample": "count"}):
        changed = replace(made, settings=made.settings.model_copy(update=advised))
        assert ResumableState(changed).folder == before
    assert ResumableState(with_rate(made, 0.5)).folder != before
