"""`python -m benchmarks.gpu_stages`: the three stages of a model of middle size on one GPU, as a person starts them.

In a copy of the project, `fusion train` trains a variant with random weights on the data of `tiny`: in bfloat16, with
Liger's kernels where they are installed. One stage is killed after a checkpoint and started again. The result has the
rates, the share of the GPU's arithmetic and the peak of its memory beside what `fusion plan` says of the same settings.
Data and base model are made first, and kept for the next start; they are not among the minutes of the goal.

    python -m benchmarks.gpu_stages [--gpu h100]     # needs a GPU
    python -m benchmarks.gpu_stages --dry-run        # the settings, and what `fusion plan` says of them
    python -m benchmarks.gpu_stages --device cpu     # a trial of the program, with the variant micro

`--gpu` is a name of fusion/plan/gpus.yaml; it is needed where the driver has another name for the GPU.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from benchmarks.ablation import end_leftovers, prepare, tell
from benchmarks.chaos_train import ranks
from benchmarks.peaks.sitecustomize import FOLDER
from benchmarks.report import RESULTS, surroundings, write_result
from fusion.data.catalog import load_catalog
from fusion.model.head import has_liger
from fusion.plan.api import Plan, StagePlan, make_plan
from fusion.plan.errors import PlanError
from fusion.plan.gpus import find_gpu, load_gpus
from fusion.plan.memory import RESERVED
from fusion.plan.stage import UTILISATION
from fusion.settings import Settings, Stage
from tests.e2e.project import ROOT, Project

GOAL_SECONDS = 8 * 60.0
ALL: tuple[Stage, ...] = get_args(Stage)
KILLED: Stage = "stage1_5"
"""The stage that is killed and started again."""
WARM_UP = 5
"""Steps after a start that count for no rate: kernels are chosen and memory is found in them."""
STEPS_LOST = 3
"""Steps after a checkpoint before the kill: they are done twice, and their losses are compared."""
LEAVING_SECONDS = 120.0
MIDDLE = "middle"
_VARIANT = """
publish_as: FUSION-Middle
seed: null
template: phi_3
base:
  llm:
    config: {model_type: phi3, hidden_size: 1024, intermediate_size: 2816, num_hidden_layers: 24, num_attention_heads: 16, max_position_embeddings: 2048}
  tower:
    config: {hidden_size: 768, intermediate_size: 3072, num_hidden_layers: 12, num_attention_heads: 12, image_size: 224, patch_size: 16}
  tokenizer: data/tokenizers/tiny
model: {query_len: [4, 16, 36], num_latents: 16, interaction: {layers: 8, start: 0, stride: 3}}
hardware: {device: cuda, ranks: 1, threads_per_rank: 8, micro_batch: 32}
data: {stage1: tiny-stage1, stage1_5: tiny-stage1_5, stage2: tiny-stage2, tokenizer: tiny}
stages:
  stage1: {global_batch: 64, learning_rate: 2.0e-4, vision_learning_rate: 2.0e-4, max_length: 512, max_grad_norm: 1.0}
  stage1_5: {global_batch: 64, learning_rate: 2.0e-4, vision_learning_rate: 2.0e-5, max_length: 512, max_grad_norm: 1.0, activation_checkpointing: false}
  stage2: {global_batch: 64, learning_rate: 1.0e-4, vision_learning_rate: 1.0e-5, max_length: 512, max_grad_norm: 1.0, activation_checkpointing: false}
evaluation:
  benchmarks: {scenes-test: {questions: 1500}}
  columns: []
  gate: {reference: null, columns: [], over_blind: {scenes-test: -1.0}, max_unparsed: 1.0}
