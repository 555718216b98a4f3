"""Rows of a CSV or TSV file: one that cannot be read is a reject, and the next one is read.

A quote that is not closed takes the lines behind it into its cell. Where that breaks a row, only the row's first line
is given up: the lines behind it are read again, as rows of their own.
"""

import csv
from collections import deque
from collections.abc import Iterator
from typing import TextIO

from fusion.data.errors import IngestError
from fusion.data.ingest.record import Reject

_LONGEST_CELL = 64 << 20
"""Characters. A longer one is taken for a quote that is not closed, so that memory stays bounded."""
_HELD = 16 << 20
"""Characters of one row that are kept in case they have to be read again."""
_AGAIN = 1 << 30
"""Characters of a file that are read again at most: a file of such quotes must not cost its size squared."""
_ADVICE = (
    "Put texts with separators, quotes or line ends in double quotes, and write a quote inside as two; or say "
    "`quote: ''` in the entry, if its cells have no quotes around them"
)


def read_cells(file: TextIO, separator: str, quote: str) -> Iterator[list[str] | Reject]:
    """The header, then every row that is not empty, with as many cells as the header; a `Reject` for any other.

    Args:
        file: opened with `newline=""`.
        separator: between two cells.
        quote: around cells that hold separators, line ends or quotes; empty = there is none.

    Raises:
        IngestError: the header cannot be read, or nobody can say where a row ends; the message names file and line.
    """
    csv.field_size_limit(_LONGEST_CELL)
    lines = _Lines(file)
    if quote:
        reader = csv.reader(lines, delimiter=separator, quotechar=quote, strict=True)
    else:
        reader = csv.reader(lines, delimiter=separator, quoting=csv.QUOTE_NONE, strict=True)
    width = 0
    while True:
        lines.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            told = str(error)
        else:
            if not cells:
                continue
            if len(cells) == width or not width:
                width = len(cells)
                yield cells
                continue
            told = f"{len(cells)} cell{'s' * (len(cells) != 1)} where the header has {width}"
        where = lines.first
        if not width or not lines.go_back():
            raise IngestError(f"{file.name} cannot be read: line {where}: {told}. {_ADVICE}")
        yield Reject("unreadable-row", f"line {where}: {told}")


class _Lines:
    """The lines of a file; those of the row that is being read are kept, so that all but the first can come again."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._waiting: deque[str] = deque()
        self._kept: list[str] = []
        self._size = 0
        self._again = 0
        self._number = 0
        self.first = 1
        """Number of the first line of the row, from 1 on."""

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._file)
        self._number += 1
        self._size += len(line)
        if self._size <= _HELD:
            self._kept.append(line)
        return line

    def begin(self) -> None:
        """A new row begins."""
        self._kept.clear()
        self._size = 0
        self.first = self._number + 1

    def go_back(self) -> bool:
        """Back to the second line of the row; False when too much would have to be read again."""
        lines = self._kept[1:]
        if not lines:
            return self._size <= _HELD
        self._again += self._size
        if self._size > _HELD or self._again > _AGAIN:
            return False
        self._waiting.extendleft(reversed(lines))
        self._number -= len(lines)
        return True
