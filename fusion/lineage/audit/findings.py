"""What an audit finds: one line each, with what to do about it; and the report of them all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, order=True)
class Finding:
    """`kind` is a word for machines, `where` a path or stage, `what` a sentence, `remedy` what a person can do."""

    severity: Severity
    kind: str
    where: str
    what: str
    remedy: str


@dataclass(frozen=True, order=True)
class Artifact:
    """An output of a stage. `sha256` and `record`: of the run that made it, None where no record fits.

    `tree` and `cache`: same, changed, missing, or unknown without a record; `tree` is None where it was not looked at.
    """

    path: str
    stage: str
    sha256: str | None
    record: str | None
    tree: str | None
    cache: str


@dataclass
class Report:
    """The findings, and what was looked at: `counts` of artifacts, records, objects, bytes hashed."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    commit: str | None = None
    damaged_objects: set[str] = field(default_factory=set)
    """MD5 of cache objects whose content is not what their name says."""
    artifacts: list[Artifact] = field(default_factory=list)
    """Each output that dvc.lock names."""

    def error(self, kind: str, where: str, what: str, remedy: str) -> None:
        """Something is not as it is said to be."""
        self.findings.append(Finding("error", kind, where, what, remedy))

    def warn(self, kind: str, where: str, what: str, remedy: str) -> None:
        """Something that a person should look at."""
        self.findings.append(Finding("warning", kind, where, what, remedy))

    def add(self, findings: Iterable[Finding]) -> None:
        """Findings of somebody else."""
        self.findings += findings

    def count(self, name: str, number: int = 1) -> None:
        """Adds to a count."""
        self.counts[name] = self.counts.get(name, 0) + number

    @property
    def sorted(self) -> list[Finding]:
        """Errors first; each once."""
        return sorted(set(self.findings))

    @property
    def errors(self) -> list[Finding]:
        """Those that make the exit code 1."""
        return [finding for finding in self.sorted if finding.severity == "error"]

    @property
    def document(self) -> dict[str, Any]:
        """For machines."""
        return {
            "format": 2,
            "commit": self.commit,
            "passed": not self.errors,
            "counts": dict(sorted(self.counts.items())),
            "findings": [asdict(finding) for finding in self.sorted],
            "damaged_objects": sorted(self.damaged_objects),
            "artifacts": [asdict(artifact) for artifact in self.artifacts],
        }
