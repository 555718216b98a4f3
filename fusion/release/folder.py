"""A release in a folder, in the Hub's layout: written aside, compared with what is there, signed, put in place.

What is equal stays as it is, with its signature, so that a second call changes nothing.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fusion.inquiry.checks import SIGNATURE, check_folder
from fusion.inquiry.signing import sign_folder, verify_signature
from fusion.publish.errors import PublishError
from fusion.release.contents import Repository

STAGING = ".staging"


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """An empty folder inside `folder`, of this process alone, gone at the end; what a killed one left goes first."""
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{STAGING}-*"):
        if not _alive(left.name.partition("-")[2]):
            shutil.rmtree(left, ignore_errors=True)
    own = folder / f"{STAGING}-{os.getpid()}"
    shutil.rmtree(own, ignore_errors=True)
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def _alive(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True  # Somebody else's.
    return True


@contextmanager
def key_file(public: bytes | None) -> Iterator[Path | None]:
    """The public key as a file, for what reads it from one."""
    if public is None:
        yield None
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "key.pub"
        path.write_bytes(public)
        yield path


def put_in_place(staged: Repository, folder: Path, key: Path | None, public: bytes | None) -> tuple[Repository, bool]:
    """Signs a repository, if there is a key, and moves it into `folder`; where it lies, and whether it is new.

    One that is there already with the same files stays, if its signature is that of the key.
    """
    there = replace(staged, folder=staged.place(folder))
    if there.folder.is_dir() and _same(staged, there) and _signed_alike(there, key, public):
        return there, False
    if key is not None and staged.kind == "model":
        sign_folder(staged.folder, key)
    older = there.folder.with_name(f".{there.folder.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    there.folder.parent.mkdir(parents=True, exist_ok=True)
    if there.folder.is_dir():
        there.folder.rename(older)
    staged.folder.rename(there.folder)
    shutil.rmtree(older, ignore_errors=True)
    return there, True


def _same(one: Repository, other: Repository) -> bool:
    left, right = ({name: sha for name, sha in side.files.items() if name != SIGNATURE} for side in (one, other))
    return left == right


def _signed_alike(there: Repository, key: Path | None, public: bytes | None) -> bool:
    signed = (there.folder / SIGNATURE).is_file()
    if there.kind == "dataset" or key is None:
        return not signed
    with key_file(public) as file:
        return signed and file is not None and verify_signature(there.folder, file) is None


def failed_checks(folder: Path, public: bytes | None) -> list[str]:
    """What `fusion verify` finds wrong with a model's folder; with a key, a signature of it is needed."""
    with key_file(public) as key:
        found = check_folder(folder, key, public is not None)
    return [f"{check.name}: {check.what}" for check in found if check.state == "FAILED"]


def verify_copy(folder: Path, expected: Repository, public: bytes | None, where: str) -> None:
    """Raises `PublishError` unless `folder` holds exactly the expected files and, for a model, all checks pass.

    Args:
        where: how the copy is called in messages.
    """
    wanted = expected.files
    found = {name: sha for name, sha in replace(expected, folder=folder).files.items() if _counts(name, wanted)}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        raise PublishError(
            f"{where} is not what was published: {', '.join(wrong[:5])} differ. It has no release tag; find out who "
            "changed it, and run the same command again"
        )
    check_copy(folder, expected, public, where)


def check_copy(folder: Path, expected: Repository, public: bytes | None, where: str) -> None:
    """Raises `PublishError` when a check of `fusion verify` fails; the cards of data sets have none."""
    failed = failed_checks(folder, public) if expected.kind == "model" else []
    if failed:
        raise PublishError(f"{where} does not verify: {'; '.join(failed)}")


def _counts(name: str, wanted: dict[str, str]) -> bool:
    """The Hub and its client add files of their own."""
    return name in wanted or not (name == ".gitattributes" or name.startswith(".cache/"))
