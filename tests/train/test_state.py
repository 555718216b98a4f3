"""Resumable state: only complete checkpoints count, the last few are kept."""

from pathlib import Path

import pytest

from fusion.train.state import ResumableState
from tests.train.test_recipe import recipe


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResumableState:
    made = recipe(tmp_path)
    monkeypatch.setattr(type(made), "identity", lambda self: "0" * 64)
    return ResumableState(made)


def save(state: ResumableState, step: int, complete: bool = True) -> None:
    folder = state.folder / state.tag(step)
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"x")
    if complete:
        state.mark_complete(step, {"step": step})


def test_incomplete_checkpoint_is_never_used(state: ResumableState) -> None:
    assert state.newest() is None
    save(state, 10)
    save(state, 20, complete=False)
    assert state.newest() == 10
    assert state.facts(10) == {"step": 10}


def test_last_ones_are_kept_and_all_go_at_the_end(state: ResumableState) -> None:
    for step in (10, 20, 100):
        save(state, step)
    assert sorted(path.name for path in state.folder.iterdir()) == ["step-100", "step-20"]
    assert state.newest() == 100
    state.delete()
    assert not state.folder.exists()
