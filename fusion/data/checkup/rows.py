"""All records of an annotation file, counted by what ingest and sharding will say of them, in bounded memory."""

from __future__ import annotations

import hashlib
import random
import re
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fusion.data.checkup.files import unwrap
from fusion.data.checkup.told import NOTE, OK, Finding, rejects_finding
from fusion.data.ingest.json_stream import read_records
from fusion.data.ingest.record import Reject, Row, read_row
from fusion.model.template import IMAGE_TAG, LATENT_TAG, SampleError, read_turns

PICTURES = 200
"""How many pictures are looked at: that many from the start, and as many of the others by chance."""
_MOST_IDS = 20_000_000
"""Eight bytes each; further ones are not compared."""
_TEXTS = ("caption", "captions", "text", "description", "label", "answer", "txt", "title")
_IMAGES = ("image_path", "file_name", "filename", "img", "image_file", "img_path", "picture", "path", "images", "file")
_TALKS = ("messages", "conversation", "dialog", "turns")
_MOJIBAKE = re.compile("Ã[\u0080-\u00bf]|â€|\ufffd")
"""What UTF-8 looks like after being read as Latin-1, and the mark of bytes that could not be decoded."""


class Tally:
    """Counts of reasons with the first sample of each, ids as hashes, and the pictures to look at."""

    def __init__(self, control_tokens: list[str], seed: int, signs: Mapping[str, re.Pattern[str]]) -> None:
        """`control_tokens` must not stand in a text; `seed` draws the pictures; `signs` are those of the origin."""
        self._signs = signs
        self._control = re.compile("|".join(map(re.escape, [*control_tokens, IMAGE_TAG, LATENT_TAG])))
        self._random = random.Random(seed)
        self._reasons: dict[str, tuple[int, int, str, str]] = {}
        self._odd: dict[str, tuple[int, int]] = {}
        self.rows = 0
        self.sound = 0
        self.with_image = 0
        self.ids = array("Q")
        self.first: dict[str, int] = {}
        """Pictures from the start, each with the first row that names it."""
        self.drawn: list[tuple[str, int]] = []

    def add(self, number: int, record: Any) -> None:
        """Looks at one record, row `number`."""
        self.rows += 1
        row = read_row(record)
        if isinstance(row, Reject):
            self._reject(row.reason, number, row.evidence, _hint(row.reason, record))
            return
        self._notice(number, record, row)
        if row.image is not None:
            self.with_image += 1
            self._draw(row.image, number)
        if row.key is not None and len(self.ids) < _MOST_IDS:
            self.ids.append(hash_of(row.key))
        try:
            turns = read_turns(row.conversations, row.image is not None)
        except SampleError as error:
            self._reject(error.reason, number, error.message, _hint(error.reason, record))
            return
        for text in (text for turn in turns for text in (turn.question, turn.answer or "")):
            if found := self._control.search(text):
                self._reject("control_token_in_text", number, f"the text contains {found.group()!r}", "")
                return
        self.sound += 1

    def _reject(self, reason: str, number: int, evidence: str, hint: str) -> None:
        count, first, told, more = self._reasons.get(reason, (0, number, evidence, hint))
        self._reasons[reason] = (count + 1, first, told, more or hint)

    def _note(self, what: str, number: int) -> None:
        count, first = self._odd.get(what, (0, number))
        self._odd[what] = (count + 1, first)

    def _notice(self, number: int, record: dict[str, Any], row: Row) -> None:
        raw = record.get("image")
        if isinstance(raw, str) and "\\" in raw:
            self._note("paths with \\, read as /", number)
        if row.image is not None and row.image != row.image.strip():
            self._note("picture names that start or end with a space", number)
        if any(_MOJIBAKE.search(message["value"]) for message in row.conversations):
            self._note("texts that seem to have been decoded wrongly (Ã©, â€, \ufffd): export them as UTF-8", number)

        for what, sign in self._signs.items():
            if any(sign.search(message["value"].removeprefix(f"{IMAGE_TAG}\n")) for message in row.conversations):
                self._note(what, number)

    def _draw(self, image: str, number: int) -> None:
        if image in self.first:
            return
        if len(self.first) < PICTURES:
            self.first[image] = number
            return
        # A reservoir: every later sample has the same chance, and memory does not grow.
        if len(self.drawn) < PICTURES:
            self.drawn.append((image, number))
        elif (at := self._random.randrange(self.with_image - PICTURES)) < PICTURES:
            self.drawn[at] = (image, number)

    def findings(self) -> Iterator[Finding]:
        """What was counted."""
        if not self.rows:
            yield "FAIL", "the file holds no sample", "write one JSON object a sample"
            return
        text_only = self.rows - self.with_image - sum(self._reasons.get(code, (0,))[0] for code in _BEFORE_IMAGE)
        yield OK, f"{self.rows:,} samples: {self.with_image:,} with a picture, {text_only:,} text only", ""
        if self.sound:
            yield OK, f"{self.sound:,} of {self.rows:,} have sound roles, texts and image markers", ""
        for reason, (count, number, evidence, hint) in sorted(self._reasons.items(), key=lambda item: -item[1][0]):
            yield rejects_finding(reason, count, self.rows, f"row {number}", evidence, hint)
        for what, (count, number) in self._odd.items():
            yield NOTE, f"{count:,} of {self.rows:,}: {what}; first: row {number}", ""


