"""Output folders whose entry has left the catalog, in folders that stages depend on as a whole.

Such a folder would count as an input: another hash than in a fresh clone, and rows of a source that nobody names.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from fusion.data.errors import DataError

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog

_PER_SOURCE = ("data/raw", "data/index", "data/shards")
_BENCHMARKS = "data/benchmarks"


def check_leftovers(catalog: Catalog, datasets: Iterable[str], root: Path = Path(".")) -> None:
    """Refuses folders of sources and benchmarks that the catalog does not name (any more).

    They are not removed here: what is not in DVC's cache could not be brought back.

    Args:
        catalog: what there may be.
        datasets: the data sets whose folders are looked at; the benchmarks always are.
        root: the project's folder.

    Raises:
        DataError: there are some; the message names them all and says how to remove them.
    """
    found = sorted(_leftovers(catalog, datasets, root))
    if found:
        listed = " ".join(shlex.quote(str(path)) for path in found)
        raise DataError(
            f"{len(found)} folder(s) belong to sources or benchmarks that data/catalog/ does not name, and the stages "
            "after them would read them in. Put the entries back, or remove the folders (what DVC made stays in its "
            f"cache and comes back with the entry):\n  rm -r {listed}"
        )


def _leftovers(catalog: Catalog, datasets: Iterable[str], root: Path) -> Iterator[Path]:
    yield from _unknown(root / _BENCHMARKS, set(catalog.benchmarks))
    for dataset in datasets:
        for parent in _PER_SOURCE:
            yield from _unknown(root / parent / dataset, set(catalog.dataset(dataset).sources))


def _unknown(folder: Path, names: set[str]) -> Iterator[Path]:
    if folder.is_dir():
        # Hidden ones are being written, or are what a killed stage has left; DVC does not look at them.
        yield from (
            path for path in folder.iterdir() if path.is_dir() and path.name[0] != "." and path.name not in names
        )
