"""The lineage of one artifact, from the records alone: no data is read, so it takes no longer for ten million rows.

`ancestry_of` answers for what lies in the working tree now and hashes it; this one answers for what a record says was
made, also when its files are not here. Where several runs wrote the same bytes, the one that fits the working tree's
code and parameters is taken, then the one that the child's record names, then the newest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fusion.hashing import json_sha256
from fusion.lineage.errors import LineageError
from fusion.lineage.files import Hasher
from fusion.lineage.outside import with_adopted
from fusion.lineage.records import RECORDS, Record, by_age, read_records, source_inputs
from fusion.lineage.stages import Stage, resolve_stages


@dataclass(frozen=True)
class Member:
    """One run of a stage. `parents`: stage -> key of the member that wrote what was read; None: its record is missing.

    `sources` are the inputs that no stage wrote: code, catalogs, embedded samples. `read`: parent's stage -> paths.
    """

    key: str
    record: Record
    parents: Mapping[str, str | None]
    read: Mapping[str, tuple[str, ...]]
    sources: tuple[str, ...]

    @property
    def stage(self) -> str:
        """The stage's name."""
        return self.record.stage

    @property
    def run(self) -> dict[str, Any]:
        """When, where and from which commit; empty for a member that a package tells of."""
        return dict(self.record.document.get("run", {}))


@dataclass(frozen=True)
class Family:
    """All runs behind one artifact, parents before children; the last one made it."""

    target: str
    members: dict[str, Member]
    notes: tuple[str, ...] = ()
    stated: str | None = field(default=None)
    """The digest that a package states; None where the records themselves are here."""

    @property
    def last(self) -> Member:
        """The run that made the artifact."""
        return next(reversed(self.members.values()))

    @property
    def missing(self) -> list[str]:
        """Stages whose record is needed and missing."""
        return sorted({stage for m in self.members.values() for stage, key in m.parents.items() if key is None})

    @property
    def digest(self) -> str:
        """One sha256 over data, weights, parameters and code of the artifact's ancestors, as on a model card.

        The run that made a package is no part of the digest that the package itself states.
        """
        return _digest(self, self.last.stage)

    @property
    def document(self) -> dict[str, Any]:
        """Everything as plain values, for programs."""
        return {
            "target": self.target,
            "digest": self.digest,
            "missing": self.missing,
            "notes": list(self.notes),
            "runs": [
                {"key": m.key, **m.record.document, "parent_runs": dict(m.parents)} for m in self.members.values()
            ],
        }


def _digest(family: Family, but: str) -> str:
    cores = {m.stage: json_sha256(m.record.core) for m in family.members.values() if m.stage != but or family.stated}
    return json_sha256(cores)


class Records:
    """All records below `root`, read once and checked."""

    def __init__(self, root: Path) -> None:
        """Raises `LineageError` for a record that was edited or cannot be read."""
        self._root = root
        self._hasher = Hasher(root)
        self._stages = with_adopted(resolve_stages(root), root, self._hasher)
        self._found: dict[str, list[Record]] = {}

    def of(self, stage: str) -> list[Record]:
        """All records of a stage, by file name."""
        if stage not in self._found:
            self._found[stage] = read_records(stage, self._root)
        return self._found[stage]

    def pick(self, stage: str, wanted: Mapping[str, str], digest: str | None) -> Record | None:
        """The record of the run of `stage` that wrote `wanted` (path -> sha256); None without one."""
        found = [r for r in self.of(stage) if all(r.outputs.get(path) == sha for path, sha in wanted.items())]
        newest = by_age(found)[::-1]
        for test in (self.is_current, lambda record: record.digest == digest, lambda record: True):
            chosen = next((record for record in newest if test(record)), None)
            if chosen is not None:
                return chosen
        return None

    def is_current(self, record: Record) -> bool:
        """Whether command, parameters and source files of a run are those of the working tree."""
        return not self.differences(record)

    def differences(self, record: Record) -> list[str]:
        """What the working tree has otherwise than a run had it: `command`, parameters, source files."""
        stage = self._stages.get(record.stage)
        if stage is None:
            return ["the stage is not in dvc.yaml"]
        found = ["command"] if record.document["command"] != stage.command else []
        params = {path: dict(values) for path, values in stage.params.items()}
        if record.document["params"] != params:
            found += _other_keys(record.document["params"], params)
        sources = source_inputs(stage, self._stages)
        return found + [path for path in sources if not self._same(record, path)]

    def _same(self, record: Record, path: str) -> bool:
        return self._hasher.exists(path) and record.inputs.get(path) == self._hasher.sha256(path)

    @property
    def stages(self) -> dict[str, Stage]:
        """The stages of dvc.yaml."""
        return self._stages


