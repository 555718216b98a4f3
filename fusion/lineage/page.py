"""The lineage as one HTML page that opens offline: data sets with their sources on top, below a row a variant.

Each run has a section with its facts, which its box links to; what a person points at shows where it comes from and
where it went. A data set is one box that lists its sources, so four variants, three stages and 79 sources fit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from fusion.lineage.family import Family, Member
from fusion.lineage.records import is_adoption
from fusion.lineage.verify import SAME, Verified
from fusion.lineage.view import group_of, licence_of, licence_text, source_of

STAGES = ("stage1", "stage1_5", "stage2")
COLUMNS = {"base": "Base models", "stage1": "Stage 1", "stage1_5": "Stage 1.5", "stage2": "Stage 2", "end": "Result"}


@dataclass
class Box:
    """A box of the page: a run, or a data set with its sources."""

    id: str
    title: str
    lines: list[str] = field(default_factory=list)
    sources: list[dict[str, str]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    bad: bool = False


def page(families: Sequence[Family], root: Path | None, verified: Verified | None = None) -> str:
    """The page's text. `root`: where summaries of data sets are read for their counts; None where there are none."""
    members = {key: member for family in families for key, member in family.members.items()}
    ids = {key: f"run-{number}" for number, key in enumerate(members)}
    bad = set(verified.damaged) if verified else set()
    boxes, columns, rows, others = _layout(members, ids, root, bad)
    environment = Environment(loader=PackageLoader("fusion.lineage", "."), autoescape=True, undefined=StrictUndefined)
    return environment.get_template("page.html").render(
        targets=[(family.target, family.digest) for family in families],
        columns=columns,
        rows=rows,
        others=others,
        boxes=boxes,
        runs=[_facts(member, members, ids, verified) for member in members.values()],
        missing=sorted({stage for family in families for stage in family.missing}),
        notes=sorted({note for family in families for note in family.notes}),
        summary=verified.summary if verified else None,
        edges=json.dumps(_edges(members, ids)),
        counts=_counts(members),
    )


def _counts(members: Mapping[str, Member]) -> dict[str, int]:
    kept = [m for m in members.values() if m.stage.startswith("curate")]
    sources = {(group_of(m), source_of(m)) for m in members.values() if source_of(m)}
    trained = [m for m in members.values() if m.stage.startswith("train")]
    return {"runs": len(members), "sets": len(kept), "sources": len(sources), "checkpoints": len(trained)}


def _layout(
    members: Mapping[str, Member], ids: Mapping[str, str], root: Path | None, bad: set[str]
) -> tuple[list[Box], dict[str, list[Box]], list[tuple[str, dict[str, list[Box]]]], list[Box]]:
    """All boxes; data-set boxes by column; for each variant its boxes by column; what fits nowhere."""
    sets: dict[str, Box] = {}
    used: dict[str, str] = {}
    rows: dict[str, dict[str, list[Box]]] = {}
    others: list[Box] = []
    boxes: list[Box] = []
    for member in members.values():
        name, _, item = member.stage.partition("@")
        group = group_of(member)
        damaged = any(path in bad for path in member.record.outputs)
        if group.startswith("data set"):
            box = sets.setdefault(group, Box(f"set-{len(sets)}", group.removeprefix("data set "), _kept(group, root)))
            box.bad |= damaged
            _into_set(box, member, members, ids, damaged)
            continue
        box = Box(ids[member.key], name, [sha[:12] for sha in list(member.record.outputs.values())[:1]], bad=damaged)
        boxes.append(box)
        variant, stage = _adopted_place(member)
        if stage:
            rows.setdefault(variant, {}).setdefault(stage, []).append(box)
        elif name == "base":
            rows.setdefault(item, {}).setdefault("base", []).append(box)
        elif name.startswith("train_") and name.removeprefix("train_") in STAGES:
            stage = name.removeprefix("train_")
            rows.setdefault(item, {}).setdefault(stage, []).append(box)
            parents = [members[key] for key in member.parents.values() if key]
            used |= {group_of(parent): stage for parent in parents if group_of(parent).startswith("data set")}
        elif name in ("evaluate", "package") and item:
            rows.setdefault(item, {}).setdefault("end", []).append(box)
        else:
            box.title = member.stage
            others.append(box)
    columns: dict[str, list[Box]] = {name: [] for name in COLUMNS}
    for group, box in sets.items():
        columns[used.get(group, "end")].append(box)
    return boxes + list(sets.values()), columns, list(rows.items()), others


