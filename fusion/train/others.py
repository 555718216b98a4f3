"""States of the same stage that were begun with something else: a start that continues none of them says so.

Beside each state lies what decided its key, so that the two can be compared.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fusion.files import write_json

_FILE = "decisive.json"
_FILES = ("code.", "parent.", "manifest")
"""What has a hash for its value, which tells nobody anything."""


def keep_decisive(folder: Path, decisive: dict[str, Any]) -> None:
    """Writes `Recipe.decisive` beside the state in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(decisive, folder / _FILE)


def begun_otherwise(folder: Path, decisive: dict[str, Any]) -> list[str]:
    """One line for each other state of the stage whose state would lie in `folder`, with what is different in it."""
    lines = []
    for other in sorted(folder.parent.glob(f"{folder.name.rpartition('-')[0]}-*")):
        steps = [int(path.name.removeprefix("step-")) for path in other.glob("step-*")]
        if other == folder or not steps:
            continue
        lines.append(
            f"{other} has a state after step {max(steps)}, which is not continued because it was begun with something "
            f"else ({_told(other / _FILE, decisive)}). Set that back to continue it, or remove it with "
            f"`fusion scratch --clear train/{other.name}`"
        )
    return lines


def _told(path: Path, now: dict[str, Any]) -> str:
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return "it does not say with what"
    old, new = dict(_flat(before)), dict(_flat(json.loads(json.dumps(now))))
    return ", ".join(_difference(name, old, new) for name in sorted(old | new) if old.get(name) != new.get(name))


def _difference(name: str, old: dict[str, Any], new: dict[str, Any]) -> str:
    if name == "manifest":
        return "data"
    return name if name.startswith(_FILES) else f"{name} {old.get(name)}, now {new.get(name)}"


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything in nested objects; a list is a value."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, item in value.items():
        yield from _flat(item, f"{name}.{key}" if name else key)
