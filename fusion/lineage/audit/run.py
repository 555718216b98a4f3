"""An audit: outputs in the working tree and the cache against their records, records against each other and git."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusion.lineage.audit.chain import check_chain, check_committed, check_history, read_all
from fusion.lineage.audit.contents import Content, Contents
from fusion.lineage.audit.findings import Artifact, Report
from fusion.lineage.audit.lockfile import check_lock, superseded
from fusion.lineage.environment import CODE
from fusion.lineage.errors import LineageError
from fusion.lineage.files import Hasher
from fusion.lineage.lock import Cache, Locked, cache_of, read_lock, tree_at
from fusion.lineage.records import Record, source_inputs
from fusion.lineage.stages import Stage, resolve_stages


def audit(root: Path = Path("."), commit: str | None = None) -> tuple[Report, dict[str, Record]]:
    """Audits the working tree and the cache, or, with `commit`, what is committed there and the cache alone.

    Returns:
        The report, and the record of each stage that made what is there.

    Raises:
        LineageError: there is nothing to audit: no git, no DVC, no such commit.
    """
    cache = cache_of(root)
    if commit is None:
        return _audit(root, cache, work=True)
    with tree_at(commit, root) as tree:
        return _audit(tree, cache, work=False)


def _audit(root: Path, cache: Cache, work: bool) -> tuple[Report, dict[str, Record]]:
    report = Report()
    check_committed(root, CODE, report)
    records = read_all(root, report)
    check_history(root, report)
    try:
        lock = read_lock(root)
        stages = resolve_stages(root)
    except LineageError as error:
        report.error("unreadable", "dvc.lock", str(error), "`git checkout -- dvc.lock dvc.yaml`")
        return report, {}
    old = superseded(lock, stages)
    # Of an output that was a stage's and is adopted now, the .dvc file has the last word: read_lock has it last.
    entries = list({path: entry for locked in lock.values() for path, entry in locked.outs.items()}.values())
    report.count("stages", len(lock))
    report.count("artifacts", len(entries))
    contents = Contents(entries, cache, root, work, report)
    check_lock(lock, stages, contents, root, report)
    hasher = Hasher(root)
    # What was adopted is no source: like the outputs of stages, it is compared by itself.
    adopted = {name: Stage(name, "", (), tuple(one.outs), {}) for name, one in lock.items() if name.endswith(".dvc")}
    current: dict[str, Record] = {}
    for name, locked in lock.items():
        if name in old:
            continue
        record = _record_of(locked, records, contents, hasher)
        report.artifacts += [_artifact(path, locked, record, contents, work) for path in locked.outs]
        if record is None and not locked.outs:
            continue  # A mere check: it makes nothing that a record could tell of.
        if record is None:
            _no_record(locked, contents, records, root, report)
            continue
        current[record.stage] = record
        _check_outputs(locked, record, contents, root, work, report)
        if name in stages:
            sources = source_inputs(stages[name], {**adopted, **stages})
            _check_record(locked, record, sources, hasher, report)
    report.artifacts.sort()
    check_chain(current, records, report)
    if work:
        _check_orphans(root, set(entry.path for entry in entries), report)
    return report, current


def _artifact(path: str, locked: Locked, record: Record | None, contents: Contents, work: bool) -> Artifact:
    sha = record.outputs.get(path) if record else None

    def state(content: Content | None) -> str:
        if content is None or not content.whole:
            return "missing"
        return "unknown" if sha is None else "same" if content.sha256 == sha else "changed"

    tree = state(contents.work.get(path)) if work else None
    return Artifact(path, locked.name, sha, record.path if record else None, tree, state(contents.cached.get(path)))


def _candidates(locked: Locked, records: Mapping[str, list[Record]]) -> list[Record]:
    if locked.name.endswith(".dvc"):
        return [r for of in records.values() for r in of if set(r.outputs) & set(locked.outs)]
    return list(records.get(locked.name, []))


def _record_of(
    locked: Locked, records: Mapping[str, list[Record]], contents: Contents, hasher: Hasher
) -> Record | None:
    """The record that fits what is here best: outputs in the cache or the tree, then command, parameters, sources."""

    def places(record: Record) -> list[bool]:
        return [
            sha == place[path].sha256
            for path, sha in record.outputs.items()
            for place in (contents.cached, contents.work)
            if path in place
        ]

    def fits(record: Record) -> tuple[int, ...]:
        same = record.document["command"] == locked.command
        params = _plain(record.document["params"]) == _plain(locked.params)
        sources = sum(
            hasher.exists(path) and hasher.sha256(path) == sha
            for path, sha in record.inputs.items()
            if path.startswith(("fusion/", "data/catalog"))
        )
        return sum(places(record)), same, params, sources

    possible = [
        record
        for record in _candidates(locked, records)
        if set(record.outputs) == set(locked.outs)
        and (any(places(record)) or (not locked.outs and record.document["command"] == locked.command))
    ]
    return max(possible, key=fits, default=None)


def _no_record(
    locked: Locked, contents: Contents, records: Mapping[str, list[Record]], root: Path, report: Report
) -> None:
    damaged = [path for path in locked.outs if contents.name_damaged(path)]
    for path in locked.outs:
        if path in contents.work and contents.work[path].sha256 != contents.cached[path].sha256:
            contents.name_changed(path, root)
    many = len(_candidates(locked, records))
    what = f"none of the {many} records of `{locked.name}` tells" if many else f"no record of `{locked.name}` tells"
    where = "" if damaged else " or in the cache"
    report.error(
        "record-missing", locked.name, f"{what} how what is in the working tree{where} was made",
        f"`git checkout -- records`, or `dvc repro --force --single-item {locked.name}`",
    )  # fmt: skip


def _check_outputs(locked: Locked, record: Record, contents: Contents, root: Path, work: bool, report: Report) -> None:
    for path, sha in record.outputs.items():
        cached = contents.cached[path]
        if cached.whole and cached.sha256 != sha and not contents.name_damaged(path):
            what = f"dvc.lock names other content for {path} than {record.path}, by which it was made"
            report.error("lock-differs", locked.name, what, "`git diff HEAD -- dvc.lock records`")
        if not work:
            continue
        if path not in contents.work:
            report.error("output-missing", path, f"{path} is not in the working tree", f"`dvc checkout {path}`")
        elif contents.work[path].sha256 != sha:
            contents.name_changed(path, root)


def _check_record(locked: Locked, record: Record, sources: list[str], hasher: Hasher, report: Report) -> None:
    """The record says the same as dvc.lock and the tree of what went in."""
    again = f"`git log -p -- {record.path}`, or `dvc repro {locked.name}` if the code is newer"
    if record.document["command"] != locked.command:
        report.error("record-differs", record.path, f"{record.path} has another command than dvc.lock", again)
    if _plain(record.document["params"]) != _plain(locked.params):
        report.error("record-differs", record.path, f"{record.path} has other parameters than dvc.lock", again)
    for path in sources:
        if not hasher.exists(path) or record.inputs.get(path) != hasher.sha256(path):
            what = (
                f"{record.path}: {path} is not what was read when {', '.join(record.outputs) or locked.name} was made"
            )
            report.error("record-differs", record.path, what, again)
    git = record.document.get("run", {}).get("git") or {}
    if git.get("commit") is None:
        report.warn(
            "made-without-commit", record.path, f"{record.stage} was run without a commit", "run it from a commit"
        )
    elif git.get("dirty"):
        paths = ", ".join(git.get("changed", [])[:5])
        what = f"{record.stage} was run with uncommitted changes ({paths}); what it read is hashed in its record"
        report.warn("made-dirty", record.path, what, f"`dvc repro --force --single-item {locked.name}` from a commit")
    if record.document.get("run", {}).get("changed_during_run"):
        paths = ", ".join(record.document["run"]["changed_during_run"])
        report.error("changed-during-run", record.path, f"{paths} changed while {record.stage} ran", again)


def _check_orphans(root: Path, outs: set[str], report: Report) -> None:
    """Files beside the outputs that neither git nor a stage accounts for."""
    folders = sorted({path.split("/")[0] for path in outs})
    command = ["git", "-C", str(root), "ls-files", "-z", "--others", "--", *folders]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    told = {finding.where for finding in report.errors if finding.kind == "uncommitted"}
    for path in sorted(set(filter(None, listed.split("\0"))) - told):
        parts = path.split("/")
        inside = any("/".join(parts[:length]) in outs for length in range(1, len(parts) + 1))
        # DVC writes a .gitignore beside an output that git does not ignore by itself.
        if not inside and "__pycache__" not in parts and parts[-1] != ".gitignore":
            report.warn(
                "orphan", path, f"{path} belongs to no stage and no commit", "remove it, or find out what made it"
            )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str, sort_keys=True))
