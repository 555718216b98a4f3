"""Whether there is a place where a source's pictures can lie, and what there is instead: told before rows are read."""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from fusion.data.errors import IngestError
from fusion.data.ingest.origin import Layout
from fusion.data.store.containers import find_containers, is_archive

_LISTED = 2000
_SHOWN = 8


def check_places(layout: Layout, looked_for: Iterable[str], key: str) -> str | None:
    """What is wrong as soon as a row names a picture, if no place is there that could hold one; else None.

    Args:
        layout: of the source.
        looked_for: the image folders and archives by the catalog's entry, those that are not there too.
        key: the file of the catalog, and its key for them.

    Raises:
        IngestError: a place that the entry itself names is missing.
        DataError: a place is nothing that pictures are read from (see `find_containers`).
    """
    for name in layout.images:
        if not os.path.lexists(layout.folder / name):
            raise IngestError(missing_place(str(layout.folder / name), told_there(_names(layout)), key))
    if any(_may_hold(path) for path in find_containers(layout.folder, layout.images)):
        return None
    base = layout.base
    where = f"{base['repo']}@{base['revision']}" if base["kind"] == "hub" else str(layout.folder)
    return (
        f"{where} has no file in {_listed(sorted(looked_for))}, where pictures of this source were looked for. "
        f"{told_there(_names(layout))} Write the folders and archives that hold them as {key}"
    )


def missing_place(place: str, there: str, key: str) -> str:
    """The message about an image folder or archive that an entry names and that is not there."""
    return (
        f"{place} is missing: the pictures of this source were expected there, as a folder or an archive. {there} "
        f"Write the folders and archives that hold them as {key}"
    )


def told_there(names: Iterable[str]) -> str:
    """What a folder or repository holds, given the paths of its files: names at the top, and archives below."""
    tops, archives = set(), []
    for name in names:
        top, below, rest = name.partition("/")
        tops.add(top + below)
        if rest and is_archive(name):
            archives.append(name)
    below = f", with the archives {_listed(sorted(archives))}" if archives else ""
    return f"What is there: {_listed(sorted(tops)) or 'nothing'}{below}."


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _may_hold(path: Path) -> bool:
    return not path.is_dir() or next(path.iterdir(), None) is not None


def _names(layout: Layout) -> Iterator[str]:
    """Of the Hub all files of the commit; of a folder some of those in it and in its folders: it may have millions."""
    if layout.base["kind"] == "hub":
        yield from layout.sha256
        return
    for top in islice(sorted(layout.folder.iterdir()), _LISTED):
        if top.is_dir():
            yield f"{top.name}/"
            yield from (f"{top.name}/{inside.name}" for inside in islice(top.iterdir(), _LISTED))
        else:
            yield top.name
