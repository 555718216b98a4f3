"""Which image folders and archives a source has: those that its entry names, and the archives in the folders."""

import os
from collections.abc import Iterator
from pathlib import Path

from fusion.data.errors import DataError

ARCHIVES = (".tar", ".zip")
"""Archives from which a member can be read in place. Endings count in capital letters as well."""
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
"""Archives from which it cannot: every read would decompress all that comes before."""
_SHOWN = 3


def find_containers(folder: Path, images: tuple[str, ...]) -> list[Path]:
    """The image folders and archives that `images` names below `folder`, archives inside the folders included.

    Raises:
        DataError: one of them is missing, is an archive that cannot be read in place, no file at all, or, where it was
            found inside a folder and not named, a link that leaves `folder`.
    """
    found: list[Path] = []
    for name in images:
        path = folder / name
        if path.is_dir():
            inside = sorted(item for item in path.iterdir() if is_archive(item.name))
            found += [path, *inside]
            for item in inside:
                # An image folder may itself be a link, to another disk for example: its entry in the catalog names it.
                if not (leads_inside(item, path) or leads_inside(item, folder)):
                    raise DataError(f"{item} is a link that leaves {folder}: name what it points to as `images`")
        elif os.path.lexists(path):
            found.append(path)
        else:
            raise DataError(
                f"{path} is missing: the pictures of this source were expected there, as a folder or an archive"
            )
    for path in found:
        if not (path.is_file() or path.is_dir()):
            raise DataError(f"{path} is no ordinary file, but a pipe, a device or a link to nothing: take it away")
        if path.is_file() and path.name.lower().endswith(COMPRESSED):
            raise DataError(
                f"{path} is a compressed tar, which cannot be read in place: repack it as a plain .tar (gunzip)"
            )
        if path.is_file() and not path.name.lower().endswith(ARCHIVES):
            raise DataError(f"{path} is neither a folder nor a .tar or .zip archive")
    return found


def is_archive(name: str) -> bool:
    """Whether a file's name is that of an archive, one that can be read in place or not."""
    return name.lower().endswith((*ARCHIVES, *COMPRESSED))


def told_deeper(folders: list[Path], containers: list[Path], base: Path) -> str:
    """What to tell about archives that lie deeper in image folders, where none is read; an empty text without any.

    Args:
        folders: where to look; every name in them is looked at. What is no folder holds none.
        containers: what is read; an archive in a folder that is an image folder itself is among them.
        base: the folder that the entry's `images` are relative to.
    """
    read = set(containers)
    there = {path for folder in folders for path in _archives_below(folder)}
    deeper = sorted(path.relative_to(base).as_posix() for path in there - read)
    if not deeper:
        return ""
    more = f" and {len(deeper) - _SHOWN:,} more" if len(deeper) > _SHOWN else ""
    return (
        f"{', '.join(deeper[:_SHOWN])}{more}: archives in a folder of an image folder are not read. Put them into the "
        "image folder itself, or name them or their folder under `images` in data/catalog/, beside what is named there"
    )


def _archives_below(folder: Path) -> Iterator[Path]:
    for place, _, names in os.walk(folder):
        yield from (Path(place) / name for name in names if is_archive(name))


def leads_inside(path: Path, folder: Path) -> bool:
    """Whether `path`, its links followed, lies in `folder`.

    A snapshot of the Hub's cache is a folder of links to files in `blobs` beside it, which count as being inside.
    """
    real, whole = path.resolve(), folder.resolve()
    snapshot = next((parent for parent in (whole, *whole.parents) if parent.parent.name == "snapshots"), None)
    blobs = snapshot.parent.parent / "blobs" if snapshot else None
    return real.is_relative_to(whole) or (blobs is not None and real.is_relative_to(blobs))
