"""What a finished stage came to, kept in its state folder until a later command begins with it.

DVC removes a stage's outputs before it starts its command again, and takes new ones over some time after the command
has ended. So a stage writes checkpoint and results beside its state first, names them when they are whole, and copies
them to their place. Whatever is killed after that, the next start copies them again and trains nothing.
"""

import contextlib
import json
import re
import shutil
import sys
from typing import Any

import psutil

from fusion.data.store.folders import output_folder
from fusion.train.layout import Layout
from fusion.train.recipe import Recipe
from fusion.train.state import CHECKPOINT, RESULTS, ResumableState, remove


def facts_of(recipe: Recipe) -> dict[str, Any]:
    """What has to be equal, beside the identity, for a result to be that of this recipe: the summary tells of it."""
    facts: dict[str, Any] = json.loads(
        json.dumps({"settings": recipe.settings.model_dump(), **Layout.of(recipe).as_dict()})
    )
    return facts


def take_result(recipe: Recipe, place: bool) -> bool:
    """Whether this stage was finished before; then its result is in its place and there is nothing to train.

    `place`: this command puts it there, that of the first node.

    Raises:
        TrainingError: somebody else is at work on the stage.
    """
    states = recipe.root / "scratch" / "train"
    kept = list(states.glob(f"{recipe.variant}-{recipe.stage}-*/{ResumableState.FINISHED}"))
    if not kept:
        return False  # to know the identity takes the hashes of all weights
    state = ResumableState(recipe)
    facts, fault = state.result()
    if forced():
        facts = None
    if fault is not None:
        _tell(f"warning: {fault}; the stage is trained again")
    if facts is None or facts != facts_of(recipe):
        for path in kept if place else ():
            remove(path)  # nobody asks for it any more
        return False
    if place:
        state.hold()
        place_result(recipe, state)
        state.release()
        _tell(
            f"{recipe.stage} of {recipe.variant} was finished before, with these settings and inputs: checkpoint and "
            f"results are taken from {state.folder}. `fusion scratch --clear train/{state.folder.name}` lets it be "
            "trained again"
        )
    return True


def forced() -> bool:
    """Whether `dvc repro --force` started this process: whoever forces a stage wants it trained, not its result."""
    for one in psutil.Process().parents():
        with contextlib.suppress(psutil.Error):
            words = one.cmdline()
            if "repro" in words and any(re.search(r"(^|/)dvc$", word) for word in words):
                return any(re.fullmatch(r"--force|-[a-zA-Z]*f[a-zA-Z]*", word) for word in words)
    return False


def place_result(recipe: Recipe, state: ResumableState) -> None:
    """Copies a finished stage's checkpoint and results to where they belong, and removes the state behind them."""
    with output_folder(recipe.output) as folder:
        shutil.copytree(state.finished / CHECKPOINT, folder, dirs_exist_ok=True)
    shutil.copytree(state.finished / RESULTS, recipe.results, dirs_exist_ok=True)
    state.delete_checkpoints()


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
