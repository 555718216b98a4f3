"""Messages of a conversation, and where a sample comes from."""

from dataclasses import dataclass
from typing import TypedDict

# "from" is a Python keyword, hence the functional form.
Message = TypedDict("Message", {"from": str, "value": str})
"""One message of a conversation in the published format; `from` is "human" or "gpt"."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Where a sample comes from: `row` is its 0-based position in the annotation file `file` of the source."""

    dataset: str
    source: str
    file: str
    row: int

    @property
    def sample_id(self) -> str:
        """`<dataset>/<source>/<row>`, the row padded to eight digits; one sample keeps it for ever."""
        return f"{self.dataset}/{self.source}/{self.row:08d}"
