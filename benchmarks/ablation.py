"""`python -m benchmarks.ablation` (`make ablation`): what each part of the model adds, on the embedded data.

A variant of params.yaml is trained and evaluated as it is, and with one part of it left out by a setting, for several
seeds: as variants of a copy of the project in scratch/, with `dvc repro`, as a person would. The copy shares this
checkout's DVC cache, so data stages that were run here are not run again. After a kill the same command goes on where
it was. Writes ablation.json, ablation.md and ablation.png to benchmarks/results/.

    python -m benchmarks.ablation [--variant tiny] [--seeds 1 2 3] [--only everything no-card] [--dry-run]
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import yaml

from benchmarks.ablation_table import draw, markdown, table
from benchmarks.report import RESULTS, surroundings, write_result
from fusion.progress import duration
from fusion.settings import STAGES
from tests.e2e.project import PARTS, ROOT, Project

TOLD_EVERY = 60.0
LEAVING_SECONDS = 120.0
GUESS = 8 * 60.0
"""Seconds of one run of tiny on two cores, until one has been measured."""


class Condition(NamedTuple):
    """One column of the ablation: its name for people, and what it changes in a variant's `model`."""

    title: str
    changes: dict[str, Any]


CONDITIONS = {
    "everything": Condition("everything", {}),
    "no-text": Condition("no text-guided encoding", {"text_guided": False}),
    "no-mapping": Condition("no mapping loss", {"mapping_loss_weight": 0.0}),
    "no-card": Condition("no CARD", {"interaction": {"layers": 0, "start": 0, "stride": 1}}),
}
"""The tower sees no instruction, and with that there is no text to map back; the two mapping terms weigh nothing; the
latent tokens stay as they were pooled from the picture, so that the sequence is as long and only the alignment is gone.
"""


def variant_name(variant: str, condition: str, seed: int) -> str:
    """The variant of one run."""
    return f"{variant}-{condition}-seed{seed}"


def runs(variant: str, conditions: list[str], seeds: list[int]) -> list[tuple[str, int, str]]:
    """Condition, seed and variant of all runs; all conditions of a seed before the next one."""
    return [(name, seed, variant_name(variant, name, seed)) for seed in seeds for name in conditions]


def derived(params: dict[str, Any], variant: str, conditions: list[str], seeds: list[int]) -> dict[str, Any]:
    """params.yaml with the runs as variants, and nothing else to build."""
    made = copy.deepcopy(params)
    for name, seed, own in runs(variant, conditions, seeds):
        one = copy.deepcopy(params["variants"][variant])
        one |= {"publish_as": f"{one['publish_as']}-{name}-{seed}", "seed": seed}
        one["model"] |= CONDITIONS[name].changes
        made["variants"][own] = one
    made["run"]["variants"] = [own for _, _, own in runs(variant, conditions, seeds)]
    return made


_OWN = ("params.yaml", "data/pipeline.yaml")


def prepare(folder: Path, params: dict[str, Any]) -> Project:
    """The copy of the project, brought up to date with this checkout: only what differs is written."""
    files = set(_listed(ROOT)) - set(_OWN)
    project = Project(folder)
    if (folder / ".git").is_dir():
        for name in set(_listed(folder)) - files - set(_OWN):
            (folder / name).unlink()  # it has left the checkout, and would count as code of a stage
    for name in sorted(files):
        _put((ROOT / name).read_bytes(), folder / name)
    _put(yaml.safe_dump(params, sort_keys=False).encode(), folder / "params.yaml")
    if not (folder / ".git").is_dir():
        project.run("git", "init", "--quiet", "--initial-branch", "main")
        project.run("git", "config", "user.email", "ablation@example.org")
        project.run("git", "config", "user.name", "Ablation")
    cache = Project(ROOT).run("dvc", "cache", "dir").stdout.strip()
    project.run("dvc", "cache", "dir", "--local", str((ROOT / cache).resolve()))
    project.run("fusion", "settings", "--write")
    project.run("git", "add", "--all")
    if project.run("git", "status", "--porcelain").stdout:
        project.run("git", "commit", "--quiet", "--message", "as measured")
    return project


