"""Whether the disk and the memory have room for a stage, asked before its first step."""

import errno
import os
import shutil
from pathlib import Path

import psutil

from fusion.errors import FusionError
from fusion.plan.memory import checkpoint_bytes, host_bytes, model_states
from fusion.train.errors import NoRoom, OutOfMemory
from fusion.train.parts import Elements
from fusion.train.recipe import Recipe

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NO_MEMORY = ("can't allocate memory", "bad_alloc", "can't start new thread")
"""What torch, C++ and Python say on a CPU."""


def check_disk(recipe: Recipe, elements: Elements, folder: Path | None = None) -> None:
    """Raises `NoRoom` unless the kept checkpoints, the one being written and the result fit on the disk.

    `folder`: of the resumable state, whose present files need no new room; None = any state of this stage.
    """
    keep = recipe.settings.keep_checkpoints
    assert keep is not None  # filled in by Settings.stage
    states = recipe.root / "scratch" / "train"
    folders = states.glob(f"{recipe.variant}-{recipe.stage}-*") if folder is None else [folder]
    held = sum(path.stat().st_size for one in folders for path in one.rglob("*") if path.is_file())
    place = folder or states
    state = checkpoint_bytes(
        elements.all, elements.trained, _size(recipe), _zero(recipe), on_gpu=recipe.hardware.device == "cuda"
    )
    needed = state * (keep + 1) + _size(recipe) * elements.finished - held
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise NoRoom(
            f"{recipe.stage} of {recipe.variant} needs {_giga(needed)} for its resumable state ({keep + 1} x "
            f"{_giga(state)}) and its checkpoint, and {existing.resolve()} has {_giga(free)} free: make room (`fusion "
            "scratch` shows what other runs left), or lower training.keep_checkpoints"
        )


def check_memory(recipe: Recipe, elements: Elements, available: int | None = None, here: int | None = None) -> None:
    """Raises `OutOfMemory` when what all ranks of this machine keep cannot fit into its memory.

    For ranks on the CPU these are weights, gradients and moments; activations come on top (`fusion plan`).
    Ranks on GPUs read the weights in float32 first, each its own copy, and may keep the optimiser here.

    `here`: how many of the ranks run on this machine; None = all.
    """
    here = recipe.hardware.ranks if here is None else here
    if recipe.hardware.device == "cpu":
        states = model_states(elements.all, elements.trained, _size(recipe), _zero(recipe), recipe.hardware.ranks)
        needed, what = here * (states.lasting + states.gradients), "weights, gradients and AdamW's moments"
        advice = "fewer hardware.ranks, a higher training.zero_stage, or fewer trained_parts"
    else:
        ranks, offload = recipe.hardware.ranks, recipe.hardware.offload_optimizer
        accumulation = -(-recipe.settings.global_batch // (ranks * recipe.hardware.micro_batch))
        offloaded = host_bytes(elements.trained, ranks, _size(recipe), accumulation) if offload else 0.0
        needed, what = here * max(4.0 * elements.all, offloaded), "the weights as they are read"
        what += " and the offloaded optimiser" * (offloaded > 0)
        advice = "fewer ranks on each machine (launch.ranks_per_node), or machines with more memory"
    free = psutil.virtual_memory().available if available is None else available
    if needed > free:
        raise OutOfMemory(
            f"{recipe.stage} of {recipe.variant} needs {_giga(needed)} for {what} of {here} rank(s) alone, and "
            f"{_giga(free)} of memory are available: {advice}"
        )


def check_device_memory(recipe: Recipe, elements: Elements, free: int) -> None:
    """Raises `OutOfMemory` when what a rank keeps on its GPU, activations apart, cannot fit into its `free` bytes."""
    hardware = recipe.hardware
    states = model_states(
        elements.all, elements.trained, _size(recipe), _zero(recipe), hardware.ranks, offload=hardware.offload_optimizer
    )
    needed = states.lasting + states.gradients
    if needed > free:
        raise OutOfMemory(
            f"{recipe.stage} of {recipe.variant} needs {_giga(needed)} on each GPU for weights, gradients and AdamW's "
            f"moments alone, and {_giga(free)} are free: a higher training.zero_stage, more hardware.ranks, "
            "hardware.offload_optimizer, fewer trained_parts, or end what else is on it; `fusion plan` says what fits"
        )


def _size(recipe: Recipe) -> int:
    """Bytes of an element of the weights that compute."""
    return 2 if recipe.settings.precision == "bf16" else 4


def _zero(recipe: Recipe) -> int:
    return recipe.settings.zero_stage or 0


def out_of_memory(recipe: Recipe, error: BaseException) -> OutOfMemory:
    """The error of a rank that found no memory in the middle of its work."""
    return OutOfMemory(
        f"{recipe.stage} of {recipe.variant} ran out of memory ({_first_line(error)}): lower "
        "hardware.micro_batch (results stay the same but for rounding), switch activation_checkpointing on, or raise "
        f"zero_stage; set for this stage alone (variants.{recipe.variant}.stages.{recipe.stage}), finished stages are "
        "left alone. The same command continues then from the last complete checkpoint (zero_stage: from 1 to 2; with "
        "others the state cannot be continued). With a lower max_length, which trains on other samples, the stage "
        "begins anew."
    )


def no_room(recipe: Recipe, error: BaseException) -> NoRoom:
    """The error of a rank that could not write something that is no resumable state."""
    return NoRoom(
        f"no space is left on the disk of {recipe.root.resolve()} for what {recipe.stage} of {recipe.variant} writes "
        f"({_first_line(error)}): make room, the same command continues from the last complete checkpoint"
    )


def explained(recipe: Recipe, error: Exception) -> NoRoom | OutOfMemory | None:
    """The error that says what to do, if the machine had no room or no memory left for a rank; else None."""
    from torch import OutOfMemoryError

    text = str(error)
    if isinstance(error, FusionError):
        return None
    if isinstance(error, (MemoryError, OutOfMemoryError)) or any(sign in text for sign in _NO_MEMORY):
        return out_of_memory(recipe, error)
    if (isinstance(error, OSError) and error.errno in _NO_ROOM) or os.strerror(errno.ENOSPC) in text:
        return no_room(recipe, error)
    return None


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _giga(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def is_full(folder: Path, error: BaseException) -> bool:
    """Whether a failed write is one for want of space: torch says so in many words."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return True
    return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free < 1 << 20
