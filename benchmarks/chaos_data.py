"""The stages of the data killed at random moments: what is there in the end equals an undisturbed run, byte for byte.

    python -m benchmarks.chaos_data [--kills 120] [--samples 4000] [--seed 0] [--output FILE]

A project of three sources (a folder of JPEGs, a tar, JSON lines) is taken through ingest, sharding, curation and the
reading of two epochs, by the commands that a person calls. First undisturbed, which gives the hashes and how long each
step takes; then again and again with SIGKILL at seeded moments: of the whole step, or of its writing, which starts when
the first file of an output is seen. Killed is the step with all its workers, as when the power goes, or its first
process alone, as by a system without memory: then no worker may stay behind. Half of the rounds start over nothing,
the other half over the outputs of the round before. After every kill each output must be whole or absent, and after the
last one the step is run to its end and its outputs are compared. Exits with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.chaos_project import ROOT, Step, make_project, read_all

POLL = 0.001
"""Seconds between two looks at what a step has written."""
PATIENCE = 10.0
"""Seconds that workers have to notice that their first process is gone."""


def tree_hash(path: Path) -> str | None:
    """Of all names and contents below a folder; None when it is not there."""
    if not path.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(item for item in path.rglob("*") if item.is_file()):
        digest.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return digest.hexdigest()


class Chaos:
    """Runs steps in a project, undisturbed and disturbed, and counts what it sees."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder = folder
        self._random = random.Random(seed)
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def undisturbed(self, step: Step) -> None:
        """Runs a step to its end: its hashes, its seconds, and when it starts to write."""
        start = time.perf_counter()
        before = self._marks(step)
        process = self._start(step)
        writing = self._wait_for_writing(step, process, before)
        step.before_writing = writing - start
        self._finish(process)
        step.seconds = time.perf_counter() - start
        for path in step.outputs:
            found = tree_hash(path)
            if found is None:
                raise SystemExit(f"{step.name} left no {path}")
            step.hashes[str(path)] = found

    def disturbed(self, step: Step, kills: int, older: bool) -> None:
        """Kills a step `kills` times, then runs it to its end; `older`: its outputs are there already."""
        for _ in range(kills):
            self._kill_once(step, older)
        self._finish(self._start(step))
        step.counts["runs_to_the_end"] += 1
        for path in step.outputs:
            step.counts["differences"] += tree_hash(path) != step.hashes[str(path)]

    def _kill_once(self, step: Step, older: bool) -> None:
        before = self._marks(step)
        process = self._start(step)
        if self._random.random() < 0.5:
            self._wait_for_writing(step, process, before)
            delay = self._random.uniform(0, step.seconds - step.before_writing)
        else:
            delay = self._random.uniform(0, step.seconds)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            pass
        else:
            step.counts["ended_before_the_kill"] += 1
            return
        alone = self._random.random() < 0.5
        if alone:
            process.kill()
            process.wait()
            step.counts["workers_left"] += self._left(process.pid)
        _kill_group(process.pid)
        process.wait()
        step.counts["kills"] += 1
        step.counts["first_process_alone"] += alone
        step.counts["over_older_outputs"] += older
        step.counts["while_writing"] += any(path.exists() for path in self._unfinished(step))
        if step.name != "stream":  # its log grows, and may be cut anywhere
            step.counts["halves_seen"] += sum(
                (found := tree_hash(path)) is not None and found != step.hashes[str(path)] for path in step.outputs
            )

    def _start(self, step: Step) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            step.command, cwd=self._folder, env=self._environment, start_new_session=True, stderr=subprocess.PIPE
        )

    def _finish(self, process: subprocess.Popen[bytes]) -> None:
        _, told = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"a step that nobody disturbed ended with {process.returncode}:\n{told.decode()[-3000:]}")

    def _unfinished(self, step: Step) -> list[Path]:
        if step.name == "stream":
            return [path / "read.log" for path in step.outputs]
        return [path.with_name(f".{path.name}.partial") for path in step.outputs]

    def _marks(self, step: Step) -> list[tuple[int, int] | None]:
        """What tells an output that is being written from what a kill has left of it."""
        return [_mark(path) for path in self._unfinished(step)]

    def _wait_for_writing(self, step: Step, process: subprocess.Popen[bytes], before: list[Any]) -> float:
        """Until a step has begun an output, or ended; the time."""
        while process.poll() is None and not any(
            now is not None and now != then for now, then in zip(self._marks(step), before, strict=True)
        ):
            time.sleep(POLL)
        return time.perf_counter()

    def _left(self, group: int) -> int:
        """Processes of a group that are still there after a while."""
        end = time.perf_counter() + PATIENCE
        while (left := processes_of(group)) and time.perf_counter() < end:
            time.sleep(0.05)
        return left

    def share(self, kills: int, steps: list[Step]) -> list[int]:
        """Spreads kills over steps, each at least once where there are enough."""
        counts = [kills // len(steps)] * len(steps)
        for at in self._random.sample(range(len(steps)), kills % len(steps)):
            counts[at] += 1
        return counts


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_mtime_ns


def processes_of(group: int) -> int:
    """Processes of a process group that run."""
    count = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, found = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            except OSError:
                continue  # it has ended meanwhile
            count += int(found) == group and state != "Z"
    return count


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
    while processes_of(group):
        time.sleep(POLL)


def run(folder: Path, kills: int, samples: int, seed: int, sources: int = 3, a_round: int = 3) -> dict[str, Any]:
    """Everything the benchmark does, in `folder`; about `a_round` kills a step and round."""
    steps = make_project(folder, samples, seed, sources)
    chaos = Chaos(folder, seed)
    for step in steps:
        chaos.undisturbed(step)
        print(f"{step.name:16} undisturbed: {step.seconds:.1f} s, writes from {step.before_writing:.1f} s on")
    rounds, start = 0, time.perf_counter()
    while (done := sum(step.counts["kills"] for step in steps)) < kills:
        older = rounds % 2 == 1
        if not older:
            for name in ("raw", "shards", "index", "manifests"):
                shutil.rmtree(folder / "data" / name, ignore_errors=True)
        for step, count in zip(steps, chaos.share(min(kills - done, a_round * len(steps)), steps), strict=True):
            if older and not count:
                continue
            if step.name == "stream":
                shutil.rmtree(folder / "stream", ignore_errors=True)
            chaos.disturbed(step, count, older)
        rounds += 1
        done = sum(step.counts["kills"] for step in steps)
        passed = time.perf_counter() - start
        left = passed / max(done, 1) * max(kills - done, 0)
        print(f"round {rounds}: {done} of {kills} kills, {passed:.0f} s, about {left:.0f} s left", file=sys.stderr)
    total = {name: sum(step.counts[name] for step in steps) for name in steps[0].counts}
    rows = [
        {key: value for key, value in asdict(step).items() if key in ("name", "seconds", "before_writing", "counts")}
        for step in steps
    ]
    return {"samples": samples, "seed": seed, "rounds": rounds, "total": total, "steps": rows}


def _table(result: dict[str, Any]) -> str:
    columns = list(result["total"])
    names = [name.replace("_", " ") for name in columns]
    lines = [" | ".join(["step".ljust(16), *names])]
    for step in [*result["steps"], {"name": "all", "counts": result["total"]}]:
        cells = [str(step["counts"][key]).rjust(len(name)) for key, name in zip(columns, names, strict=True)]
        lines.append(" | ".join([step["name"].ljust(16), *cells]))
    return "\n".join(lines)


def sound(result: dict[str, Any]) -> bool:
    """Whether nothing was lost, left behind or different."""
    total = result["total"]
    return not (total["differences"] or total["halves_seen"] or total["workers_left"])


def main() -> None:
    """Reads the command line; prints a table and writes the results file."""
    parser = argparse.ArgumentParser(description="Kill the stages of the data at random moments.")
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--samples", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="the results file (default: benchmarks/results/chaos_data.json)")
    parser.add_argument("--read", type=Path, metavar="LOG", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read is not None:
        read_all(options.read)
        return
    from benchmarks.report import RESULTS, surroundings, write_result

    around = surroundings()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        result = run(Path(folder), options.kills, options.samples, options.seed)
    print(_table(result))
    output = options.output or RESULTS / "chaos_data.json"
    print(write_result(output.stem, {"machine": around, **result}, output.parent))
    sys.exit(0 if sound(result) else 1)


if __name__ == "__main__":
    main()
