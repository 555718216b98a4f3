"""A state of other ranks in DeepSpeed's universal form: every weight and moment whole, in files of its own.

The conversion is DeepSpeed's own program. What it wrote is checked before anything reads it, and loaded with two
repairs of what its loader for ZeRO-3 leaves wrong.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from fusion.train.errors import NoRoom, TrainingError
from fusion.train.running import end_with_parent

PARTS = ("fp32", "exp_avg", "exp_avg_sq")
"""A weight and its two moments."""
_TOLD = 2000
_MOST_WORKERS = 4


def convert(source: Path, target: Path) -> None:
    """Writes the universal form of the checkpoint in folder `source` to the folder `target`, and checks it.

    Raises:
        NoRoom: the disk has no room for it.
        TrainingError: the program failed, or what it wrote is not whole.
    """
    _check_room(source)
    target.mkdir(parents=True)
    # Relative names: the program puts paths into regular expressions.
    near = source.parent
    command = [sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal", "--inject_missing_state"]
    command += ["--input_folder", source.name, "--output_folder", str(target.relative_to(near))]
    workers = str(min(_MOST_WORKERS, len(os.sched_getaffinity(0))))
    command += ["--num_extract_workers", workers, "--num_merge_workers", workers]
    done = subprocess.run(command, cwd=near, text=True, capture_output=True, preexec_fn=end_with_parent)
    if done.returncode:
        raise TrainingError(f"{source} could not be converted for other ranks:\n{done.stderr[-_TOLD:]}")
    faults = list(faults_of(source, target))
    if faults:
        raise TrainingError(f"{source} was not converted whole for other ranks: " + "; ".join(faults[:5]))


def _check_room(source: Path) -> None:
    """The program writes all parts twice: cut into pieces first."""
    needed = 2 * sum(path.stat().st_size for path in source.iterdir() if path.is_file())
    free = shutil.disk_usage(source).free
    if needed > free:
        raise NoRoom(
            f"{source} has to be converted for other ranks, which takes {needed / 1e9:.3g} GB for a while, and "
            f"{free / 1e9:.3g} GB are free: make room, or set ranks and zero_stage back"
        )


def faults_of(source: Path, target: Path) -> Iterator[str]:
    """What is missing or wrong in the universal form of a checkpoint, a line for each parameter and part."""
    saved = torch.load(sorted(source.glob("*_model_states.pt"))[0], map_location="cpu", weights_only=False, mmap=True)
    shapes = saved["param_shapes"]
    weights = saved["module"] or {}
    if isinstance(shapes, dict):
        shapes = [shapes]
    for name, shape in [item for group in shapes for item in group.items()]:
        size = torch.Size(shape).numel()
        for part in PARTS:
            path = target / "zero" / name / f"{part}.pt"
            if not path.is_file():
                yield f"{part} of {name} is missing"
                continue
            stored = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
            tensor = stored["param"] if isinstance(stored, dict) else stored
            if tensor.numel() != size:
                yield f"{part} of {name} has {tensor.numel()} elements instead of {size}"
            elif not bool(torch.isfinite(tensor).all()):
                yield f"{part} of {name} is not finite"
            elif part == "fp32" and not _same(tensor, weights.get(name)):
                yield f"{name} differs from the weight that was saved"


def _same(tensor: torch.Tensor, weight: torch.Tensor | None) -> bool:
    """Whether it is the weight that computes; ZeRO-3 keeps no whole one beside the parts."""
    if weight is None or weight.numel() != tensor.numel():
        return True
    return torch.equal(tensor.reshape(-1).to(weight.dtype), weight.reshape(-1))


def load_universal(engine: Any, folder: Path, tag: str) -> None:
    """Loads a universal checkpoint into an engine that was configured for one; called by all ranks."""
    groups = engine.optimizer.param_groups
    names = [group["name"] for group in groups]
    engine.load_checkpoint(str(folder), tag=tag)
    # DeepSpeed's loader for ZeRO-3 gives all groups the values of the first one, the name too ...
    for group, name in zip(groups, names, strict=True):
        group["name"] = name
    # ... and all parts of a rank one and the same counter, which each of them would move on.
    for state in _states(engine.optimizer):
        if torch.is_tensor(state.get("step")):
            state["step"] = state["step"].clone()


def _states(optimizer: Any) -> list[dict[str, Any]]:
    inner = getattr(optimizer, "optimizer", optimizer)
    return list(inner.state.values())
