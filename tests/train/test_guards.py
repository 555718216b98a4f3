"""Each guard of a training stage, provoked."""

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fusion.settings import Lora, Settings, SettingsError, load_settings
from fusion.train.errors import WHAT_TO_DO, LossGuard, NoRoom, OutOfMemory, Preempted, Stalled, TrainingError
from fusion.train.guards import LossWatch, stop
from fusion.train.launch import check_devices, ended, tensor_shapes
from fusion.train.parts import Elements
from fusion.train.room import check_device_memory, check_disk, check_memory, explained, is_full, out_of_memory
from fusion.train.running import Ending, run_launcher
from fusion.train.universal import convert
from fusion.train.watch import StopRequest, Watch
from tests.train.test_recipe import ROOT, recipe


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("term", ["loss", "text_mapping"])
def test_a_loss_that_is_no_number_is_a_fault(value: float, term: str) -> None:
    watch = LossWatch(None)
    assert watch.fault({"loss": 1.0, "text_mapping": 0.5}) is None
    assert term in str(watch.fault({"loss": 1.0, "text_mapping": 0.5} | {term: value}))


def test_a_spike_is_measured_against_the_median_of_the_last_steps() -> None:
    watch = LossWatch(4.0)
    assert watch.fault({"loss": 1000.0}) is None, "too early to know what is usual"
    for step in range(60):
        assert watch.fault({"loss": 2.0 + step % 2}) is None
    assert watch.fault({"loss": 9.9}) is None
    fault = watch.fault({"loss": 12.5})
    assert fault is not None and "guards.max_loss_ratio 4" in fault
    assert LossWatch(None).fault({"loss": 1e9}) is None


