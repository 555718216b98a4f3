"""One annotation record, checked as far as it can be without its picture: a row to keep, or a reason against it."""

import math
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from fusion.data.store.sample import Message

_PLAIN_PATH = re.compile(r"[\w-][\w.\- ]*(?:/[\w-][\w.\- ]*)*")
"""What nearly all paths look like: nothing in them has to be looked at more closely."""
_CONTROL = re.compile(r"[\x00-\x1f]")
_LONGEST_TALK = 1_000_000
"""Characters of a conversation. A tokenizer takes about a hundred times that in bytes, and no context is as long."""
_LONGEST_ID = 1000
"""Characters."""
UNREADABLE = "unreadable row of a table"
"""The one key of a record that stands for a row of a table that could not be read; its value says why."""


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a sample is not used: a reason code and what shows it."""

    reason: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Row:
    """A record as samples.parquet holds it; `image` is relative to the image folder."""

    key: str | None
    image: str | None
    conversations: list[Message]


def read_row(record: Any) -> Row | Reject:
    """Checks form, picture path, length and text encoding of a record of the published format.

    A `Reject`, which is what reading the file gives for a record that it had to pass over, comes back as it is.
    """
    if isinstance(record, Reject):
        return record
    if not isinstance(record, dict):
        return Reject("not-an-object", f"a {type(record).__name__} where an object was expected")
    conversations = record.get("conversations")
    if not isinstance(conversations, list):
        if record.keys() == {UNREADABLE}:
            return Reject("unreadable-row", str(record[UNREADABLE]))
        return Reject("no-conversations", f"keys: {', '.join(sorted(map(str, record)))[:200]}")
    messages: list[Message] = []
    length = 0
    for number, message in enumerate(conversations):
        role, value = (message.get("from"), message.get("value")) if isinstance(message, dict) else (None, None)
        if not isinstance(role, str) or not isinstance(value, str):
            return Reject("bad-message", f"message {number} needs `from` and `value`, both text")
        messages.append({"from": role, "value": value})
        length += len(role) + len(value)
    if length > _LONGEST_TALK:
        return Reject("conversation-too-long", f"{length} characters, limit {_LONGEST_TALK}")
    image = _image(record.get("image"))
    if isinstance(image, Reject):
        return image
    key = _key(record.get("id"))
    if isinstance(key, Reject):
        return key
    row = Row(key, image, messages)
    return _encodable(row) or row


def _key(value: Any) -> str | Reject | None:
    if value is None or (type(value) is str and len(value) <= _LONGEST_ID):
        return value
    if isinstance(value, bool) or not isinstance(value, (str, int, float)) or value in (math.inf, -math.inf):
        return Reject("bad-id", f"`id` is a {type(value).__name__}: {str(value)[:100]}")
    if value != value or len(str(value)) > _LONGEST_ID:
        return Reject("bad-id", f"`id` is {str(value)[:100]}, of {len(str(value))} characters, limit {_LONGEST_ID}")
    return str(value)


def _image(value: Any) -> str | Reject | None:
    if isinstance(value, list):
        if len(value) > 1:
            return Reject("several-images", f"{len(value)} pictures: {', '.join(map(str, value))[:200]}")
        value = value[0] if value else None
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        return Reject("bad-image-path", f"`image` is a {type(value).__name__}")
    if _PLAIN_PATH.fullmatch(value):
        return value
    if _CONTROL.search(value):
        return Reject("bad-image-path", f"a control character in {ascii(value)[:200]}")
    if "://" in value or value.startswith("data:"):
        return Reject("image-address", f"{ascii(value)[:200]} is an address, not a path in the image folder")
    path = value.replace("\\", "/")
    parts = PurePosixPath(path).parts
    if path.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
        return Reject("path-outside", f"{ascii(value)[:200]} leaves the image folder")
    return "/".join(parts) or Reject("bad-image-path", f"{ascii(value)[:200]} names no file")


def _encodable(row: Row) -> Reject | None:
    texts = [row.key or "", row.image or ""]
    for message in row.conversations:
        texts += (message["from"], message["value"])
    for text in texts:
        if text.isascii():
            continue
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return Reject("lone-surrogate", f"{text[max(0, error.start - 20) : error.end + 20]!a}")
    return None
