"""Starts the ranks of a training stage through DeepSpeed's launcher and waits for them."""

import base64
import itertools
import json
import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from safetensors import safe_open

from fusion.settings import load_settings
from fusion.train.checkup import check_benchmark
from fusion.train.compiling import check_compiler
from fusion.train.errors import WHAT_TO_DO, Preempted, TrainingError
from fusion.train.parts import Elements
from fusion.train.recipe import Recipe
from fusion.train.result import take_result
from fusion.train.room import check_disk, check_memory
from fusion.train.running import Ending, run_launcher
from fusion.train.trackers import check_trackers
from fusion.zoo.rules import check_parent


@dataclass(frozen=True)
class Start:
    """A way to start the ranks of a stage.

    Attributes:
        run: runs all ranks to their end.
        here: how many of them run on this machine.
        node: number of this machine among those that are started alike; None = all of them run elsewhere.
    """

    run: Callable[[Recipe], Ending]
    here: Callable[[Recipe], int]
    node: int | None = 0


def train_stage(recipe: Recipe, start: Start | None = None) -> None:
    """Trains one stage: checks its inputs, runs its ranks to the end, leaves the checkpoint at `recipe.output`.

    A stage that was finished before, and whose result nobody has begun with, gets that result again (see `result`).

    `start` None = all ranks on this machine.

    Raises `TrainingError` naming the missing or failed input before any rank starts, or the exit code of the ranks, and
    `ZooError` for a parent with another base LLM, vision encoder, template or tokenizer, naming both.
    """
    start = start or LOCAL
    check_inputs(recipe, start.here(recipe))
    variant = load_settings(recipe.root / "params.yaml").variant(recipe.variant)
    check_parent(recipe.parent, variant, recipe.stage, recipe.root)
    # Elsewhere the same is asked by the commands that run there.
    if start.node is not None and take_result(recipe, place=start.node == 0):
        return
    ending = start.run(recipe)
    if ending.code:
        raise ended(recipe, ending)


def ended(recipe: Recipe, ending: Ending) -> TrainingError:
    """The error of a stage whose ranks ended before its time."""
    code = ending.code
    if ending.signals and (code < 0 or code not in WHAT_TO_DO):
        # A scheduler that asked for it starts the stage again, whether there was time to save or not.
        code = Preempted.exit_code
        what = "was ended at once, by a second request to stop" if ending.signals > 1 else "was told to stop"
        what += "; nothing was saved after its last complete checkpoint, the steps since then are done again"
    else:
        what = WHAT_TO_DO.get(code, f"ended with exit code {code}; the ranks' messages stand above")
    error = TrainingError(
        f"{recipe.stage} of {recipe.variant} {what}. The log is {recipe.log}. Started again with the same "
        "settings, the stage continues from its last complete checkpoint."
    )
    error.exit_code = code if code in WHAT_TO_DO and code > 0 else 1
    return error


def start_here(recipe: Recipe, more: Mapping[str, str]) -> Ending:
    """Runs all ranks on this machine through DeepSpeed's launcher for one node; `more` goes before other variables."""
    environment = {**rank_environment(recipe), **more}
    return run_launcher(launcher_command(recipe, environment), environment, recipe.root)


def local(environment: Mapping[str, str]) -> Start:
    """The way to start all ranks on this machine, each with the variables of `environment`."""
    return Start(lambda recipe: start_here(recipe, environment), lambda recipe: recipe.hardware.ranks)


LOCAL = local({})
"""The default, without variables of the settings."""


def check_inputs(recipe: Recipe, ranks: int | None = None) -> None:
    """Raises `TrainingError` unless the parent checkpoint, the manifest and a passed validation are there.

    Also unless this machine has what the `ranks` need that run on it; None = all of them do.
    """
    ranks = recipe.hardware.ranks if ranks is None else ranks
    if not (recipe.parent / "config.json").is_file():
        raise TrainingError(
            f"{recipe.stage} of {recipe.variant} continues {recipe.parent}, which is not there: run `dvc repro`"
        )
    if not recipe.verdict.is_file():
        raise TrainingError(f"{recipe.dataset} has not been validated ({recipe.verdict} is missing): run `dvc repro`")
    if json.loads(recipe.verdict.read_text(encoding="utf-8"))["status"] != "passed":
        raise TrainingError(f"{recipe.dataset} failed its validation: see {recipe.verdict}")
    check_adapters(recipe)
    elements = Elements.of(tensor_shapes(recipe.parent), recipe.settings)
    check_disk(recipe, elements)
    check_memory(recipe, elements, here=ranks)
    check_devices(recipe, ranks)
    check_compiler(recipe)
    check_trackers(recipe)
    check_benchmark(recipe)
    if recipe.hardware.device == "cpu" and shutil.which("g++") is None:
        raise TrainingError("DeepSpeed compiles its CPU communication at first use and needs g++, which is not on PATH")


