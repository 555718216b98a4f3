"""Data sets that are made of others: one entry of the catalog, with the sources of all that it `combines`.

To everything behind the catalog such a data set is one like any other. It has sources of its own, named after the data
set and the source that they are taken from; they are ingested and sharded under its name, and curated as one, so that
what stands in several of them is found. The samples are those of the data sets by themselves, before curation.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from fusion.documents import did_you_mean

FILLED_IN = ("members", "whole")
"""Keys of a combined data set that are filled in here: where each source is taken from, and the entry written out."""
_TAKEN = ("tokenizers", "sources", "published")


def combine(datasets: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Fills in, in place, the entries that combine others; yields a line for each that cannot be."""
    plain = {name: entry for name, entry in datasets.items() if "combines" not in entry}
    for name, entry in datasets.items():
        if name in plain:
            continue
        faults = list(_faults(entry, datasets, plain))
        if not faults:
            taken, faults = _taken({key: plain[key] for key in entry["combines"]}, entry)
            entry |= taken
        yield from (f"{entry['file']}: datasets.{name}.{fault}" for fault in faults)


def _faults(entry: Mapping[str, Any], datasets: Mapping[str, Any], plain: Mapping[str, Any]) -> Iterator[str]:
    names = entry["combines"]
    if not isinstance(names, list) or len(names) < 2 or len({str(name) for name in names}) < len(names):
        yield "combines: must be a list of two or more different data sets"
        return
    for name in names:
        if name not in datasets:
            yield f"combines: there is no data set `{name}`{did_you_mean(str(name), plain)}"
        elif name not in plain:
            yield f"combines: `{name}` combines others itself: name those"
    for key in _TAKEN:
        if key in entry:
            yield f"{key}: has no place here, it follows from `combines`"


def _taken(members: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What an entry gets from its members, and what is wrong with it."""
    sources: dict[str, Any] = {}
    origins: dict[str, str] = {}
    faults = []
    for member, facts in members.items():
        for source, declared in _mapping(facts, "sources").items():
            name = f"{member}-{source}"
            if name in sources:
                faults.append(f"combines: {origins[name]} and {member}/{source} would both be called {name}")
            sources[name], origins[name] = declared, f"{member}/{source}"
    tables = [_mapping(facts, "tokenizers") for facts in members.values()]
    tokenizers = {key: value for key, value in tables[0].items() if all(key in table for table in tables)}
    faults += [
        f"combines: the tokenizer `{key}` is not the same in {' and '.join(members)}"
        for key, value in tokenizers.items()
        if any(table[key] != value for table in tables)
    ]
    if not tokenizers:
        faults.append(f"combines: {' and '.join(members)} have no tokenizer in common")
    lists = [*(facts.get("contamination") for facts in members.values()), entry.get("contamination")]
    held_out = dict.fromkeys(name for names in lists if isinstance(names, list) for name in names)
    taken = {"tokenizers": tokenizers, "sources": sources, "contamination": list(held_out)}
    whole = {key: value for key, value in (dict(entry) | taken).items() if key != "file"}
    return taken | {"members": origins, "whole": whole}, faults


def _mapping(entry: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A section of an entry; what is no mapping is told where the entry itself is checked."""
    value = entry.get(key)
    return value if isinstance(value, dict) else {}
