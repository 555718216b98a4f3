"""A small benchmark asked of the weights while training goes on: `tracking.checkup` in params.yaml.

Rank 0 copies the weights after a step. A thread of it writes the copy aside and starts a process that answers the
questions; no rank waits for either. At most one is under way: while it is, later steps are passed over, and the log
says so. Nothing of it is an output, no result depends on it, and whatever fails in it is told while training goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from safetensors.torch import save_file

from fusion.errors import FusionError
from fusion.files import write_json
from fusion.settings import Lora
from fusion.train.errors import TrainingError
from fusion.train.log import TrainingLog
from fusion.train.processes import on_any_rank
from fusion.train.recipe import Recipe

MODULE = "fusion.evaluate.checkup"
Weights = dict[str, torch.Tensor]
_OF_THE_RANK = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "FUSION_EXIT_NOTES")
_LAST_WORDS = 400


class CheckupError(FusionError):
    """A checkup gave no number; training goes on."""


class Checkups:
    """All checkups of a stage. Every rank has one, because under ZeRO-3 every rank holds a part of the weights."""

    def __init__(self, recipe: Recipe, engine: Any, log: TrainingLog | None) -> None:
        self._use = recipe.tracking.checkup
        self._recipe, self._engine, self._log = recipe, engine, log
        self._folder = recipe.root / "scratch" / "checkup" / f"{recipe.variant}-{recipe.stage}"
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkup")
        self._process: subprocess.Popen[bytes] | None = None
        self._pending: tuple[int, Future[dict[str, Any]]] | None = None
        if log is not None:
            shutil.rmtree(self._folder, ignore_errors=True)  # of a run that was killed

    def after(self, step: int) -> None:
        """Tells what has come, and starts the next one where its turn is; called by all ranks after every step."""
        if self._use is None:
            return
        self._tell()
        if step % self._use.every_steps:
            return
        free = self._log is not None and self._pending is None
        if self._log is not None and not free:
            self._log.checkup(step, {"passed_over": "the one before is not done"})
        if self._recipe.settings.zero_stage == 3:
            free = on_any_rank(free, self._engine.device)
        if not free:
            return
        weights = copied_weights(self._engine.module, self._recipe.settings.zero_stage == 3)
        if self._log is not None:
            self._pending = step, self._worker.submit(self._check, step, weights)

    def wait(self, stopped: Callable[[], bool]) -> None:
        """At the end of a stage: gives the one that is out its last seconds, unless the stage is told to stop."""
        if self._use is not None:
            seconds, stall = self._use.last_wait_seconds, self._recipe.guards.stall_minutes
            # The other ranks wait too, and are watched.
            deadline = time.monotonic() + (seconds if stall is None else min(seconds, 30 * stall))
            while self._pending and not self._pending[1].done() and time.monotonic() < deadline and not stopped():
                time.sleep(0.05)
        self.end()

    def end(self) -> None:
        """Ends the one that is out, and its process with it."""
        self._tell()
        if self._pending is not None and self._log is not None:
            step, future = self._pending
            self._stop = True
            while not future.done():  # its process may be about to start
                if self._process is not None:
                    self._process.kill()
                time.sleep(0.02)
            self._pending = None
            self._log.checkup(step, {"ended": "with its stage"})
        self._worker.shutdown()
        if self._log is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    _stop = False

    def _tell(self) -> None:
        if self._pending is None or self._log is None or not self._pending[1].done():
            return
        (step, future), self._pending = self._pending, None
        error = future.exception()
        # It needs memory, room on the disk and a process: whatever it fails with, training needs none of it.
        facts = future.result() if error is None else {"failed": str(error) or repr(error)}
        self._log.checkup(step, facts)
        label = f"{self._recipe.variant} {self._recipe.stage}, checkup of step {step:,}"
        if error is not None:
            print(f"warning: {label}: {facts['failed']}; training goes on", file=sys.stderr, flush=True)
        else:
            said = f"{facts['accuracy']:.1%} ({facts['low']:.1%} to {facts['high']:.1%}) of {facts['benchmark']}"
            print(f"{label}: {said}", file=sys.stderr, flush=True)

    def _check(self, step: int, weights: Weights) -> dict[str, Any]:
        """In the thread: the answer's facts. Raises `CheckupError` or `OSError`."""
        began = time.monotonic()
        folder = self._folder / f"step-{step}"
        try:
            folder.mkdir(parents=True)
            self._write(weights, folder)
            weights.clear()
            facts = self._ask(step, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return {**facts, "took": round(time.monotonic() - began, 3)}

    def _write(self, weights: Weights, folder: Path) -> None:
        size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
        free = shutil.disk_usage(folder).free
        # What the stage itself has to write goes first: a state of float32 weights and two moments.
        if free < 10 * size:
            raise CheckupError(f"{free / 1e9:.3g} GB are free on the disk, too little beside the stage's own state")
        for path in self._recipe.parent.iterdir():
            if path.is_file() and not path.name.endswith((".safetensors", ".safetensors.index.json")):
                shutil.copyfile(path, folder / path.name)
        lora = self._recipe.settings.lora
        whole = weights if lora is None else merged(weights, lora)
        save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})

    def _ask(self, step: int, folder: Path) -> dict[str, Any]:
        assert self._use is not None
        request = {
            "checkpoint": str(folder.resolve()), "benchmark": self._use.benchmark, "questions": self._use.questions,
            "device": self._use.device, "label": f"{self._recipe.variant} {self._recipe.stage} after step {step}",
        }  # fmt: skip
        write_json(request, folder / "request.json")
        answer = folder / "answer.json"
        command = [sys.executable, "-m", MODULE, str((folder / "request.json").resolve()), str(answer.resolve())]
        environment = {name: value for name, value in os.environ.items() if name not in _OF_THE_RANK}
        environment["OMP_NUM_THREADS"] = "1"
        if self._stop:
            raise CheckupError("ended with its stage")
        with (folder / "words.txt").open("wb") as words:
            # It ends when its standard input does: with this process, however that ends.
            self._process = subprocess.Popen(
                command, cwd=self._recipe.root, env=environment, stdin=subprocess.PIPE, stdout=words,
                stderr=subprocess.STDOUT,
            )  # fmt: skip
            code = self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()
        if code or not answer.is_file():
            said = (folder / "words.txt").read_text(encoding="utf-8", errors="replace")[-_LAST_WORDS:].strip()
            raise CheckupError(f"exit code {code}; its last words: {said}")
        facts: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        return facts