_BEFORE_IMAGE = (
    "not-an-object",
    "no-conversations",
    "bad-message",
    "unreadable-row",
    "several-images",
    "bad-image-path",
    "path-outside",
    "lone-surrogate",
)
"""Reasons for which a record is no row, so that it is not known whether it has a picture."""


def hash_of(key: str) -> int:
    """64 bits of an id."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def repeated_id(path: Path, tally: Tally) -> Finding | None:
    """A note when ids occur more than once, with one of them; the pipeline itself names samples by their row."""
    values, counts = np.unique(np.frombuffer(tally.ids, dtype=np.uint64), return_counts=True)
    twice = values[counts > 1]
    if not len(twice):
        return None
    wanted, rows = int(twice[0]), []
    for number, record in enumerate(read_records(path)):
        row = read_row(record)
        if isinstance(row, Row) and row.key is not None and hash_of(row.key) == wanted:
            rows.append(number)
            if len(rows) == 2:
                shown = f"for example {row.key[:60]!r} in rows {rows[0]} and {rows[1]}"
                return (
                    NOTE,
                    f"{len(twice):,} ids occur more than once, {shown}",
                    "nothing is lost by it; if the samples are the same, curation keeps one of them",
                )
    return None


def _hint(reason: str, record: Any) -> str:
    """What the record itself suggests, beyond what the reason alone does."""
    if not isinstance(record, dict):
        return ""
    keys = [str(key) for key in list(record)[:50]]
    if reason == "no-conversations":
        return _other_form(record, keys)
    if reason in ("bad-message", "wrong_roles"):
        return _other_roles(record["conversations"])
    if reason == "image_marker_without_image":
        if "image" in record:
            return "its `image` is empty: name the picture there, or take the sample out"
        other = [key for key in keys if key.lower() in _IMAGES]
        return f"the record has no `image`, but `{other[0]}`: call it `image`" if other else ""
    return ""


def _other_form(record: dict[str, Any], keys: list[str]) -> str:
    if all(isinstance(value, dict) and value and all(map(str.isdecimal, value)) for value in record.values()):
        return 'it is written column by column: with pandas, write df.to_json(path, orient="records")'
    for key, value in list(record.items())[:50]:
        if isinstance(value, list) and value and isinstance(value[0], dict):
            if key in _TALKS or {"role", "content"} <= value[0].keys():
                return f"call `{key}` `conversations`, its roles human and gpt, and the keys `from` and `value`"
            return f"the samples stand inside an object, under `{key}`: {unwrap(str(key))}"
    text = next((key for key in _TEXTS if key in map(str.lower, keys)), None)
    image = next((key for key in ("image", *_IMAGES) if key in map(str.lower, keys)), None)
    if text is None:
        return ""
    named = {name.lower(): name for name in keys}
    question = next((named[key] for key in ("question", "prompt", "instruction", "query") if key in named), None)
    form = f"question: {question}, answer: {named[text]}" if question else f"text: {named[text]}"
    return (
        f"a table of texts: use origin {{kind: table, file: ..., image: {named[image] if image else 'null'}, {form}}}"
    )


def _other_roles(conversations: Any) -> str:
    messages = [message for message in conversations if isinstance(message, dict)][:20]
    if any({"role", "content"} <= message.keys() for message in messages):
        return "the keys are `from` and `value`, not `role` and `content`, and the roles human and gpt"
    roles = Counter(str(message.get("from")) for message in messages)
    others = sorted(set(roles) - {"human", "gpt"})
    if others:
        return f"the roles are human and gpt: rename or take out {', '.join(others)[:100]}"
    return ""
