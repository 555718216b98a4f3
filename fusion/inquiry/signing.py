"""OpenSSF model signing with a key file: it works offline, and covers every file of a folder but the signature itself.

The library is the extra `sign` of this package; its bundles can be verified with its own command as well
(`model_signing verify key model.sig ...`).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from fusion.inquiry.checks import BOM, PROVENANCE, SIGNATURE
from fusion.inquiry.exports.mlbom import mlbom
from fusion.inquiry.exports.slsa import slsa
from fusion.lineage.errors import LineageError
from fusion.lineage.family import Family
from fusion.lineage.reference import find_family

PASSWORD = "FUSION_SIGNING_PASSWORD"
"""Environment variable with the key's password; it stands nowhere else."""
_UNSIGNED = (SIGNATURE, ".git", ".gitattributes", ".cache")
"""What the Hub's client or git adds to a folder."""


def sign_package(package: Path, key: Path, out: Path, root: Path = Path(".")) -> None:
    """Copies a package to `out`, adds provenance and ML-BOM, and signs it all.

    The package itself is an output of DVC and stays as it is: a signature differs from run to run.

    Raises:
        LineageError: `out` exists, the key cannot be used, or the extra is not installed.
    """
    if out.exists():
        raise LineageError(f"{out} is there already: name a folder that is not")
    if not (package / "lineage.json").is_file():
        raise LineageError(f"{package} is no package: it has no lineage.json")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    folder = partial / out.name  # By this name the bill of materials knows it.
    try:
        shutil.copytree(package, folder)
        add_statements(folder)
        sign_folder(folder, key)
        folder.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def add_statements(folder: Path) -> None:
    """Writes the provenance and the ML-BOM of a package beside its files; equal packages get equal ones."""
    family = Family(**{**vars(find_family(str(folder.resolve()), Path("/nowhere"))), "target": folder.resolve().name})
    (folder / PROVENANCE).write_text(slsa(family, folder.resolve().parent) + "\n", encoding="utf-8")
    (folder / BOM).write_text(mlbom(family, folder.resolve().parent) + "\n", encoding="utf-8")


def sign_folder(folder: Path, key: Path) -> None:
    """Signs all files of a folder; raises `LineageError` when the key cannot be used or the extra is not there."""
    signer, folder = signer_of(key), folder.absolute()
    try:
        signer.set_hashing_config(_hashing(folder)).sign(folder, folder / SIGNATURE)
    except (ValueError, TypeError, OSError) as error:
        raise _cannot_sign(key, error) from error


def signer_of(key: Path) -> Any:
    """The library's signer with this key; raises `LineageError` when the key cannot be used."""
    try:
        # The library asks for a text and hands it on to one that asks for bytes, so a text never opens a key.
        return _library().signing.Config().use_elliptic_key_signer(private_key=key, password=_password())
    except (ValueError, TypeError, OSError) as error:
        raise _cannot_sign(key, error) from error


def public_key(key: Path) -> bytes:
    """The public half of a private key, in PEM; raises `LineageError` when the key cannot be used."""
    signer_of(key)  # Says what is wrong with it.
    from cryptography.hazmat.primitives import serialization

    private = serialization.load_pem_private_key(key.read_bytes(), _password())
    return private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _password() -> bytes | None:
    password = os.environ.get(PASSWORD)
    return password.encode() if password else None


def _cannot_sign(key: Path, error: Exception) -> LineageError:
    return LineageError(
        f"{key} cannot sign ({error}): use an EC key, for example from "
        f"`openssl ecparam -name prime256v1 -genkey -noout`; its password goes into {PASSWORD}"
    )


def verify_signature(folder: Path, key: Path) -> str | None:
    """What is wrong with the signature of a folder; None when all is well."""
    folder = folder.absolute()  # The library takes a relative path of what it has to ignore as one inside the folder.
    config = _library().verifying.Config().use_elliptic_key_verifier(public_key=key)
    try:
        config.set_hashing_config(_hashing(folder)).verify(folder, folder / SIGNATURE)
    except Exception as error:  # The library raises what its parsers raise: any of it means that it does not hold.
        return f"the signature does not hold: {error or type(error).__name__}"
    return None


def _hashing(folder: Path) -> Any:
    ignored = [folder / name for name in _UNSIGNED]
    # The Hub's client keeps what it downloaded as links into its cache. What they lead to is hashed all the same.
    config = _library().hashing.Config().set_allow_symlinks(True)
    return config.set_ignored_paths(paths=ignored, ignore_git_paths=False)


def _library() -> Any:
    try:
        import model_signing
        import model_signing.hashing
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise LineageError(
            f"signatures need the extra `sign`: pip install 'fusion-pipeline[sign]' ({error})"
        ) from error
    return model_signing
