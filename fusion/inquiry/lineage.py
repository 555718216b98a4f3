"""The command `fusion lineage`: what an artifact was made from, back to the rows of its sources."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fusion.errors import FusionError

FORMATS = ("tree", "json", "html", "dot")
PAGE = Path("reports/lineage.html")


def lineage(
    refs: Annotated[
        list[str],
        typer.Argument(metavar="REF...", help="Path, data set, VARIANT, VARIANT/STAGE, stage, package, OWNER/NAME."),
    ],
    form: Annotated[str, typer.Option("--format", help=" | ".join(FORMATS))] = "tree",
    verify: Annotated[bool, typer.Option("--verify", help="Hash again what is here, and compare.")] = False,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help=f"Write to a file; for html {PAGE} if left out.")
    ] = None,
    export: Annotated[
        str | None, typer.Option(metavar="KIND", help="slsa | cyclonedx | openlineage | prov | eu-summary.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a Hub repository.")] = None,
) -> None:
    """Show what an artifact was made from: data, code, parameters, environment, back to the sources."""
    from fusion.lineage.page import page
    from fusion.lineage.reference import find_family
    from fusion.lineage.verify import verify_family
    from fusion.lineage.view import as_dot, as_tree

    if form not in FORMATS:
        raise FusionError(f"--format {form}: one of {', '.join(FORMATS)}")
    root = Path(".")
    families = [find_family(ref, root, revision) for ref in refs]
    checked = [verify_family(family, root) if verify else None for family in families]
    states = [one.outputs if one else {} for one in checked]
    if export is not None:
        from fusion.inquiry.exports import EXPORTS

        if export not in EXPORTS or len(families) != 1:
            raise FusionError(f"--export takes one REF and one of {', '.join(EXPORTS)}")
        text = EXPORTS[export](families[0], root)
    elif form == "html":
        text = page(families, root, checked[0] if len(checked) == 1 else None)
        output = output or PAGE
    elif form == "json":
        documents = [
            family.document | ({"verified": {"outputs": one.outputs, "sources": one.sources}} if one else {})
            for family, one in zip(families, checked, strict=True)
        ]
        text = json.dumps(documents[0] if len(documents) == 1 else documents, indent=1, ensure_ascii=False)
    elif form == "dot":
        text = "\n".join(as_dot(family) for family in families)
    else:
        text = "\n\n".join(as_tree(family, found) for family, found in zip(families, states, strict=True))
    if output is None:
        print(text)
    else:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(text + "\n", encoding="utf-8")
        print(output)
    for one in checked:
        if one is not None:
            print(one.summary, file=sys.stderr)
    missing = [stage for family in families for stage in family.missing]
    damaged = [path for one in checked if one is not None for path in one.damaged]
    if missing or damaged:
        raise FusionError(
            "; ".join(
                [f"no record of {stage}" for stage in missing]
                + [f"{path} is not what its record says" for path in damaged]
            )
        )
