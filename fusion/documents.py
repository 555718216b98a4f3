"""YAML files that people write, read strictly; and what is wrong in them, in one line each that names the key."""

import difflib
import re
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from fusion.errors import FusionError

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same loader in C where libyaml is there: every stage reads these files at its start."""
_SHOWN = 120


def read_yaml(path: Path, error: type[FusionError]) -> dict[Any, Any]:
    """The mapping in the YAML file `path`.

    Raises `error` naming file, line and key: not UTF-8, not YAML, tabs as indentation, no mapping, and keys that stand
    twice in one mapping, of which YAML would silently take the last.
    """
    try:
        data = path.read_bytes()
    except OSError as failure:
        raise error(f"{path} cannot be read ({failure.strerror}): run the command in the project's folder") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as failure:
        line = data.count(b"\n", 0, failure.start) + 1
        wrong = data[failure.start]
        raise error(f"{path}: line {line}: the byte 0x{wrong:02x} is not UTF-8: save the file as UTF-8") from None
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            twice = list(_twice(node)) if node is not None else []
            if twice:
                raise error(
                    "\n".join([f"{path} has {len(twice)} key(s) twice, of which only one would count:", *twice])
                )
            document = loader.construct_document(node) if node is not None else None
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError) as failure:
        tab = next((n for n, line in enumerate(text.splitlines(), 1) if re.match(r"[ ]*\t", line)), None)
        hint = f" (line {tab} is indented with a tab: use spaces)" if tab else ""
        mark = getattr(failure, "problem_mark", None)
        told = f"line {mark.line + 1}: {failure.problem}" if mark else str(failure)  # type: ignore[union-attr]
        raise error(f"{path} is not valid YAML: {told}{hint}") from None
    if not isinstance(document, dict):
        raise error(f"{path} must be a mapping of sections")
    return document


def _twice(root: yaml.Node) -> Iterator[str]:
    """One line a key that stands twice in its mapping. A node that aliases share is looked at once."""
    seen: set[int] = set()
    waiting: list[tuple[yaml.Node, tuple[str, ...]]] = [(root, ())]
    while waiting:
        node, path = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(item, (*path, str(number))) for number, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            continue
        lines: dict[str, int] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                waiting.append((value, path))
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                yield f"  {dotted((*path, key.value))}: stands twice, in lines {lines[key.value]} and {line}"
            lines[key.value] = line
            waiting.append((value, (*path, key.value)))


def dotted(location: Iterable[int | str]) -> str:
    """The key as people write it."""
    return ".".join(str(part) for part in location)


def faults(error: ValidationError, model: type[BaseModel]) -> list[tuple[tuple[int | str, ...], str]]:
    """What pydantic found in a document for `model`: location and reason of each fault."""
    return [(item["loc"], _reason(item, model)) for item in error.errors(include_url=False)]


def _reason(item: Any, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        *parents, name = item["loc"]
        return f"unknown key{did_you_mean(str(name), _fields(model, parents))}"
    if item["type"] == "missing":
        return "missing"
    if isinstance(item["input"], (dict, BaseModel)):
        return str(item["msg"])
    found = repr(item["input"])
    return f"{item['msg']}, got {found if len(found) <= _SHOWN else found[:_SHOWN] + ' ...'}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What to add to a message about the unknown `name`: the known one that is close to it, or all of them."""
    names = list(known)
    close = difflib.get_close_matches(name, names, 1, cutoff=0.7)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f"; known: {', '.join(names)}" if names else ""


def _fields(model: Any, location: Iterable[int | str]) -> list[str]:
    """The keys that a section has; none where the location leads to something else."""
    for part in location:
        model = _plain(model)
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(part))
            model = field.annotation if field else None
        else:
            model = (get_args(model) or (None,))[-1]
    model = _plain(model)
    return list(model.model_fields) if isinstance(model, type) and issubclass(model, BaseModel) else []


def _plain(kind: Any) -> Any:
    """`kind` without Annotated, and of a union its first part."""
    while get_origin(kind) in (Annotated, Union, types.UnionType):
        kind = get_args(kind)[0]
    return kind
