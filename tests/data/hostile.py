"""Broken and hostile inputs: what a case is, and all cases by name.

A case makes one source in a project folder, from seeds and at test time. Row 0 of a case that ends in the ledger is a
sound sample: whatever stands beside it, it has to be kept.
"""

import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.data.workshop import Workshop, picture, talk

MAX_PIXELS = 1_000_000
"""Of a picture, for these cases: a bomb is then small enough to be made in no time. A file may have four times that."""


@dataclass
class Place:
    """Where a case is made: `folder` holds the data set in the published layout, `outside` is nobody's business."""

    workshop: Workshop
    name: str
    outside: Path

    @property
    def folder(self) -> Path:
        return self.workshop.published

    @property
    def images(self) -> Path:
        """The image folder of the source, made when it is asked for."""
        folder = self.folder / f"{self.name}-images"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def seed(self) -> int:
        return zlib.crc32(self.name.encode())

    def sample(self, number: int, image: Any = None, answer: str | None = None) -> dict[str, Any]:
        """A sound record with the picture `<number>.png`, or `image`."""
        told = answer or f"object {self.seed % 100_000 + number} of {self.name.replace('-', ' ')}"
        return {
            "id": f"{self.name}-{number}",
            "image": f"{number}.png" if image is None else image,
            "conversations": talk("what is this?", told, image=True),
        }

    def text(self, *texts: str) -> dict[str, Any]:
        """A record without a picture."""
        return {"conversations": talk(*texts)}

    def picture(self, number: int = 0, size: tuple[int, int] = (48, 40), form: str = "PNG") -> bytes:
        """A sound picture that no other case has."""
        return picture(self.seed + number, size, form)

    def records(self, *records: Any, pictures: dict[str, bytes] | None = None, **more: Any) -> None:
        """The source: a sound sample, then `records`; `pictures` besides that of the sound sample."""
        given = {"0.png": self.picture(), **(pictures or {})}
        self.workshop.add(self.name, [self.sample(0), *records], given, **more)

    def annotations(self, data: bytes) -> None:
        """The source: an annotation file of these bytes, and no pictures."""
        self.workshop.add(self.name, data)

    def archive(self, data: bytes, ending: str, *records: Any) -> None:
        """The source: a sound sample in a folder, `records`, and an archive beside the folder."""
        self.records(*records)
        archive = self.folder / f"{self.name}.{ending}"
        archive.write_bytes(data)
        self.workshop.sources[self.name]["origin"]["images"].append(archive.name)


Expected = dict[int, str] | str
"""Block and reason of each row that the ledger gets; or a pattern for the error that refuses the whole source."""


@dataclass(frozen=True)
class Case:
    """One input. `between`: what happens to the project after ingest (`shard`) or after sharding (`curate`)."""

    name: str
    build: Callable[[Place], None]
    expected: Expected
    between: dict[str, Callable[[Place], None]] = field(default_factory=dict)

    @property
    def refused(self) -> bool:
        """Whether the source as a whole cannot be used."""
        return isinstance(self.expected, str)


CASES: dict[str, Case] = {}


def case(expected: Expected, **between: Callable[[Place], None]) -> Callable[[Callable[[Place], None]], None]:
    """Makes a case of a function, named like it."""

    def add(build: Callable[[Place], None]) -> None:
        name = build.__name__.strip("_").replace("_", "-")
        if name in CASES:
            raise ValueError(f"two cases are named {name}")
        CASES[name] = Case(name, build, expected, between)

    return add


def row(name: str, expected: str | None, make: Callable[[Place], Any]) -> None:
    """A case that is one record after the sound one, without pictures of its own; `expected` None = it is kept."""

    def build(place: Place) -> None:
        place.records(make(place))

    CASES[name] = Case(name, build, {} if expected is None else {1: expected})


def file(name: str, expected: Expected, make: Callable[[Place], bytes]) -> None:
    """A case that is an annotation file."""

    def build(place: Place) -> None:
        place.annotations(make(place))

    CASES[name] = Case(name, build, expected)


def image(name: str, expected: str | None, make: Callable[[Place], bytes], path: str = "1.png") -> None:
    """A case that is one picture file; `expected` None = it is kept."""

    def build(place: Place) -> None:
        place.records(place.sample(1, path), pictures={path: make(place)})

    CASES[name] = Case(name, build, {} if expected is None else {1: expected})


def link(path: Path, target: Path | str) -> None:
    """A symbolic link at `path`, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.symlink(target, path)