def _other_keys(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    names = {(file, key) for side in (ours, theirs) for file, values in side.items() for key in values}
    missing = object()
    return sorted(
        f"{file}: {key}"
        for file, key in names
        if ours.get(file, {}).get(key, missing) != theirs.get(file, {}).get(key, missing)
    )


def family_of(stage: str, target: str, root: Path = Path("."), records: Records | None = None) -> Family:
    """The lineage of what `stage` made, from the records below `root`.

    Raises `LineageError` when the stage itself has no record, or one was edited. A missing record further up is in
    `Family.missing`.
    """
    store = records or Records(root)
    first = store.pick(stage, {}, None)
    if first is None:
        raise LineageError(f"{RECORDS}/ has no record of `{stage}`: run `dvc repro {stage}`, or get it back with git")
    notes = []
    if len(store.of(stage)) > 1 and not store.is_current(first):
        notes.append(f"{stage}: the newest of {len(store.of(stage))} records; none fits the working tree's code")
    members: dict[str, Member] = {}
    for record in _walk(first, store, members):
        changed = store.differences(record)
        if changed:
            notes.append(f"{record.stage}: changed since in the working tree: {_few(changed)}")
    return Family(target, _parents_first(members, first.path), tuple(notes))


def family_of_document(document: Mapping[str, Any], target: str) -> Family:
    """The lineage that a package's lineage.json tells; raises `LineageError` when it contradicts itself."""
    try:
        stages = dict(document["stages"])
        found = {name: Record(name, {**core, "parents": {}, "run": {}}) for name, core in stages.items()}
        wrong = [name for name, record in found.items() if json_sha256(record.core) != stages[name]["digest"]]
        stated = str(document["digest"])
    except (KeyError, TypeError) as error:
        raise LineageError(f"{target}: lineage.json is not what `fusion package` writes ({error!r})") from error
    if wrong:
        raise LineageError(f"{target}: lineage.json was edited: {', '.join(sorted(wrong))} has not the digest it says")
    writers = {(path, sha): name for name, record in found.items() for path, sha in record.outputs.items()}
    members = {
        name: _member(name, record, lambda path, sha: writers.get((path, sha))) for name, record in found.items()
    }
    family = Family(target, members, stated=stated)
    if family.digest != stated:
        raise LineageError(f"{target}: lineage.json was edited: its stages give {family.digest}, it says {stated}")
    return family


def _walk(first: Record, store: Records, members: dict[str, Member]) -> Iterator[Record]:
    """Fills `members` with `first` and all before it, and gives each record once."""
    waiting = [first]
    while waiting:
        record = waiting.pop()
        if record.path in members:
            continue
        chosen: dict[str, Record | None] = {}
        for name, digest in record.document["parents"].items():
            wanted = {p: s for p, s in record.inputs.items() if any(p in r.outputs for r in store.of(name))}
            chosen[name] = store.pick(name, wanted, digest)
        owner = {(p, s): n for n, r in chosen.items() if r is not None for p, s in r.outputs.items()}
        member = _member(record.path, record, lambda path, sha, owner=owner: owner.get((path, sha)))
        parents = {name: None if parent is None else parent.path for name, parent in chosen.items()}
        members[record.path] = Member(record.path, record, parents, member.read, _own(member.sources, chosen))
        waiting += [parent for parent in chosen.values() if parent is not None]
        yield record


def _own(sources: tuple[str, ...], chosen: Mapping[str, Record | None]) -> tuple[str, ...]:
    """`sources` without folders around, or files inside, what parents wrote."""
    written = [path for record in chosen.values() if record is not None for path in record.outputs]
    return tuple(
        path for path in sources if not any(out.startswith(path + "/") or path.startswith(out + "/") for out in written)
    )


def _member(key: str, record: Record, writer: Any) -> Member:
    read: dict[str, list[str]] = {}
    sources = []
    for path, sha in record.inputs.items():
        parent = writer(path, sha)
        if parent is None:
            sources.append(path)
        else:
            read.setdefault(parent, []).append(path)
    parents = {parent: parent for parent in read}
    inside = [out for paths in read.values() for out in paths]
    own = [p for p in sources if not any(o.startswith(p + "/") or p.startswith(o + "/") for o in inside)]
    return Member(key, record, parents, {name: tuple(paths) for name, paths in read.items()}, tuple(own))


def _parents_first(members: dict[str, Member], last: str) -> dict[str, Member]:
    ordered: dict[str, Member] = {}

    def visit(key: str) -> None:
        for parent in members[key].parents.values():
            if parent is not None and parent not in ordered:
                visit(parent)
        ordered[key] = members[key]

    visit(last)
    return ordered


def _few(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
