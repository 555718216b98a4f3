"""Commands that answer questions about what was made: lineage, trace, forget, diff, audit, verify."""

from collections.abc import Callable
from typing import Any

import typer

from fusion.inquiry.audit import audit
from fusion.inquiry.diff import diff
from fusion.inquiry.forget import forget
from fusion.inquiry.licence import licence
from fusion.inquiry.lineage import lineage
from fusion.inquiry.trace import trace
from fusion.inquiry.verify import sign, verify


def add_commands(app: typer.Typer, *others: Callable[..., Any]) -> None:
    """Makes these functions, and those of this package, commands of `app`."""
    mine: tuple[Callable[..., Any], ...] = (lineage, trace, forget, diff, audit, licence, sign, verify)
    for command in (*others, *mine):
        app.command()(command)
