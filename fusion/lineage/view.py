"""A lineage as terminal tree, Graphviz text, and the plain values that the page is drawn from.

The tree and the page gather the stages that run once per source below their data set: four variants, three stages and
79 sources have some hundred and seventy runs, and nobody reads so many boxes.
"""

from __future__ import annotations

from typing import Any

from fusion.lineage.family import Family, Member
from fusion.lineage.verify import SAME

SHORT = 12


def group_of(member: Member) -> str:
    """What a run belongs to: the data set of a source, for a stage that runs once per source; else the stage itself."""
    for path in member.record.outputs:
        parts = path.split("/")
        if len(parts) == 4 and parts[0] == "data" and parts[1] in ("raw", "shards", "index"):
            return f"data set {parts[2]}"
    for path in member.record.outputs:
        parts = path.split("/")
        if len(parts) == 3 and parts[0] == "data" and parts[1] in ("manifests", "validation"):
            return f"data set {parts[2]}"
    return member.stage


def source_of(member: Member) -> str | None:
    """The source that a run is of, None for runs of whole data sets and others."""
    for path in member.record.outputs:
        parts = path.split("/")
        if len(parts) == 4 and parts[0] == "data" and parts[1] in ("raw", "shards", "index"):
            return parts[3]
    return None


def licence_of(member: Member) -> dict[str, Any] | None:
    """The licence entry of the catalog among the parameters of a run, None when it has none."""
    for values in member.record.document["params"].values():
        for key, value in values.items():
            if key.endswith(".licence") and isinstance(value, dict):
                return dict(value)
            if key.startswith("benchmarks.") and isinstance(value, dict) and "licence" in value:
                return dict(value["licence"])
    return None


def licence_text(licence: dict[str, Any] | None) -> str:
    """`MIT (verified)`, `CC0-1.0 (declared)`, `unknown`."""
    if licence is None:
        return "unknown"
    if licence.get("verified"):
        return f"{licence['verified']} (verified)"
    return f"{licence['declared']} (declared)" if licence.get("declared") else "unknown"


def as_tree(family: Family, verified: dict[str, str] | None = None) -> str:
    """The lineage from the artifact back, a line a run; what stands above is made from what stands below it.

    A parent that is also behind another parent stands below that one alone; `--format json` has every link.
    """
    lines = [family.target, f"lineage digest {family.digest}"]
    shown: set[str] = set()
    if family.stated is None:
        _branch(family, family.last.key, "", lines, shown, verified or {})
    else:
        read = {key for m in family.members.values() for key in m.parents.values()}
        for key in [key for key in family.members if key not in read]:
            _branch(family, key, "", lines, shown, verified or {})
    lines += [f"no record: {stage}" for stage in family.missing]
    lines += [f"note: {note}" for note in family.notes]
    return "\n".join(lines)


def _branch(family: Family, key: str, indent: str, lines: list[str], shown: set[str], verified: dict[str, str]) -> None:
    member = family.members[key]
    if key in shown:
        lines.append(f"{indent}{member.stage}  (as above)")
        return
    shown.add(key)
    lines.append(f"{indent}{_line(member, verified)}")
    if member.sources:
        code = [path for path in member.sources if path.startswith("fusion/")]
        other = [path for path in member.sources if not path.startswith("fusion/")]
        lines.append(f"{indent}  read {', '.join([*other, f'{len(code)} parts of the code'] if code else other)}")
    # The sources of a data set stand once, below the run that looks across all of them.
    across = source_of(member) is None and group_of(member).startswith("data set")
    parents = [family.members[k] for k in member.parents.values() if k is not None]
    for parent in sorted(parents, key=lambda one: one.stage):
        if across and group_of(parent) == group_of(member) and parent.stage.startswith("shard"):
            lines.append(f"{indent}  {_source_line(family, parent, verified)}")
    beyond = {key for parent in parents for key in _before(family, parent.key)}
    for parent in sorted(parents, key=lambda one: (one.stage.startswith("benchmark"), one.stage)):
        if parent.key not in beyond and (source_of(parent) is None or source_of(member) is not None):
            _branch(family, parent.key, indent + "  ", lines, shown, verified)


def _before(family: Family, key: str) -> set[str]:
    """Keys of all runs before the one with `key`."""
    found: set[str] = set()
    waiting = [key]
    while waiting:
        for parent in family.members[waiting.pop()].parents.values():
            if parent is not None and parent not in found:
                found.add(parent)
                waiting.append(parent)
    return found


def _line(member: Member, verified: dict[str, str]) -> str:
    outs = ", ".join(f"{path} {sha[:SHORT]}{_mark(path, verified)}" for path, sha in member.record.outputs.items())
    run = member.run
    when = f"  {run['started'][:16].replace('T', ' ')}" if run.get("started") else ""
    git = run.get("git") or {}
    commit = (
        f"  commit {git['commit'][:SHORT]}{' with changes' if git.get('dirty') else ''}" if git.get("commit") else ""
    )
    return f"{member.stage}  ->  {outs or 'nothing'}{when}{commit}"


def _source_line(family: Family, shard: Member, verified: dict[str, str]) -> str:
    origin: dict[str, Any] = next(
        (v for values in shard.record.document["params"].values() for k, v in values.items() if k.endswith(".origin")),
        {},
    )
    kind = origin.get("repo") or origin.get("folder") or origin.get("kind", "")
    marks = "".join(_mark(path, verified) for path in shard.record.outputs)
    text = f"source {source_of(shard)}  {licence_text(licence_of(shard))}  from {kind}{marks}"
    ingest = next((family.members[k] for k in shard.parents.values() if k and source_of(family.members[k])), None)
    return f"{text}  {next(iter(ingest.record.outputs.values()))[:SHORT]}" if ingest else text


def _mark(path: str, verified: dict[str, str]) -> str:
    """What verification found, unless all is well."""
    return f" [{verified[path]}]" if verified.get(path, SAME) != SAME else ""


def as_dot(family: Family) -> str:
    """The graph of runs for Graphviz, data sets as clusters."""
    lines = ["digraph lineage {", '  rankdir="LR"; node [shape=box, fontname="sans-serif", fontsize=10];']
    groups: dict[str, list[Member]] = {}
    for member in family.members.values():
        groups.setdefault(group_of(member), []).append(member)
    for number, (name, members) in enumerate(groups.items()):
        inside = [f"{_quoted(m.key)} [label={_quoted(m.stage)}];" for m in members]
        if name.startswith("data set"):
            lines += [
                f"  subgraph cluster_{number} {{ label={_quoted(name)};",
                *(f"    {one}" for one in inside),
                "  }",
            ]
        else:
            lines += [f"  {one}" for one in inside]
    for member in family.members.values():
        lines += [f"  {_quoted(key)} -> {_quoted(member.key)};" for key in member.parents.values() if key is not None]
    return "\n".join([*lines, "}"])


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
