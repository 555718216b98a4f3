"""The commands `fusion sign` and `fusion verify`: for who publishes a package, and for who downloads it."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fusion.errors import FusionError


def sign(
    package: Annotated[Path, typer.Argument(metavar="PACKAGE", help="A package's folder, like packages/tiny.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; must not exist.")],
    key: Annotated[Path, typer.Option(help="A private EC key in PEM; its password: FUSION_SIGNING_PASSWORD.")],
) -> None:
    """Copy a package, add provenance and ML-BOM, and sign it (OpenSSF model signing)."""
    from fusion.inquiry.signing import sign_package

    sign_package(package, key, out)
    print(out)


def verify(
    what: Annotated[str, typer.Argument(metavar="FOLDER|OWNER/NAME", help="A package's folder, or a Hub repository.")],
    key: Annotated[Path | None, typer.Option(help="The publisher's public key in PEM.")] = None,
    signed: Annotated[bool, typer.Option("--signed", help="Refuse a package without a signature that holds.")] = False,
    revision: Annotated[str | None, typer.Option(help="Of a Hub repository.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Check a package that was downloaded: signature, hashes, provenance. Needs nothing but the package."""
    from fusion.inquiry.checks import check_folder

    if key is not None and not key.is_file():
        raise FusionError(f"{key} is not there: it is the file with the publisher's public key")
    folder = Path(what) if Path(what).is_dir() else _download(what, revision)
    checks = check_folder(folder, key, signed)
    if json:
        print(json_module.dumps([asdict(check) for check in checks], indent=1, ensure_ascii=False))
    else:
        width = max(len(check.name) for check in checks)
        print("\n".join(f"{check.name:<{width}}  {check.state:<11}  {check.what}" for check in checks))
    if any(check.state == "FAILED" for check in checks):
        sys.exit(1)


def _download(repo: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FusionError(
            f"{repo} is neither a folder nor a repository that can be had from the Hub: {error}"
        ) from error
