"""Chat messages in the format of the Transformers library, read into turns and a picture.

A message is `{"role": ..., "content": ...}`; its content is a text or a list of items `{"type": "text", "text": ...}`
and `{"type": "image", ...}`. An item holds its picture under "image", "url", "path" or "base64", or is a place for one
that is given beside the messages. OpenAI's `{"type": "image_url", "image_url": {"url": ...}}` is read as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fusion.model.template import IMAGE_TAG, Message, SampleError, Turn, read_turns

ChatMessage = Mapping[str, Any]

_ROLES = {"user": "human", "assistant": "gpt"}
_PICTURE_KEYS = ("image", "url", "path", "base64")


def read_messages(
    messages: Sequence[ChatMessage], pictures: Sequence[Any] = (), *, system: str = ""
) -> tuple[list[Turn], Any | None]:
    """Turns and the picture (as given, not opened) of one conversation.

    Args:
        messages: user and assistant in turn, a user first. The texts of a message are joined by newlines. A picture
            stands in the first message of the user, wherever in it, and is put first. A system message may only say
            what the template says anyway: the models are trained with one fixed system text.
        pictures: for places without a picture of their own, in order; each must have its place.
        system: the template's system text, tokens included.

    Returns:
        turns, whose last answer is None if the last message is the user's; and a picture or None.

    Raises:
        SampleError: "wrong_roles" (also for what is no message), "control_token_in_text" (a literal `<image>`),
            "too_many_images", "image_without_marker" (a picture with no place), "image_marker_without_image" (a place
            with no picture), and as `read_turns`.
    """
    left = list(pictures)
    found: list[Any] = []
    conversation: list[Message] = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or "role" not in message:
            raise SampleError("wrong_roles", f"message {number} is no mapping with 'role' and 'content'")
        role, content = message["role"], message.get("content")
        text, places = _read_content(content, number)
        if role == "system" and number == 0:
            if places or not text.strip() or text.strip() not in system:
                raise SampleError(
                    "wrong_roles", "the system text is fixed by the template; leave the system message out"
                )
            continue
        if role not in _ROLES:
            raise SampleError("wrong_roles", f"message {number} has role {role!r}; there are {', '.join(_ROLES)}")
        if IMAGE_TAG in text:
            raise SampleError(
                "control_token_in_text", f"the text contains {IMAGE_TAG!r}; a picture is an item of its own"
            )
        for picture in places:
            if picture is None and not left:
                raise SampleError("image_marker_without_image", f"message {number} has a place, but no picture for it")
            found.append(left.pop(0) if picture is None else picture)
        conversation.append({"from": _ROLES[role], "value": IMAGE_TAG * len(places) + text})
    if left:
        raise SampleError("image_without_marker", f"{len(left)} pictures have no place among the messages")
    asks = bool(conversation) and conversation[-1]["from"] == "human"
    return read_turns(conversation, bool(found), for_generation=asks), found[0] if found else None


def _read_content(content: Any, number: int) -> tuple[str, list[Any]]:
    """Text, and for each place its picture or None."""
    if isinstance(content, str):
        return content, []
    if not isinstance(content, Sequence):
        raise SampleError("wrong_roles", f"message {number} needs a text or a list of items as 'content'")
    texts, places = [], []
    for item in content:
        kind = item.get("type") if isinstance(item, Mapping) else None
        if kind == "text" and isinstance(item.get("text"), str):
            texts.append(item["text"])
        elif kind == "image":
            given = [key for key in _PICTURE_KEYS if item.get(key) is not None]
            if len(given) > 1:
                raise SampleError("too_many_images", f"message {number} has an image item with {' and '.join(given)}")
            value = item[given[0]] if given else None
            places.append(f"data:image;base64,{value}" if given == ["base64"] else value)
        elif kind == "image_url" and isinstance(item.get("image_url"), Mapping):
            places.append(item["image_url"].get("url"))
        else:
            raise SampleError("wrong_roles", f"message {number} has an item that is neither text nor image")
    return "\n".join(texts), places