"""  # noqa: E501
"""What it does not name is as for the published models. One stage has activation checkpointing, two have not."""
SAVED_AFTER = {"cuda": 60, "cpu": 5}
"""Steps of the killed stage between two checkpoints."""


def derived(params: dict[str, Any], device: str) -> tuple[str, dict[str, Any]]:
    """The variant that is trained on a device, and params.yaml with nothing else to build."""
    made = copy.deepcopy(params)
    variant = MIDDLE if device == "cuda" else "micro"
    if device == "cuda":
        cores = os.cpu_count() or 1
        made["variants"][MIDDLE] = yaml.safe_load(_VARIANT)
        made["data"] |= {"workers": cores}
        made["data"]["loading"] |= {"workers": max(1, min(12, cores - 2))}
    else:
        made["variants"][variant]["stages"][KILLED]["epochs"] = 4  # so that there is time for a kill
    made["variants"][variant]["stages"][KILLED]["save_every_steps"] = SAVED_AFTER[device]
    made["run"]["variants"] = [variant]
    return variant, made


def plan(params: dict[str, Any], variant: str, gpu: str, root: Path) -> Plan:
    """`fusion plan` for these settings; manifests below `root` count where they are there."""
    return make_plan(Settings.model_validate(params), load_catalog(root / "data/catalog"), variant, gpu=gpu, root=root)


def outline(planned: Plan) -> str:
    """A plan in a line a stage, as comments below the settings."""
    lines = []
    for stage, one in planned.stages.items():
        told = f"# {stage}: {one.as_set.name}: {one.as_set.seconds:.3f} s a step, {one.as_set.total / 2**30:.1f} GiB"
        steps = one.model.steps
        # The embedded sets are counted when they are curated.
        lines.append(told + ("" if steps is None else f", {steps} steps in {steps * one.as_set.seconds:.0f} s"))
    first = next(iter(planned.stages.values())).model
    head = (
        f"# {first.parameters.total / 1e6:.0f} million parameters; on {planned.gpu} at {UTILISATION:.0%} of its rate:"
    )
    return "\n".join([head, *lines])


def make_inputs(project: Project, variant: str, params: dict[str, Any]) -> float:
    """Data and base model, with nothing left of an earlier measurement; the seconds that it took."""
    for name in ("checkpoints", "results", "runs"):
        for stage in ALL:
            shutil.rmtree(project.root / name / variant / stage, ignore_errors=True)
            (project.root / name / variant / f"{stage}.jsonl").unlink(missing_ok=True)
    shutil.rmtree(project.root / "scratch/train", ignore_errors=True)
    began = time.monotonic()
    sets = sorted({params["variants"][variant]["data"][stage] for stage in ALL})
    project.repro(f"base@{variant}", *(f"validate@{name}" for name in sets))
    return time.monotonic() - began


def start(project: Project, variant: str, stage: Stage, peaks: Path) -> subprocess.Popen[bytes]:
    """The stage as a person starts it; its ranks leave their peaks of memory in a folder."""
    peaks.mkdir(parents=True, exist_ok=True)
    paths = (str(project.root), str(Path(__file__).parent / "peaks"))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(paths),
        "DO_NOT_TRACK": "1",
        FOLDER: str(peaks),
    }
    return subprocess.Popen(["fusion", "train", variant, stage], cwd=project.root, env=environment)


def with_end(
    process: subprocess.Popen[bytes], follow: Callable[[subprocess.Popen[bytes]], object]
) -> subprocess.Popen[bytes]:
    """Follows a stage to its end, and ends it where the following itself is ended: nothing trains on unseen."""
    try:
        follow(process)
    finally:
        if process.poll() is None:
            process.terminate()  # training saves its state and ends
            process.wait()
    return process


def kill_after_checkpoint(process: subprocess.Popen[bytes], log: Path) -> None:
    """Kills a rank of a stage when a checkpoint has its name and a few steps have followed it.

    Raises:
        RuntimeError: the stage ended before.
    """
    while process.poll() is None:
        lines = events(log)
        saved = next((at for at, line in enumerate(lines) if line.get("event") == "checkpoint"), len(lines))
        if sum("loss" in line for line in lines[saved:]) >= STEPS_LOST:
            break
        time.sleep(0.02)
    found = ranks(process)
    if process.poll() is not None or not found:
        raise RuntimeError(f"the stage ended before it could be killed, see {log}")
    found[0].send_signal(signal.SIGKILL)
    process.wait(LEAVING_SECONDS)


def events(log: Path) -> list[dict[str, Any]]:
    """The whole lines of a stage's log."""
    if not log.is_file():
        return []
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def train(project: Project, variant: str, stage: Stage, kill: bool) -> dict[str, Any]:
    """One stage to its end, killed once if asked for; what its log and its ranks say.

    Raises:
        RuntimeError: it failed.
    """
    log = project.root / "runs" / variant / f"{stage}.jsonl"
    peaks = project.root.parent / "peaks" / stage
    shutil.rmtree(peaks, ignore_errors=True)
    began = time.monotonic()
    if kill:
        tell(f"{stage}: a rank will be killed")
        with_end(start(project, variant, stage, peaks), lambda process: kill_after_checkpoint(process, log))
    process = with_end(start(project, variant, stage, peaks), subprocess.Popen.wait)
    if process.returncode:
        raise RuntimeError(f"{stage} of {variant} ended with {process.returncode}; what it said stands above")
    seconds = time.monotonic() - began
    left = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(peaks.glob("*.json"))]
    memory = {name: max(peak.get(name, 0) for peak in left) for peak in left for name in peak}
    found = {"seconds": round(seconds, 1), **measured(events(log)), "peak_memory_bytes": memory}
    return found | ({"killed": repeated(events(log))} if kill else {})


