"""Hashes again what a lineage tells of, as far as it is here: outputs, and the code and samples that were read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fusion.lineage.digests import ReadyHasher
from fusion.lineage.family import Family

SAME, CHANGED, ABSENT = "same", "CHANGED", "not here"


@dataclass(frozen=True)
class Verified:
    """`outputs` and `sources`: path -> same, CHANGED or not here. Sources that changed since are news, not damage."""

    outputs: dict[str, str]
    sources: dict[str, str]
    hashed_bytes: int

    @property
    def damaged(self) -> list[str]:
        """Outputs that are not what their record says."""
        return sorted(path for path, state in self.outputs.items() if state == CHANGED)

    @property
    def absent(self) -> list[str]:
        """Outputs that are not here."""
        return sorted(path for path, state in self.outputs.items() if state == ABSENT)

    @property
    def summary(self) -> str:
        """One line."""
        count = {state: list(self.outputs.values()).count(state) for state in (SAME, CHANGED, ABSENT)}
        since = sum(state == CHANGED for state in self.sources.values())
        code = f"; {since} source files or folders changed since" if since else "; sources as they were read"
        return (
            f"verified {self.hashed_bytes / 1e6:,.0f} MB: {count[SAME]} outputs as recorded, {count[CHANGED]} CHANGED, "
            f"{count[ABSENT]} not here{code}"
        )


def verify_family(family: Family, root: Path = Path(".")) -> Verified:
    """Compares all outputs and sources of a lineage with what lies below `root`."""
    outputs = {path: sha for m in family.members.values() for path, sha in m.record.outputs.items()}
    sources = {path: m.record.inputs[path] for m in family.members.values() for path in m.sources}
    hasher = ReadyHasher(root)
    hasher.prepare([*outputs, *sources], "verifying")

    def state(path: str, sha: str) -> str:
        if not hasher.exists(path):
            return ABSENT
        return SAME if hasher.sha256(path) == sha else CHANGED

    return Verified(
        {path: state(path, sha) for path, sha in outputs.items()},
        {path: state(path, sha) for path, sha in sources.items()},
        hasher.hashed_bytes,
    )