def copied_weights(module: torch.nn.Module, partitioned: bool, *, always: bool = True) -> Weights:
    """A copy of the weights in rank 0's memory, one tensor after the other; nothing on other ranks.

    No GPU holds more than one whole tensor beside its own part.

    `partitioned`: by ZeRO-3; then all ranks have to call it. `always`: also of those that lie whole in this memory
    already.
    """
    keep = dist.get_rank() == 0
    found: Weights = {}
    if not keep and not partitioned:
        return found
    with torch.no_grad():
        for name, tensor in module.state_dict(keep_vars=True).items():
            gathered = deepspeed.zero.GatheredParameters([tensor], enabled=partitioned and hasattr(tensor, "ds_id"))
            with gathered:
                if keep:
                    found[name] = tensor.detach().to("cpu", copy=always or partitioned).contiguous()
    return found


def merged(weights: Weights, lora: Lora) -> Weights:
    """The weights under their usual names: W + alpha / rank * B A for layers with an adapter."""
    found = {}
    for name, tensor in weights.items():
        layer, inside, rest = name.partition(".base_layer.")
        if inside:
            first, second = (weights.get(f"{layer}.lora_{part}.default.weight") for part in "AB")
            if rest == "weight" and first is not None and second is not None:
                change = second.float() @ first.float() * (lora.alpha / lora.rank)
                tensor = (tensor.float() + change).to(tensor.dtype)
            found[f"{layer}.{rest}"] = tensor
        elif ".lora_A." not in name and ".lora_B." not in name:
            found[name] = tensor
    return found


def check_benchmark(recipe: Recipe) -> None:
    """Raises `TrainingError` when the benchmark that is to be asked has not been made."""
    use = recipe.tracking.checkup
    if use is not None and not (recipe.root / "data/benchmarks" / use.benchmark / "questions.parquet").is_file():
        raise TrainingError(
            f"tracking.checkup asks for {use.benchmark}, which is not in {recipe.root / 'data/benchmarks'}: run "
            f"`fusion benchmark {use.benchmark}`, or take it out of params.yaml"
        )
