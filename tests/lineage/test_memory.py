"""Peak memory: of the process, and of its descendants together."""

import subprocess
import sys
import time

from fusion.lineage.memory import PeakMemory

HOLD = "import time; held = bytearray(b'x') * 80_000_000; print('held', flush=True); time.sleep(600)"


def test_the_memory_of_descendants_counts_together():
    with PeakMemory() as memory:
        children = [subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE) for _ in range(2)]
        for child in children:
            assert child.stdout is not None and child.stdout.readline() == b"held\n"
        before = memory.peak_bytes
        deadline = time.monotonic() + 20
        while memory.peak_bytes < 160_000_000 and time.monotonic() < deadline:
            time.sleep(0.05)
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
    assert memory.peak_bytes >= 160_000_000 and memory.peak_bytes >= before


def test_a_short_body_has_the_process_own_peak():
    with PeakMemory() as memory:
        pass
    assert memory.peak_bytes > 1_000_000
