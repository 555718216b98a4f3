"""Annotation files read as a stream: a JSON array or JSON lines, of any size, in bounded memory.

Built on the standard library's scanner and not on an event parser: it says exactly where a file is broken, and it hands
on a lone surrogate escape as it is instead of replacing it, so that such a sample can be rejected with its reason.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fusion.data.errors import IngestError
from fusion.data.ingest.faults import ValueEnd, check_file, check_start
from fusion.data.ingest.record import Reject

_CHUNK = 1 << 20
_LONGEST_RECORD = 16 << 20
"""Characters. A longer record is passed over and becomes a reject, so that memory stays bounded."""


def read_records(path: Path) -> Iterator[Any]:
    """Every record of a JSON array or JSON-lines file, in order; a `Reject` for one that is valid, but unreadable.

    Raises:
        IngestError: the file is missing, not UTF-8 or not valid JSON; the message names file, line and byte.
    """
    check_file(path)
    with path.open("rb") as file:
        check_start(path, file.peek(8)[:8])
        yield from _Stream(path, file).records()


class _Stream:
    """A window of text over a file: `text[at:]` is not consumed yet."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path = path
        self._file = file
        self._text = ""
        self._at = 0
        self._rest = b""
        self._ended = False
        self._bytes_dropped = 0
        self._lines_dropped = 0

    def records(self) -> Iterator[Any]:
        self._skip_space()
        if self._text.startswith("\ufeff"):
            self._at += 1
            self._skip_space()
        if self._peek() != "[":
            yield from self._lines()
            return
        self._at += 1
        self._skip_space()
        if self._peek() == "]":
            self._at += 1
        else:
            while True:
                yield self._value()
                self._skip_space()
                separator = self._peek()
                self._at += 1
                if separator == "]":
                    break
                if separator != ",":
                    self._at -= 1
                    raise self._broken("expected `,` or `]`" if separator else "the array is not closed", self._at)
                self._skip_space()
        self._skip_space()
        if self._peek():
            raise self._broken("text after the end of the array", self._at)

    def _lines(self) -> Iterator[Any]:
        while self._peek():
            yield self._value()
            if not self._skip_space() and self._peek():
                raise self._broken("expected one JSON value a line", self._at)

    def _value(self) -> Any:
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                # Perhaps only the window ends inside the value. A fault well before the window's end is a real one.
                unterminated = error.msg.startswith("Unterminated string")
                far = len(self._text) - error.pos > 64 and not unterminated
                if self._ended or far:
                    raise self._broken(error.msg, error.pos) from None
                if len(self._text) - self._at > _LONGEST_RECORD:
                    return self._pass_over("record-too-long", _TOO_LONG, self._broken(error.msg, error.pos))
            except RecursionError:
                told = "values are nested too deeply"
                return self._pass_over("nested-too-deeply", told, self._broken(told, self._at))
            except ValueError:
                # Python turns no longer text into a number; no annotation needs one.
                told = "a number has more than 4300 digits"
                return self._pass_over("number-too-long", told, self._broken(told, self._at))
            else:
                # A number at the window's end may go on; objects, arrays and strings are closed.
                if end < len(self._text) or self._ended:
                    length, self._at = end - self._at, end
                    return value if length <= _LONGEST_RECORD else Reject("record-too-long", _TOO_LONG)
            self._read(max(_CHUNK, len(self._text) - self._at))

    def _pass_over(self, reason: str, told: str, broken: IngestError) -> Reject:
        """Goes to the end of a value that cannot be used; raises `broken` when it has none."""
        end = ValueEnd()
        while (at := end.find(self._text, self._at)) is None:
            self._at = len(self._text)
            if self._ended:
                raise broken
            self._read(_CHUNK)
        self._at = at
        return Reject(reason, told)

    def _peek(self) -> str:
        if self._at == len(self._text):
            self._read(_CHUNK)
        return self._text[self._at : self._at + 1]

    def _skip_space(self) -> bool:
        """Goes past white space; returns whether a line ended in it."""
        line_ended = False
        while (character := self._peek()) and character in " \t\r\n":
            line_ended |= character == "\n"
            self._at += 1
        return line_ended

    def _read(self, size: int) -> None:
        if self._ended:
            return
        dropped, self._text = self._text[: self._at], self._text[self._at :]
        self._bytes_dropped += len(dropped.encode("utf-8", "surrogatepass"))
        self._lines_dropped += dropped.count("\n")
        self._at = 0
        data = self._rest + self._file.read(size)
        self._ended = len(data) - len(self._rest) < size
        try:
            self._text += data.decode("utf-8")
            self._rest = b""
        except UnicodeDecodeError as error:
            # Up to three bytes of a character may be in the next chunk.
            if self._ended or len(data) - error.start > 3:
                where = self._bytes_dropped + len(self._text.encode()) + error.start
                raise IngestError(
                    f"{self._path} is not UTF-8 at byte {where} (0-based): {error.reason}; save it as UTF-8"
                ) from None
            self._text += data[: error.start].decode("utf-8")
            self._rest = data[error.start :]

    def _broken(self, why: str, at: int) -> IngestError:
        before = self._text[:at]
        line = self._lines_dropped + before.count("\n") + 1
        byte = self._bytes_dropped + len(before.encode("utf-8", "surrogatepass"))
        return IngestError(
            f"{self._path} is not valid JSON: {why}, line {line}, byte {byte} (0-based); nothing was ingested from it"
        )


_TOO_LONG = f"more than {_LONGEST_RECORD} characters"
_DECODER = json.JSONDecoder()