def _adopted_place(member: Member) -> tuple[str, str]:
    """Variant and stage in whose place a checkpoint was adopted; empty for everything else."""
    variant, _, stage = next(iter(member.record.outputs), "").removeprefix("checkpoints/").partition("/")
    return (variant, stage) if is_adoption(member.stage) and stage in STAGES else ("", "")


def _into_set(box: Box, member: Member, members: Mapping[str, Member], ids: Mapping[str, str], damaged: bool) -> None:
    source = source_of(member)
    if source is None:
        box.links.append((member.stage.partition("@")[0], ids[member.key]))
    elif any(path.startswith("data/shards/") for path in member.record.outputs):
        state = licence_of(member)
        kind = (
            "verified" if state and state.get("verified") else "declared" if state and state.get("declared") else "none"
        )
        box.sources.append(
            {"name": source, "licence": licence_text(state), "kind": kind, "href": ids[member.key], "bad": str(damaged)}
        )


def _kept(group: str, root: Path | None) -> list[str]:
    path = (root or Path("/nowhere")) / "data/manifests" / group.removeprefix("data set ") / "summary.json"
    if not path.is_file():
        return []
    summary = json.loads(path.read_text(encoding="utf-8"))
    return [f"{summary['kept']:,} of {summary['ingested']:,} samples kept"]


def _facts(
    member: Member, members: Mapping[str, Member], ids: Mapping[str, str], verified: Verified | None
) -> dict[str, Any]:
    run = member.run
    git = run.get("git") or {}
    about = {
        "commit": f"{git['commit']}{' with changes: ' + ', '.join(git['changed']) if git.get('dirty') else ''}"
        if git.get("commit")
        else None,
        "began": run.get("started"),
        "seconds": run.get("seconds"),
        "peak memory": f"{run['peak_memory_bytes'] / 2**20:,.0f} MB" if run.get("peak_memory_bytes") else None,
        "machine": ", ".join(
            [
                *(run.get("hardware") or {}).get("accelerators", []),
                str((run.get("hardware") or {}).get("processor", "")),
            ]
        ).strip(", "),
        "Python": (run.get("environment") or {}).get("python"),
        "requirements.txt": (run.get("environment") or {}).get("requirements_sha256"),
        "flow run": run.get("flow_run_id"),
        "record": member.key if member.key.endswith(".json") else None,
        "record's digest": member.record.document.get("digest") or member.record.digest,
    }
    licence = licence_of(member)
    if licence is not None:
        about["licence"] = licence_text(licence) + (f": {licence['evidence']}" if licence.get("evidence") else "")
    states = verified.outputs if verified else {}
    children = [one for one in members.values() if member.key in one.parents.values()]
    return {
        "id": ids[member.key],
        "stage": member.stage,
        "command": member.record.document["command"],
        "about": {name: value for name, value in about.items() if value},
        "packages": (run.get("environment") or {}).get("packages") or {},
        "params": json.dumps(member.record.document["params"], indent=1, ensure_ascii=False, sort_keys=True),
        "outputs": [(path, sha, states.get(path, SAME)) for path, sha in member.record.outputs.items()],
        "sources": [(path, member.record.inputs[path]) for path in member.sources],
        "parents": [(members[key].stage, ids[key]) for key in member.parents.values() if key],
        "children": [(child.stage, ids[child.key]) for child in children],
    }


def _edges(members: Mapping[str, Member], ids: Mapping[str, str]) -> list[list[str]]:
    return sorted([ids[key], ids[member.key]] for member in members.values() for key in member.parents.values() if key)
