"""What an annotation file may hold that is not read: another kind of file, and values that are passed over.

A value that no sample can be made of must not cost the whole file, nor memory: it is passed over without being read and
becomes a reject.
"""

import os
import re
from pathlib import Path

from fusion.data.errors import IngestError

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstandard",
}
# The marks of UTF-32 first: one of them starts with one of UTF-16.
_ENCODED = {b"\xff\xfe\0\0": "UTF-32", b"\0\0\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_OUTSIDE = re.compile(r'["\[\]{}]')
_INSIDE = re.compile(r'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""From inside a string to its end, or to a backslash that nothing follows yet."""
_AFTER = re.compile(r"[,\]\s]")


def check_file(path: Path) -> None:
    """Raises `IngestError` when the annotation file is not there, or something else is (a pipe would wait for ever)."""
    if not path.is_file():
        there = "is no ordinary file, but a folder, a pipe, a device or a link to nothing"
        raise IngestError(f"the annotation file {path} {there if os.path.lexists(path) else 'is missing'}")


def check_start(path: Path, start: bytes) -> None:
    """Raises `IngestError` when the first bytes of a file say that it is packed, or in another encoding than UTF-8."""
    for mark, kind in _PACKED.items():
        if start.startswith(mark):
            raise IngestError(f"{path} is a {kind} file: unpack it, annotations are read as plain JSON")
    for mark, kind in _ENCODED.items():
        if start.startswith(mark):
            raise IngestError(f"{path} is {kind}, not UTF-8: save it as UTF-8, for example with iconv -t utf-8")


class ValueEnd:
    """Looks for the end of one JSON value, a piece of text after the other, without reading the value."""

    def __init__(self) -> None:
        self._depth = 0
        self._inside = False
        self._escaped = False

    def find(self, text: str, at: int) -> int | None:
        """Where in `text`, looked at from `at` on, the value ends; None when it goes on behind it."""
        while at < len(text):
            if self._escaped:
                self._escaped, at = False, at + 1
            if self._inside:
                match = _INSIDE.match(text, at)
                at = match.end() if match else at
                if at == len(text):
                    return None
                self._inside, self._escaped = text[at] != '"', text[at] == "\\"
                at += 1
            else:
                # Outside of brackets and quotes it is a number, or nothing that JSON knows.
                plain = not self._depth and text[at] not in '"[{'
                found = (_AFTER if plain else _OUTSIDE).search(text, at)
                if found is None or plain:
                    return found and found.start()
                at, sign = found.end(), found.group()
                self._inside = sign == '"'
                self._depth += (sign in "[{") - (sign in "]}")
            if not self._inside and not self._depth:
                return at
        return None
