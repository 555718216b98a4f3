"""The story of one sample as lines of text."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

_TEXT = 400
_SIGNS = {"below": "at least", "above": "at most", "up to": "more than", "from": "less than"}


def tell(story: dict[str, Any]) -> str:
    """`explain_sample`'s document for a person; control characters are shown as escapes."""
    lines = (*_head(story), "", *_steps(story), "", *_place(story), *_notes(story))
    return "\n".join(_printable(line) for line in lines)


def as_json(story: dict[str, Any]) -> str:
    """The same as JSON, keys sorted."""
    return json.dumps(story, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False)


def _head(story: dict[str, Any]) -> Iterator[str]:
    origin = story["origin"]
    why = f" by {story['block']}: {story['reason']}" if story["reason"] else ""
    yield f"{story['sample_id']}: {story['decision']}{why}"
    if story["evidence"]:
        yield f"  {story['evidence']}"
    own = f", id {origin['id']}" if origin["id"] is not None else ""
    yield f"from     source {origin['source']} ({origin['kind']}), {origin['file']}, row {origin['row']}{own}"
    verified = origin["licence"]["verified"]
    checked = f"verified {verified}" if verified else "not verified"
    yield f"         {origin['category']}; licence {origin['licence']['declared'] or 'unknown'}, {checked}"
    if story["image"] is not None:
        yield f"picture  {story['image']}"
    for message in story["conversations"] or []:
        text = " ".join(message["value"].split())
        yield f"{message['from'][:8]:8} {text if len(text) <= _TEXT else text[:_TEXT] + '...'}"
    if (found := story["measured"]) is None:
        return
    if found["width"] is not None:
        size = f"{found['width']} x {found['height']} pixels"
        yield f"measured {size}, contrast {found['contrast']}, PDQ quality {found['pdq_quality']}"
        yield f"         picture sha256 {found['image_sha256']}"
        yield f"         PDQ {found['pdq']}"
    tokens = ", ".join(f"{key} {value}" for key, value in found.items() if "_tokens_" in key)
    yield f"texts    {found['turns']} answer(s) of {found['answer_chars']} characters; {tokens}"
    yield f"         text sha256 {found['text_sha256']}"


def _steps(story: dict[str, Any]) -> Iterator[str]:
    yield f"step by step, thresholds of profile `{story['profile']}`:"
    for step in story["steps"]:
        told = f": {step['reason']}: {step['evidence']}" if step["outcome"] == "dropped" else ""
        drawn = f", weight {step['weight']}" if step.get("weight") is not None else ""
        yield f"  {step['block']:17} {step['outcome']}{drawn}{told}"
        for check in step["checks"]:
            yield f"    {check['reason']:23} {_check(check)}"


def _check(check: dict[str, Any]) -> str:
    setting = check["setting"]
    if check["outcome"] == "off":
        return f"off ({setting}: {_value(check['threshold'])})" if setting else "off"
    limit = _limit(check)
    if check["measured"] is None:
        return f"nothing to measure; {limit}" if limit else "nothing to measure"
    near = f" ({check['other']})" if check.get("other") else ""
    colours = f", colours {check['colours']} apart (up to {check['max_colours']})" if "colours" in check else ""
    warned = "" if check["outcome"] == "passed" else f" -> {check['outcome']}"
    kept = f"; {limit}" if limit else ""
    return f"{_value(check['measured'])} {check['unit']}{near}{colours}{kept}{warned}"


def _limit(check: dict[str, Any]) -> str:
    if check["drops"] == "any":
        size = f", {check['setting']} {_value(check['threshold'])}" if check["setting"] else ""
        return f"kept with none{size}"
    named = f" ({check['setting']})" if check["setting"] else ""
    return f"kept with {_SIGNS[check['drops']]} {_value(check['threshold'])}{named}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    return "null" if value is None else str(value)


def _place(story: dict[str, Any]) -> Iterator[str]:
    if (place := story["place"]) is None:
        yield "place    in no shard: it was never readable"
    else:
        yield f"place    {place['shard']}"
        yield f"         record: {place['record_size']} bytes from byte {place['record_offset']}"
        if place["image_offset"] is not None:
            yield f"         picture: {place['image_size']} bytes from byte {place['image_offset']}"
        yield f"         tail -c +{place['record_offset'] + 1} {shlex.quote(place['shard'])} | " + (
            f"head -c {place['record_size']}"
        )
    yield f"draws    {story['draws']} time(s) in an epoch"
    validation = story["validation"]
    if validation["status"] == "not validated":
        yield "set      not validated"
    else:
        told = "" if validation["of_this_manifest"] else ", of another manifest"
        yield f"set      validation {validation['status']}{told}"


def _notes(story: dict[str, Any]) -> Iterator[str]:
    for note in story["notes"]:
        yield f"note     {note}"


def _printable(line: str) -> str:
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in line)
