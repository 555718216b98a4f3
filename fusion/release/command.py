"""The command `fusion publish`. What it needs is imported when it runs: every command imports this file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HUB = "hub"


def publish(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="A variant of params.yaml.")],
    to: Annotated[
        str | None,
        typer.Option(metavar="FOLDER|hub", help="The folder to write; publish.folder of params.yaml if left out."),
    ] = None,
    push: Annotated[bool, typer.Option("--push", help="Upload to the Hub, with the token of HF_TOKEN.")] = False,
    key: Annotated[
        Path | None,
        typer.Option(help="A private EC key in PEM; publish.signing.key of params.yaml if left out."),
    ] = None,
) -> None:
    """Publish a variant's checkpoints and the cards of its data sets: check, write, sign, upload, verify, tag.

    Without --push all goes into a folder in the Hub's layout. `--to hub` without --push only tells what would go up.
    """
    from fusion.agreement import check_agreement
    from fusion.data.catalog import load_catalog
    from fusion.release.publish import Target, publish_variant
    from fusion.settings import load_settings

    settings = load_settings()
    catalog = load_catalog(Path("data/catalog"))
    check_agreement(settings, catalog)
    folder = Path(settings.publish.folder if to in (None, HUB) else str(to))
    target = Target(folder, hub=push or to == HUB, push=push)
    release = publish_variant(settings, catalog, variant, target, say, key)
    print(f"{variant} is {release}")


def say(step: str, what: str) -> None:
    """One line a step."""
    print(f"{step:<11} {what}", flush=True)