def test_the_samples_of_the_step_are_written_down(tmp_path: Path) -> None:
    origins = [{"sample_id": f"s{number}", "source": "web", "shard": "a.tar"} for number in range(3)]
    error = stop("the loss is nan", 12, origins, tmp_path / "runs" / "step-12.jsonl")
    assert isinstance(error, LossGuard) and "step 12" in str(error) and "step-12.jsonl" in str(error)
    lines = (tmp_path / "runs" / "step-12.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == origins


def test_a_rank_that_does_not_go_on_ends_and_says_what_it_was_doing(capfd: pytest.CaptureFixture[str]) -> None:
    codes: list[int] = []
    watch = Watch(3, 0.4 / 60, codes.append)
    for _ in range(4):
        time.sleep(0.2)
        watch.now("reading the samples of step 8")
    assert not codes, "a rank that goes on is left alone"
    time.sleep(1.0)
    assert codes == [Stalled.exit_code]
    message = capfd.readouterr().err
    assert "rank 3" in message and "reading the samples of step 8" in message


def test_no_watch_without_a_limit() -> None:
    codes: list[int] = []
    Watch(0, None, codes.append)
    time.sleep(0.2)
    assert not codes


def test_disk_and_memory_are_checked_before_the_first_step(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    check_disk(made, Elements(1000, 1000), tmp_path / "state")
    check_memory(made, Elements(1000, 1000))
    with pytest.raises(NoRoom, match=r"GB free: make room"):
        check_disk(made, Elements(10**14, 10**14), tmp_path / "state")
    # What is there already needs no new room, if it is this stage's state; other files of the variant are not.
    free = shutil.disk_usage(tmp_path).free
    for name, allowed in (("checkpoints/tiny/base", False), (f"scratch/train/{made.variant}-{made.stage}-x", True)):
        (tmp_path / name).mkdir(parents=True)
        with (tmp_path / name / "large").open("wb") as file:
            file.truncate(free)
        elements = Elements(free // 40, free // 40)  # 52 bytes each: three states of 16, and the result of 4
        if allowed:
            check_disk(made, elements)
        else:
            with pytest.raises(NoRoom):
                check_disk(made, elements)
    with pytest.raises(OutOfMemory, match=r"fewer hardware\.ranks"):
        check_memory(made, Elements(10**12, 10**12))
    # ZeRO-2 in float32 on two ranks: whole weights on each; shards of gradients, moments and a copy of the weights.
    for trained in (100, 10):
        needed = 100 * 4 * 2 + trained * 16
        with pytest.raises(OutOfMemory):
            check_memory(made, Elements(100, trained), available=needed - 1)
        check_memory(made, Elements(100, trained), available=needed)


def test_memory_of_gpus_and_of_their_machine_is_counted(tmp_path: Path) -> None:
    made = recipe(tmp_path, "fusion-phi35-3b", "stage1")
    assert made.hardware.device == "cuda" and made.settings.precision == "bf16"
    elements, ranks = Elements(3200, 3200), made.hardware.ranks
    for zero, offload, needed in (
        (2, False, 2 * 3200 + (2 + 12) * 3200 / ranks),
        (3, False, (2 + 2 + 12) * 3200 / ranks),
        (2, True, 2 * 3200 + 2 * 3200 / ranks),
    ):
        other = replace(
            made,
            settings=made.settings.model_copy(update={"zero_stage": zero}),
            hardware=made.hardware.model_copy(update={"offload_optimizer": offload}),
        )
        check_device_memory(other, elements, round(needed))
        with pytest.raises(OutOfMemory, match=r"on each GPU .*zero_stage"):
            check_device_memory(other, elements, round(needed) - 1)
    # Eight ranks of a machine read the weights in float32.
    check_memory(made, elements, available=8 * 4 * 3200, here=8)
    with pytest.raises(OutOfMemory, match=r"8 rank\(s\) .*launch\.ranks_per_node"):
        check_memory(made, elements, available=8 * 4 * 3200 - 1, here=8)
    check_memory(made, elements, available=0, here=0)


def test_elements_are_counted_from_headers(tmp_path: Path) -> None:
    name = "model.layers.0.mlp.down_proj.weight"
    save_file({name: torch.zeros(3, 4), "b": torch.zeros(5, dtype=torch.bfloat16)}, tmp_path / "model-1.safetensors")
    save_file({"model.vision_tower.c": torch.zeros(())}, tmp_path / "model-2.safetensors")
    shapes, settings = tensor_shapes(tmp_path), recipe(ROOT).settings
    assert Elements.of(shapes, settings) == Elements(18, 18)
    assert Elements.of(shapes, settings.model_copy(update={"trained_parts": ["vision"]})) == Elements(18, 1)
    lora = Lora.model_validate({"rank": 2, "alpha": 2.0, "targets": {"language": "all"}})
    adapted = Elements.of(shapes, settings.model_copy(update={"lora": lora}))
    assert adapted == Elements(18 + 2 * 7, 1 + 2 * 7, 2 * 7) and adapted.finished == 18


def test_a_full_disk_is_told_from_other_faults(tmp_path: Path) -> None:
    assert is_full(tmp_path, OSError(errno.ENOSPC, "No space left on device"))
    assert not is_full(tmp_path, OSError(errno.EACCES, "Permission denied"))
    assert not is_full(tmp_path, RuntimeError("something else"))


def test_out_of_memory_says_what_to_change() -> None:
    message = str(out_of_memory(recipe(ROOT), MemoryError("cannot allocate\nmore")))
    assert "micro_batch" in message and "more" not in message


class Unwritten(Exception):
    """Of a library that writes files without Python's, as safetensors does."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (torch.OutOfMemoryError("CUDA out of memory"), OutOfMemory),
        (OSError(errno.ENOSPC, "No space left on device"), NoRoom),
        (Unwritten("I/O error: No space left on device (os error 28)"), NoRoom),
        (OSError(errno.EACCES, "Permission denied"), None),
        (RuntimeError("Connection closed by peer"), None),
        (Stalled("says enough"), None),
    ],
)
def test_want_of_memory_and_of_space_are_told_from_faults(error: Exception, kind: type[TrainingError] | None) -> None:
    found = explained(recipe(ROOT), error)
    assert type(found) is (kind or type(None))
    assert found is None or "the same command continues" in str(found).lower()


@pytest.mark.skipif(torch.cuda.device_count() >= 32, reason="this machine has the GPUs")
def test_missing_gpus_are_counted() -> None:
    check_devices(recipe(ROOT), 2)
    with pytest.raises(TrainingError, match=r"asks for 32 rank\(s\) on GPUs"):
        check_devices(recipe(ROOT, "fusion-phi35-3b", "stage1"), 32)


@pytest.mark.parametrize("code", [*WHAT_TO_DO, 1, -11])
def test_every_exit_code_has_its_sentence(code: int) -> None:
    error = ended(recipe(ROOT), Ending(code))
    assert WHAT_TO_DO.get(code, f"exit code {code}") in str(error)
    assert error.exit_code == (code if code in WHAT_TO_DO and code > 0 else 1)


@pytest.mark.parametrize("signals", [1, 2])
def test_a_stop_says_that_the_state_is_saved_only_if_it_is(signals: int) -> None:
    saved = ended(recipe(ROOT), Ending(Preempted.exit_code, signals))
    assert saved.exit_code == Preempted.exit_code and "its state is saved" in str(saved)
    for code in (-9, -15, 1):
        killed = ended(recipe(ROOT), Ending(code, signals))
        assert killed.exit_code == Preempted.exit_code and "is saved" not in str(killed)
        assert "nothing was saved" in str(killed) and ("second request" in str(killed)) == (signals == 2)
    full = ended(recipe(ROOT), Ending(NoRoom.exit_code, signals))
    assert full.exit_code == NoRoom.exit_code and "space" in str(full), "a stop does not hide why nothing was saved"


@pytest.mark.parametrize("values", [{"max_loss_ratio": 1.0}, {"stall_minutes": 0.0}, {"more": 1}])
def test_settings_of_the_guards_are_checked(values: dict[str, float]) -> None:
    settings = load_settings(ROOT / "params.yaml")
    with pytest.raises(ValueError, match="guards"):
        Settings.model_validate(settings.model_dump() | {"guards": settings.guards.model_dump() | values})
    assert SettingsError.exit_code == 1


LAUNCHER = """
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", '''{rank}'''])
sys.exit(rank.wait())
"""
PATIENT = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_stop_goes_to_the_ranks_and_not_to_the_launcher(tmp_path: Path) -> None:
    """In a process of its own, as `fusion train` is."""
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom fusion.train.running import Ending, run_launcher\n"
        f"ending = run_launcher([sys.executable, '-c', {LAUNCHER.format(rank=PATIENT)!r}], os.environ, Path())\n"
        "print(*ending)\n",
        encoding="utf-8",
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "75 1\n"


def test_a_second_stop_ends_ranks_and_launcher_at_once(tmp_path: Path) -> None:
    stubborn = LAUNCHER.format(rank=PATIENT.replace("sys.exit(75)", "print('asked', flush=True)"))
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom fusion.train.running import Ending, run_launcher\n"
        f"ending = run_launcher([sys.executable, '-c', {stubborn!r}], os.environ, Path())\n"
        "print(*ending)\n",
        encoding="utf-8",
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked\n", "the first one is left to the rank"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "-9 2\n"


@pytest.mark.parametrize("leaving", ["rank.wait()", "128 - rank.wait()"])
def test_a_rank_that_is_killed_from_outside_is_told(leaving: str) -> None:
    """DeepSpeed's launcher leaves with the rank's code, of which the system keeps 8 bits; a shell with 128 and more."""
    killed = LAUNCHER.format(rank="import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    ending = run_launcher([sys.executable, "-c", killed.replace("rank.wait()", leaving)], os.environ, ROOT)
    assert ending == Ending(-9)
    error = ended(recipe(ROOT), ending)
    assert "killed from outside" in str(error) and error.exit_code == 1


LEAVING = """
import subprocess, sys
rank = '''
import os, sys, time
from fusion.train.leaving import leave_note
rank, code = sys.argv[1:]
os.environ["RANK"] = rank
time.sleep(0.3 * int(rank))
if int(code):
    leave_note(int(code))
sys.exit(int(code))
'''
ranks = [subprocess.Popen([sys.executable, "-c", rank, str(number), code]) for number, code in enumerate(sys.argv[1:])]
sys.exit(any([rank.wait() for rank in ranks]))
"""


@pytest.mark.parametrize(
    ("codes", "told"),
    [(["0", "79"], 79), (["1", "76"], 76), (["77", "78"], 77), (["1", "1"], 1), (["75", "75"], 75), (["0", "0"], 0)],
)
def test_a_launcher_that_makes_one_of_all_codes_does_not_hide_the_reason(codes: list[str], told: int) -> None:
    """As torchrun does; the rank that left first with a reason counts."""
    assert run_launcher([sys.executable, "-c", LEAVING, *codes], os.environ, ROOT) == Ending(told)


def test_ranks_do_not_outlive_the_command_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys\nfrom pathlib import Path\nfrom fusion.train.running import Ending, run_launcher\n"
        "run_launcher([sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'], "
        "os.environ, Path())\n",
        encoding="utf-8",
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    launcher = int(process.stdout.readline())
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{launcher}").exists() and "Z" not in Path(f"/proc/{launcher}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline, "the launcher goes on without anybody who waits for it"
        time.sleep(0.05)


def test_signals_outside_of_the_main_thread_stay_where_they_are(tmp_path: Path) -> None:
    import threading

    results: list[Ending] = []
    thread = threading.Thread(
        target=lambda: results.append(run_launcher([sys.executable, "-c", "raise SystemExit(7)"], os.environ, tmp_path))
    )
    before = signal.getsignal(signal.SIGTERM)
    thread.start()
    thread.join()
    assert results == [Ending(7)]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_is_remembered_until_the_step_is_done() -> None:
    before = [(number, signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        request = StopRequest()
        assert not request.received
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.received
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def test_a_state_is_not_converted_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    source = tmp_path / "step-4"
    source.mkdir()
    with (source / "state.pt").open("wb") as file:
        file.truncate(shutil.disk_usage(tmp_path).free)  # takes no place itself
    with pytest.raises(NoRoom, match="has to be converted for other ranks"):
        convert(source, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()
