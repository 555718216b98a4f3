"""Kinds of origin: where the samples of a source come from. One short file in fusion/data/origins/ a kind.

A kind is a class whose fields are the keys of a catalog entry's `origin`; it is known as soon as its file is there.
"""

import importlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fusion.data.kinds import find_classes
from fusion.data.store.sample import Message

ORIGINS = "fusion.data.origins"
"""The package that holds the kinds."""


@dataclass(frozen=True, slots=True)
class Record:
    """One sample as an embedded origin makes it; `picture` is None where an earlier record had the same `image`."""

    id: str
    image: str | None
    picture: bytes | None
    conversations: list[Message]


@dataclass(frozen=True, slots=True)
class Question:
    """One held-out question; questions on one picture share `image`. `kind` is open, yes_no or choice."""

    id: str
    image: str
    picture: bytes | None
    question: str
    answer: str
    kind: str
    category: str


@dataclass(frozen=True, slots=True)
class Layout:
    """A source in the published layout, on this machine.

    `base` says where `folder` is, in words that are the same on every machine (see images.lock.json);
    `annotations` and `images` are relative to `folder`; each of `images` is a folder or an archive. `inputs` are the
    files in `folder` that the annotations are, or were made from; none where ingest has written them itself. `sha256`
    holds what the publisher says of his files, by their paths, if he says anything.
    """

    folder: Path
    base: dict[str, str]
    annotations: str
    images: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    sha256: Mapping[str, str | None] = field(default_factory=dict)


class Origin(BaseModel, ABC):
    """Base of the kinds. Subclasses set `kind` and add the keys that their catalog entries have."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    kind: ClassVar[str]
    input: ClassVar[str] = "fusion/data/origins/__init__.py"
    """The file or folder of the project that the samples are made from; DVC runs the source again when it changes.

    The default stands for none: DVC's loops have no empty dependency, and this file says nothing.
    """

    @classmethod
    def code(cls) -> str:
        """The file or folder that defines the kind, from the project's folder."""
        name = cls.__module__.removeprefix(f"{ORIGINS}.").split(".")[0]
        folder = f"{ORIGINS.replace('.', '/')}/{name}"
        return folder if hasattr(importlib.import_module(f"{ORIGINS}.{name}"), "__path__") else f"{folder}.py"


class EmbeddedOrigin(Origin):
    """An origin that comes with the project or its packages: it is first written out in the published layout."""

    @abstractmethod
    def records(self, root: Path) -> Iterator[Record]:
        """The samples, in an order and with bytes that follow from the origin's keys; `root` = project's folder."""


class PublishedOrigin(Origin):
    """An origin that lies somewhere in the published layout already."""

    @abstractmethod
    def layout(self, folder: str | None) -> Layout:
        """Finds the source in `folder` (from params.yaml, data.roots) or else where the entry says it is published."""

    def signs(self) -> dict[str, re.Pattern[str]]:
        """What in a text hints that the source was read in another way than it was written, by what to say of it."""
        return {}


class BenchmarkOrigin(Origin):
    """An origin that can make held-out questions."""

    @abstractmethod
    def questions(self, root: Path) -> Iterator[Question]:
        """The questions, picture by picture, in a fixed order."""


@cache
def kinds() -> dict[str, type[Origin]]:
    """All kinds by name."""
    return find_classes(ORIGINS, Origin, "kind")


def parse_origin(value: Any) -> Origin:
    """The origin that a catalog entry describes; raises ValueError naming the known kinds, or pydantic's error."""
    if isinstance(value, Origin):
        return value
    if not isinstance(value, dict) or value.get("kind") not in kinds():
        raise ValueError(f"`kind` must be one of {', '.join(sorted(kinds()))}")
    try:
        return kinds()[value["kind"]].model_validate({key: item for key, item in value.items() if key != "kind"})
    except ValidationError as error:
        reasons = (f"{'.'.join(map(str, item['loc'])) or value['kind']}: {item['msg']}" for item in error.errors())
        raise ValueError("; ".join(reasons)) from None