def measured(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Rates of a stage by its log, the first steps after each start left out; and how its loss went."""
    rates = [line["flops_a_second_of_devices"] for line in lines if line.get("event") == "start"]
    steps: list[dict[str, Any]] = []
    since = 0
    for line in lines:
        since = 0 if line.get("event") == "start" else since + ("loss" in line)
        if "loss" in line:
            steps.append({**line, "warm": since > WARM_UP})
    losses = [line["loss"] for line in {line["step"]: line for line in steps}.values()]
    tenth = max(len(losses) // 10, 1)
    # A stage of so few steps that all of them are the first ones is measured by all of them.
    timed = [line for line in steps if line["warm"]] or steps
    seconds = sum(line["seconds"] for line in timed)
    flops = sum(line["flops"] for line in timed) / seconds
    return {
        "steps": len(losses),
        "steps_timed": len(timed),
        "seconds_a_step": {
            "mean": round(seconds / len(timed), 5),
            "median": statistics.median(line["seconds"] for line in timed),
        },
        "tokens_a_second": round(sum(line["tokens"] for line in timed) / seconds, 1),
        "samples_a_second": round(sum(line["samples"] for line in timed) / seconds, 2),
        "tflops": round(flops / 1e12, 4),
        "model_flops_utilisation": None if rates[-1] is None else round(flops / rates[-1], 4),
        "loss": {
            "first_tenth": round(statistics.fmean(losses[:tenth]), 4),
            "last_tenth": round(statistics.fmean(losses[-tenth:]), 4),
        },
    }


def repeated(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The steps that a killed stage has done twice, and by how much their losses differ.

    Raises:
        RuntimeError: the second start began anew.
    """
    starts = [at for at, line in enumerate(lines) if line.get("event") == "start"]
    before, after = (
        {line["step"]: line for line in part if "loss" in line}
        for part in (lines[: starts[-1]], lines[starts[-1] :])
    )  # fmt: skip
    continued = lines[starts[-1]]["first_step"]
    if len(starts) < 2 or not continued:
        raise RuntimeError("the stage that was killed began anew instead of continuing")
    twice = sorted(before.keys() & after.keys())
    differences = [abs(before[step]["loss"] - after[step]["loss"]) / before[step]["loss"] for step in twice]
    return {
        "after_step": max(before),
        "continued_after_step": continued,
        "steps_done_twice": len(twice),
        "same_samples": all(before[step]["tokens"] == after[step]["tokens"] for step in twice),
        "largest_difference_of_losses": max(differences, default=0.0),
    }


def beside(planned: StagePlan, found: dict[str, Any], on_gpu: bool) -> dict[str, Any]:
    """What `fusion plan` says of a stage as it is set; on a GPU, what was measured over it.

    Memory is planned for the longest samples that the settings allow, at the step's peak, without the driver's share.
    """
    option = planned.as_set
    memory = option.total - RESERVED
    told: dict[str, Any] = {
        "option": option.name,
        "steps": planned.model.steps,
        "seconds_a_step": float(f"{option.seconds:.4g}"),
        "utilisation_assumed": planned.model.target.utilisation,
        "memory_bytes": {name: round(value) for name, value in option.memory.items()},
        "memory_without_driver_bytes": round(memory),
    }
    if on_gpu:
        # Recomputation is executed too: of all arithmetic, as the plan counts it.
        told["utilisation_reached"] = round(UTILISATION * option.seconds / found["seconds_a_step"]["median"], 4)
        peak = found["peak_memory_bytes"].get("gpu_allocated")
        told["memory_measured_over_planned"] = None if peak is None else round(peak / memory, 4)
    return told


def run(folder: Path, device: str, gpu: str) -> dict[str, Any]:
    """The whole measurement in a folder that is kept for the next start."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    variant, params = derived(params, device)
    where = surroundings()
    if ended := end_leftovers(folder / "project"):
        tell(f"{ended} processes of an earlier start were still at work, and are ended")
    project = prepare(folder / "project", params)
    tell("data and base model")
    for_inputs = make_inputs(project, variant, params)
    planned = plan(params, variant, gpu, project.root)
    stages: dict[str, Any] = {}
    for stage in ALL:
        found = train(project, variant, stage, kill=stage == KILLED)
        stages[stage] = {**found, "planned": beside(planned.stages[stage], found, device == "cuda")}
        tell(f"{stage}: {found['seconds']} s, {found['tokens_a_second']:,.0f} tokens/s")
    seconds = sum(one["seconds"] for one in stages.values())
    return {
        "what": "three stages of a variant with random weights, one killed and continued; see benchmarks/gpu_stages.py",
        "trial": device != "cuda",
        "surroundings": where,
        "variant": {"name": variant, **params["variants"][variant]},
        "parameters": planned.stages[ALL[0]].model.parameters.total,
        "planned_for": gpu,
        "liger": device == "cuda" and has_liger(),
        "seconds": round(seconds, 1),
        "seconds_of_data_and_base": round(for_inputs, 1),
        "goal_seconds": GOAL_SECONDS,
        "within_goal": seconds <= GOAL_SECONDS,
        "stages": stages,
    }


def chosen_gpu(given: str | None, device: str) -> str:
    """The name in gpus.yaml to plan for: the given one, or that of this machine's GPU; h100 where there is none.

    Raises:
        PlanError: the GPU is not known by its driver's name, or the given name is none.
    """
    if given is not None:
        find_gpu(given)
        return given
    if device != "cuda" or not torch.cuda.is_available():
        return "h100"
    driver = torch.cuda.get_device_name()
    known = [name for name, gpu in load_gpus().items() if driver in gpu.names]
    if not known:
        raise PlanError(f"{driver} is in no `names` of fusion/plan/gpus.yaml: say with --gpu which of them it is")
    return known[0]


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: a trial with the variant micro")
    parser.add_argument("--gpu", help="a name of fusion/plan/gpus.yaml")
    parser.add_argument("--folder", type=Path, default=ROOT / "scratch" / "gpu_stages", help="of the copied project")
    parser.add_argument("--name", default="gpu_stages", help="of the result file")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the result file")
    parser.add_argument("--dry-run", action="store_true", help="print settings and plan, and stop; needs no GPU")
    given = parser.parse_args()
    if given.device == "cuda" and not given.dry_run and not torch.cuda.is_available():
        parser.error(
            f"--device cuda: torch {torch.__version__} sees no GPU here: install the build of torch for it, start this "
            "where there is one, or try the program with `--device cpu`"
        )
    try:
        gpu = chosen_gpu(given.gpu, given.device)
    except PlanError as error:
        parser.error(str(error))
    if given.dry_run:
        variant, params = derived(yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8")), given.device)
        made = given.folder / "project"
        print(yaml.safe_dump({"variants": {variant: params["variants"][variant]}}, sort_keys=False), end="")
        print(outline(plan(params, variant, gpu, made if made.is_dir() else ROOT)))
        return
    print(write_result(given.name, run(given.folder.resolve(), given.device, gpu), given.output))


if __name__ == "__main__":
    main()
