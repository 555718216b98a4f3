"""The verdict over a column: five statuses, and that only one of them lets anything pass."""

from dataclasses import dataclass
from enum import StrEnum


class Status(StrEnum):
    """PASS alone passes; all others fail where the column is required."""

    PASS = "PASS"
    FAIL = "FAIL"
    NOT_RUN = "NOT_RUN"
    INVALID = "INVALID"
    INCOMPARABLE = "INCOMPARABLE"


@dataclass(frozen=True)
class Verdict:
    """One line of the gate's table. `against`: what the number is held to; `required`: whether the gate asks for it."""

    column: str
    status: Status
    required: bool
    reason: str
    score: str = ""
    against: str = ""

    @property
    def blocks(self) -> bool:
        """Whether nothing may be published because of it."""
        return self.required and self.status is not Status.PASS


def table(verdicts: list[Verdict]) -> str:
    """All of them, required ones first, for a terminal."""
    rows = [
        (v.column, "yes" if v.required else "", v.status, v.score, v.against, v.reason)
        for v in sorted(verdicts, key=lambda v: not v.required)
    ]
    head = ("column", "required", "status", "score", "held to", "why")
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head) - 1)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)), row[-1]]).rstrip()
        for row in (head, *rows)
    ]
    return "\n".join(lines)