def check_adapters(recipe: Recipe) -> None:
    """Raises `TrainingError` unless `lora` fits the parent's layers and what makes adapters is installed."""
    lora = recipe.settings.lora
    if lora is None:
        return
    if find_spec("peft") is None:
        raise TrainingError("training.lora: adapters are made by the package peft, which is in the extra `lora`")
    from fusion.model.adapters import adapted_layers

    try:
        adapted_layers(tensor_shapes(recipe.parent), lora)
    except ValueError as error:
        raise TrainingError(f"{recipe.stage} of {recipe.variant}: {error}") from None


def tensor_shapes(checkpoint: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint's tensors, from the headers of its weight files."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    return shapes


def check_devices(recipe: Recipe, ranks: int) -> None:
    """Raises `TrainingError` unless this machine has a GPU for each of its ranks, where GPUs are asked for."""
    if recipe.hardware.device != "cuda" or not ranks:
        return
    import torch

    found = torch.cuda.device_count()
    if found < ranks:
        raise TrainingError(
            f"{recipe.stage} of {recipe.variant} asks for {ranks} rank(s) on GPUs of this machine, and torch "
            f"{torch.__version__} sees {found} here: set variants.{recipe.variant}.hardware (device, ranks), or "
            "install the build of torch for these GPUs"
        )


def launcher_command(recipe: Recipe, environment: Mapping[str, str]) -> list[str]:
    """The command line of DeepSpeed's per-node launcher for all ranks of this machine."""
    devices = device_ids(recipe, recipe.hardware.ranks, environment)
    world = base64.urlsafe_b64encode(json.dumps({"localhost": devices}).encode()).decode()
    launcher = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", "--master_addr=127.0.0.1"]
    launcher += [f"--master_port={_free_port()}", "--log_level=error"]
    return [*launcher, "--module", "fusion.train", recipe.variant, recipe.stage]


def device_ids(recipe: Recipe, ranks: int, environment: Mapping[str, str]) -> list[int | str]:
    """The devices of `ranks` ranks of one machine, as DeepSpeed's launcher puts them into CUDA_VISIBLE_DEVICES.

    That variable's own entries where it is set: numbers made up here would be those of other GPUs. Entries may be names
    (`GPU-...`, `MIG-...`); those behind one that is no device do not count, as for CUDA itself.
    """
    told = environment.get("CUDA_VISIBLE_DEVICES")
    if recipe.hardware.device == "cuda" and told is not None:
        entries = [entry.strip() for entry in told.split(",")]
        seen = list(itertools.takewhile(lambda entry: entry and not entry.startswith("-"), entries))
        if len(seen) >= ranks:  # fewer are refused before the start, see `check_devices`
            return list(seen[:ranks])
    return list(range(ranks))


def rank_environment(recipe: Recipe) -> dict[str, str]:
    """The environment of the ranks: threads, accelerator, and the environment's own programs (ninja) on PATH."""
    environment = dict(os.environ)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    for name, value in rank_variables(recipe).items():
        if name in _FROM_OUTSIDE:
            environment.setdefault(name, value)
        else:
            environment[name] = value
    return environment


_FROM_OUTSIDE = ("TORCH_EXTENSIONS_DIR", "TORCHDYNAMO_DISABLE")


def rank_variables(recipe: Recipe) -> dict[str, str]:
    """The variables that ranks need beside PATH, on whatever node; a value from outside goes before some of them."""
    variables = {
        "OMP_NUM_THREADS": str(recipe.hardware.threads_per_rank),
        "DS_ACCELERATOR": recipe.hardware.device,
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        # Compiled extensions belong to one environment: two that share a folder would compile them in turns.
        "TORCH_EXTENSIONS_DIR": str(Path(sys.prefix) / "torch_extensions"),
    }
    if recipe.hardware.device == "cpu" and not recipe.hardware.compile:
        # DeepSpeed wraps an optimiser that is not used here with torch.compile at every start, which takes seconds.
        variables["TORCHDYNAMO_DISABLE"] = "1"
    return variables


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
