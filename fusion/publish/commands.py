"""The command `fusion zoo`. What it needs is imported when it runs: every command imports this file."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def zoo(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="As the page MODEL_ZOO.md.")] = False,
    published: Annotated[bool, typer.Option("--published", help="Without this checkout's own checkpoints.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Scores that cannot be, and whether notes say so.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE", help="Write to a file.")] = None,
) -> None:
    """Show the model zoo: published checkpoints and scores and, apart from them, those of this checkout."""
    from fusion.publish.zoo import show_zoo

    sys.exit(show_zoo(json=json, markdown=markdown, published=published, check=check, output=output))
