"""What shard workers do to each sample: read its picture, decode and measure it, count its tokens, make its record."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from fusion.data.ingest.record import Reject
from fusion.data.store.images import ImageError, ImageStore
from fusion.data.store.pixels import Measured, measure
from fusion.data.store.sample import Message, SourceInfo
from fusion.hashing import canonical_json

RawRow = tuple[int, str | None, list[Message]]
"""Row in the annotation file, picture, conversation."""
_LONGEST_FAULT = 1000
"""Characters. What is wrong with a conversation may repeat parts of it, and there may be a million of them."""
_BYTES_PER_PIXEL = 4
"""No picture file may be larger than its pixels would be undecoded."""


@dataclass(frozen=True)
class Task:
    """What all samples of a source have in common.

    `tokenizers`: (name in the index, tokenizer, revision, template). `members`: the file that says where the members of
    the archives lie.
    """

    dataset: str
    source: str
    file: str
    containers: tuple[Path, ...]
    max_image_pixels: int
    tokenizers: tuple[tuple[str, str, str | None, str], ...]
    members: Path | None = None


@dataclass(frozen=True, slots=True)
class Prepared:
    """A readable sample: its record and picture as they go into the shard, and its columns of the index."""

    row: int
    record: bytes
    picture: bytes | None
    extension: str | None
    columns: dict[str, Any]


class Preparer:
    """Prepares the samples of one source; one in each worker process."""

    def __init__(self, task: Task) -> None:
        # Samples are spread over processes already; threads inside each would only be in each other's way.
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        from fusion.data.sharding.tokens import TokenCounter

        Image.MAX_IMAGE_PIXELS = None  # the limit of params.yaml holds instead
        self._task = task
        self._store = ImageStore(list(task.containers), task.max_image_pixels * _BYTES_PER_PIXEL, task.members)
        self._counters = {
            key: TokenCounter(name, revision, template) for key, name, revision, template in task.tokenizers
        }
        self._last: tuple[str, bytes | None, Measured | Reject] | None = None

    def prepare(self, row: int, image: str | None, conversations: list[Message]) -> Prepared | tuple[int, Reject]:
        """A row as a prepared sample, or the reason against it."""
        picture: bytes | None = None
        measured: Measured | None = None
        if image is not None:
            picture, found = self._picture(image)
            if isinstance(found, Reject):
                return row, found
            measured = found
        info = SourceInfo(self._task.dataset, self._task.source, self._task.file, row)
        document = {"conversations": conversations, "dataset": info.dataset, "file": info.file, "id": info.sample_id}
        record = canonical_json({**document, "image": image, "row": row, "source": info.source}).encode()
        columns = {
            "sample_id": info.sample_id,
            "row": row,
            "image_path": image,
            "sha256": hashlib.sha256(record).hexdigest(),
            "text_sha256": hashlib.sha256(canonical_json(conversations).encode()).hexdigest(),
            "turns": sum(message["from"] == "gpt" for message in conversations),
            "answer_chars": sum(len(message["value"].strip()) for message in conversations if message["from"] == "gpt"),
            **_image_columns(measured),
            **self._tokens(conversations, image is not None),
        }
        return Prepared(row, record, picture, measured.extension if measured else None, columns)

    def _picture(self, image: str) -> tuple[bytes | None, Measured | Reject]:
        # Samples of one picture mostly follow one another.
        if self._last is None or self._last[0] != image:
            try:
                picture = self._store.read(image)
            except ImageError as error:
                self._last = (image, None, Reject(error.reason, str(error)))
            else:
                self._last = (image, picture, measure(picture, self._task.max_image_pixels))
        return self._last[1], self._last[2]

    def _tokens(self, conversations: list[Message], has_image: bool) -> dict[str, Any]:
        from fusion.model.template import SampleError

        columns: dict[str, Any] = {"structure": None}
        for key, counter in self._counters.items():
            try:
                count = counter.count(conversations, has_image)
                columns |= {f"text_tokens_{key}": count.text, f"instruct_tokens_{key}": count.instruct}
            except SampleError as error:
                # Readable, but not to be trained on: curation's schema block rejects it with this reason.
                columns["structure"] = f"{error.reason.replace('_', '-')}: {error.message}"[:_LONGEST_FAULT]
                columns |= {f"text_tokens_{key}": 0, f"instruct_tokens_{key}": 0}
        return columns


def _image_columns(measured: Measured | None) -> dict[str, Any]:
    return {
        "image_sha256": measured.sha256 if measured else None,
        "pdq": measured.pdq if measured else None,
        "pdq_quality": measured.pdq_quality if measured else None,
        "width": measured.width if measured else None,
        "height": measured.height if measured else None,
        "contrast": measured.contrast if measured else None,
        "colours": measured.colours if measured else None,
    }
