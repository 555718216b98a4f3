"""The command `fusion licence`: who may use a model, and what stands against publishing it."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fusion.publish.terms import Review

SHOWN = 6


def licence(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="A variant of params.yaml.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Tell whose licences stand behind a model, what they ask, and what stands against publishing it."""
    from fusion.data.catalog import load_catalog
    from fusion.publish.terms import review
    from fusion.settings import load_settings

    found = review(load_settings(), load_catalog(Path("data/catalog")), variant)
    if json:
        more = {"may_be_published": not found.open, "default_name": found.default_name}
        print(json_module.dumps(asdict(found) | more, indent=1, ensure_ascii=False))
    else:
        print(tell(found))
    if found.open:
        sys.exit(1)


def tell(found: Review) -> str:
    """The review for people."""
    lines = [f"{found.variant}, to be published as {found.publish_as} (no legal advice)"]
    for name, parts in sorted(found.licences.items(), key=lambda item: -len(item[1])):
        more = f" and {len(parts) - SHOWN} more" if len(parts) > SHOWN else ""
        lines.append(f"  {name}: {', '.join(parts[:SHOWN])}{more}")
        lines += [f"    asks: {duty}" for duty in found.duties.get(name, [])]
    kinds: dict[str, list[str]] = {}
    for conflict in found.conflicts:
        kind = conflict.id.partition(":")[0]
        state = f"overridden: {conflict.reason}" if conflict.reason else "open"
        kinds.setdefault(kind, []).append(f"  {state}: {conflict.id}: {conflict.what}")
    for rows in kinds.values():
        lines += rows[:SHOWN] + ([f"  ... and {len(rows) - SHOWN} more like this"] if len(rows) > SHOWN else [])
    if found.default_name != found.publish_as:
        lines.append(f"a name that complies: {found.default_name}")
    use = "commercial use is not ruled out" if found.commercial else "not for commercial use, as far as is known"
    count = len(found.open)
    refused = f"publishing is refused: {count} conflict{'s' * (count > 1)}"
    lines.append(f"{use}; {refused if count else 'it may be published'}")
    return "\n".join(lines)