def _listed(root: Path) -> list[str]:
    """The project's files in `root`: those that git knows, and new ones that it does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PARTS]
    listed = subprocess.run(command, cwd=root, text=True, capture_output=True, check=True).stdout.splitlines()
    return [name for name in listed if (root / name).is_file()]


def _put(content: bytes, path: Path) -> None:
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def end_leftovers(folder: Path) -> int:
    """Ends what an earlier start that was killed has left at work in the copy, and waits for it; how many there were.

    Training saves its state first. A second writer of the same state must not start beside it.
    """
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and Path(process.cwd()) == folder.resolve():
                process.terminate()
                left.append(process)
    for process in psutil.wait_procs(left, LEAVING_SECONDS)[1]:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return len(left)


def train_and_evaluate(project: Project, variant: str, log: Path, told: str) -> float:
    """All stages of one run; the seconds that it took. Raises `RuntimeError` with the end of the log."""
    began = last = time.monotonic()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(project.root), "DO_NOT_TRACK": "1"}
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        command = ["dvc", "repro", f"evaluate@{variant}"]
        process = subprocess.Popen(
            command, cwd=project.root, env=environment, stdout=output, stderr=subprocess.STDOUT
        )  # fmt: skip
        try:
            while process.poll() is None:
                time.sleep(0.5)
                if time.monotonic() - last > TOLD_EVERY:
                    last = time.monotonic()
                    tell(f"{told}: {doing(project.root, variant)}, for {duration(last - began)}")
        finally:
            if process.poll() is None:
                process.terminate()  # training saves its state and ends
                process.wait()
    if process.returncode:
        raise RuntimeError(f"{variant} failed, see {log}:\n{log.read_text(encoding='utf-8')[-3000:]}")
    return time.monotonic() - began


def doing(root: Path, variant: str) -> str:
    """What a run is at, by the log of its newest stage."""
    logs = [path for stage in STAGES if (path := root / "runs" / variant / f"{stage}.jsonl").is_file()]
    if not logs:
        return "data, base model"
    newest = max(logs, key=lambda path: path.stat().st_mtime)
    lines = [json.loads(line) for line in newest.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    steps = next((line["steps"] for line in lines if line.get("event") == "start"), None)
    done = max((line.get("step", 0) for line in lines), default=0)
    return f"{newest.stem}, step {done} of {steps}" + (", or evaluation" if done == steps else "")


def tell(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def measure(project: Project, variant: str, conditions: list[str], seeds: list[int]) -> dict[str, float]:
    """Makes all runs that are not there yet; seconds by variant, those of earlier starts included."""
    kept = project.root.parent / "seconds.json"
    seconds: dict[str, float] = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    planned = runs(variant, conditions, seeds)
    for number, (_, _, own) in enumerate(planned):
        known = [value for value in seconds.values() if value > 0]
        left = (len(planned) - number) * (sum(known) / len(known) if known else GUESS)
        told = f"run {number + 1} of {len(planned)}, {own}"
        tell(f"{told}: about {duration(left)} left")
        took = train_and_evaluate(project, own, project.root.parent / f"{own}.log", told)
        # A run that was there already takes the time of a look at it.
        seconds[own] = round(max(took, seconds.get(own, 0.0)), 1)
        kept.write_text(json.dumps(seconds), encoding="utf-8")
    return {own: seconds[own] for _, _, own in planned}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", nargs="+", choices=list(CONDITIONS), default=list(CONDITIONS))
    parser.add_argument("--folder", type=Path, default=ROOT / "scratch" / "ablation", help="of the copied project")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the three result files")
    parser.add_argument("--dry-run", action="store_true", help="print the settings of all runs, and stop")
    parser.add_argument("--fresh", action="store_true", help="remove what earlier starts have left")
    given = parser.parse_args()
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    made = derived(params, given.variant, given.only, given.seeds)
    if given.dry_run:
        own = {name: made["variants"][name] for name in made["run"]["variants"]}
        print(
            yaml.safe_dump(
                {name: {"seed": one["seed"], "model": one["model"]} for name, one in own.items()}, sort_keys=False
            )
        )
        return
    folder = given.folder / given.variant
    if ended := end_leftovers(folder / "project"):
        tell(f"{ended} processes of an earlier start were still at work, and are ended")
    if given.fresh and folder.exists():
        shutil.rmtree(folder)
    project = prepare(folder / "project", made)
    seconds = measure(project, given.variant, given.only, given.seeds)
    result = {
        "what": "one variant as it is and with parts left out, several seeds each; see benchmarks/ablation.py",
        "surroundings": surroundings(),
        "variant": given.variant,
        "seeds": given.seeds,
        "conditions": {
            name: {"title": CONDITIONS[name].title, "model": CONDITIONS[name].changes} for name in given.only
        },
        "seconds": seconds,
        **table(project.root, given.variant, given.only, given.seeds, variant_name, params["evaluation"]),
    }
    print(write_result("ablation", result, given.output))
    (given.output / "ablation.md").write_text(markdown(result), encoding="utf-8")
    draw(result, given.output / "ablation.png")


if __name__ == "__main__":
    main()
