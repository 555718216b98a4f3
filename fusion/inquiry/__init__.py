"""Commands that answer questions about what was made: lineage, trace, forget, diff, audit, verify."""

from collections.abc import Callable
from typing import Any

import typer

from fusion.inquiry.lineage import lineage


def add_commands(app: typer.Typer, *others: Callable[..., Any]) -> None:
    """Makes these functions, and those of this package, commands of `app`."""
    for command in (*others, lineage):
        app.command()(command)
