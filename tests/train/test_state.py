"""Resumable state: only complete checkpoints count, the last few are kept."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.train.errors import TrainingError
from fusion.train.state import ResumableState
from tests.train.test_recipe import ROOT, recipe


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ResumableState:
    made = recipe(tmp_path)
    monkeypatch.setattr(type(made), "identity", lambda self: "0" * 64)
    return ResumableState(made)


def save(state: ResumableState, step: int, complete: bool = True) -> Path:
    folder = state.folder / state.partial(step)
    (folder / "deep").mkdir(parents=True)
    (folder / "weights").write_bytes(b"x" * 1000)
    (folder / "deep" / "moments").write_bytes(bytes(step))
    if complete:
        state.complete(step, {"step": step})
        return state.folder / state.tag(step)
    return folder


def test_half_written_checkpoint_is_never_used(state: ResumableState) -> None:
    assert state.newest() == (None, [])
    save(state, 10)
    half = save(state, 20, complete=False)
    assert state.newest() == (10, [])
    assert state.facts(10) == {"step": 10}
    state.clear_partial()
    assert not half.exists()


def test_last_ones_are_kept_and_the_result_alone_stays_at_the_end(state: ResumableState) -> None:
    for step in (10, 20, 100):
        save(state, step)
    assert sorted(path.name for path in state.folder.iterdir()) == ["step-100", "step-20"]
    assert state.newest() == (100, [])
    with pytest.raises(ZeroDivisionError), state.finishing({}):
        raise ZeroDivisionError
    assert state.result() == (None, None), "half of a result is none"
    with state.finishing({"of": "this"}) as (checkpoint, results):
        (checkpoint / "weights").write_bytes(b"w")
        (results / "curve").write_bytes(b"c")
    assert state.newest() == (100, []) and state.result() == ({"of": "this"}, None)
    state.delete_checkpoints()
    assert [path.name for path in state.folder.iterdir()] == ["finished"]
    _flip(state.finished / "checkpoint" / "weights")
    facts, fault = state.result()
    assert facts is None and "checkpoint/weights does not have the sha256" in str(fault)


HOLDER = """
import sys, time
from pathlib import Path
from fusion.train.state import ResumableState
state = ResumableState.__new__(ResumableState)
state.folder = Path(sys.argv[1])
state.hold()
print("held", flush=True)
time.sleep(60)
"""


def test_one_process_at_a_time_writes_a_state(state: ResumableState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until it is killed, and a child of its own does not keep others out."""
    monkeypatch.setattr("fusion.train.state._PATIENCE_SECONDS", 0.3)
    half = save(state, 10, complete=False)
    command = [sys.executable, "-c", HOLDER, str(state.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match=f"process {other.pid} on .* trains this stage"):
            state.hold()
        assert half.exists()
        other.kill()
    state.hold()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as other:
        time.sleep(0.5)
        state.release()
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        other.kill()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit": lambda folder: _flip(folder / "weights"),
    "cut": lambda folder: (folder / "weights").write_bytes(b"x" * 999),
    "missing": lambda folder: (folder / "deep" / "moments").unlink(),
    "no list": lambda folder: (folder / "complete.json").unlink(),
    "half a list": lambda folder: (folder / "complete.json").write_text('{"files": {', encoding="utf-8"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_checkpoint_is_named_and_the_one_before_is_taken(state: ResumableState, kind: str) -> None:
    save(state, 10)
    DAMAGES[kind](save(state, 20))
    step, damaged = state.newest()
    assert step == 10
    assert len(damaged) == 1 and "step-20 is damaged" in damaged[0]
    save(state, 20)  # the steps are made again
    assert state.newest() == (20, [])
