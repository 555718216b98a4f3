"""The records: each is what its digest says, was never rewritten in git, and names parents that are there."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from fusion.hashing import json_sha256
from fusion.lineage.audit.findings import Report
from fusion.lineage.records import CORE, DETERMINISTIC, RECORDS, Record, record_file_name, record_folder

RESTORE = "`git checkout -- records`; if it was committed, find out by whom: `git log -p -- records`"


def read_all(root: Path, report: Report) -> dict[str, list[Record]]:
    """Stage -> its sound records; those that are not are reported and left out."""
    found: dict[str, list[Record]] = {}
    for path in sorted((root / RECORDS).rglob("*")):
        relative = path.relative_to(root).as_posix()
        if not path.is_file():
            continue
        report.count("records")
        problem = None
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            record = Record(relative, {name: document[name] for name in document})
            expected = f"{record_folder(record.stage)}/{record_file_name(record.core)}"
            if document["digest"] != json_sha256({name: document[name] for name in DETERMINISTIC}):
                problem = "its content has not the digest that it states"
            elif relative != expected:
                problem = f"its content belongs to {expected}"
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            problem = f"it is no run record ({error!r})"
        if problem is not None:
            report.error("record-edited", relative, f"{relative}: {problem}", RESTORE)
        else:
            found.setdefault(record.stage, []).append(record)
    return found


def check_chain(current: dict[str, Record], records: dict[str, list[Record]], report: Report) -> None:
    """Each parent digest that a current record states belongs to a record, which wrote what the child read."""
    digests = {record.digest: record for of in records.values() for record in of}
    for record in current.values():
        for stage, digest in record.document["parents"].items():
            if digest is None:
                report.warn(
                    "chain-open", record.path, f"{record.path} does not say which run of {stage} it follows",
                    f"`dvc repro --force --single-item {record.stage}` links it",
                )  # fmt: skip
                continue
            parent = digests.get(digest)
            if parent is None:
                what = f"{record.path} follows a run of {stage} with digest {digest[:16]}, of which no record is here"
                report.error("chain-broken", record.path, what, RESTORE)
            elif parent.stage != stage or any(record.inputs.get(p, s) != s for p, s in parent.outputs.items()):
                what = f"{record.path} states to follow {parent.path}, which wrote something else than it read"
                report.error("chain-broken", record.path, what, RESTORE)


def check_history(root: Path, report: Report) -> None:
    """No record was changed once it was committed: git has every version of it.

    One that lacked a parent's record may be completed; one that was removed and made again is worth a look.
    """
    log = _git(root, "log", "--no-renames", "--raw", "--no-abbrev", "--format=", "--reverse", "--", RECORDS)
    seen: dict[str, list[tuple[str, str, str]]] = {}
    for line in log.splitlines():
        if line.startswith(":"):
            head, path = line.split("\t", 1)
            _, _, before, after, how = head.split()
            seen.setdefault(path, []).append((how[0], before, after))
    for path, changes in seen.items():
        if not (root / path).is_file():
            continue
        for how, before, after in changes:
            if how == "M" and not _completed(root, before, after):
                what = f"{path} was changed after it had been committed (blob {before[:12]} became {after[:12]})"
                report.error("record-rewritten", path, what, "`git log -p -- " + path + "` tells who did it and when")
        added = {after for how, _, after in changes if how == "A"}
        if len(added) > 1:
            what = f"{path} was removed and made again: its times and machine are those of another run"
            report.warn("record-remade", path, what, "`git log -p -- " + path + "`")


def _completed(root: Path, before: str, after: str) -> bool:
    """Whether the second version has the parents that the first one lacked, and nothing else of the run itself."""
    try:
        old, new = (json.loads(_git(root, "cat-file", "blob", blob)) for blob in (before, after))
        return None in old["parents"].values() and all(old[name] == new[name] for name in CORE)
    except (ValueError, KeyError, AttributeError):
        return False


def check_committed(root: Path, code: tuple[str, ...], report: Report) -> None:
    """The working tree's code, dvc.lock, records and .dvc files of what was adopted are those of the commit."""
    report.commit = _git(root, "rev-parse", "HEAD").strip() or None
    if report.commit is None:
        return report.error("no-commit", ".", "git cannot tell the commit", "run it in a git checkout with a commit")
    for paths, kind, what, remedy in (
        (code, "dirty", "differs from the commit", "commit it, or `git checkout -- ` it"),
        (
            ("dvc.lock", RECORDS, "checkpoints/*.dvc"),
            "uncommitted",
            "is not what is committed",
            "`git diff`, then commit it or check it out",
        ),
    ):
        changed = _git(root, "status", "--porcelain", "-z", "--no-renames", "--untracked-files=all", "--", *paths)
        for entry in filter(None, changed.split("\0")):
            path, state = entry[3:], entry[:2].strip()
            if state == "??" and kind == "uncommitted":
                report.error(kind, path, f"{path} is not committed", f"`git add {path}`, then commit it")
            else:
                report.error(kind, path, f"{path} {what} ({state})", remedy)


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), "--no-optional-locks", *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout
