"""Whether the adopted checkpoint that training is to continue is the one that was adopted.

git brings its .dvc file and DVC its folder, so after `git pull` the folder may be that of an earlier one. `dvc repro`
takes such a folder for a new version: it writes the folder's hash into the .dvc file before any stage starts.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import yaml

from fusion.adopt.errors import AdoptError
from fusion.checkouts import CheckoutError, git
from fusion.lineage.files import Hasher, files_below
from fusion.lineage.lock import listing_md5
from fusion.lineage.outside import ADOPT
from fusion.lineage.records import read_records


def check_adopted(variant: str, stage: str, root: Path = Path(".")) -> None:
    """Raises `AdoptError` when checkpoints/VARIANT/STAGE was adopted and is not what its .dvc file and record say."""
    place = f"checkpoints/{variant}/{stage}"
    file = f"{place}.dvc"
    if not (root / file).is_file():
        return
    if not (root / place).is_dir():
        raise AdoptError(f"{place} is not there: get it with `dvc checkout {file}`, or with `dvc pull {file}`")
    if _md5(root / place) != _written(root / file):
        raise AdoptError(
            f"{place} is not what {file} says: get it with `dvc checkout --force {file}`, if it is not in the cache "
            f"with `dvc pull {file}`; if another checkpoint is meant, remove the folder and use `fusion adopt`"
        )
    if _edited(file, root) and not _adopted_last(f"{ADOPT}@{variant}-{stage}", place, root):
        raise AdoptError(
            f"{place} is not what was adopted last, and {file} is not what is committed: DVC took an older folder for "
            f"a new version. `git checkout -- {file}`, then `dvc checkout --force {file}`; if this one is meant, "
            f"commit {file}"
        )


def _written(file: Path) -> str:
    """DVC's MD5 of the folder in its .dvc file."""
    try:
        return str(yaml.safe_load(file.read_text(encoding="utf-8"))["outs"][0]["md5"])
    except (yaml.YAMLError, KeyError, IndexError, TypeError) as error:
        raise AdoptError(f"{file} is not what DVC writes ({error!r}): get it back with git") from error


def _md5(folder: Path) -> str:
    """DVC's MD5 of the folder as it is now; not asked of DVC, whose lock a running `dvc repro` holds."""
    files = {}
    for name in files_below(folder):
        with (folder / name).open("rb") as file:
            files[name] = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return listing_md5(files)


def _edited(file: str, root: Path) -> bool:
    """Whether git has another version of the file; not where it has none, or there is no git."""
    try:
        return git(root, "status", "--porcelain", "--", file)[:2].strip() not in ("", "??", "A")
    except CheckoutError:
        return False


def _adopted_last(stage: str, place: str, root: Path) -> bool:
    records = read_records(stage, root)
    newest = max(records, key=lambda record: str(record.document["run"].get("started")), default=None)
    return newest is None or newest.outputs.get(place) == Hasher(root).sha256(place)
