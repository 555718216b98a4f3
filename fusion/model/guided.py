"""The stream of thumbnails and instructions: how one packed tensor divides into rows.

Source: design heading "Text-guided unified vision encoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fusion.model.packing import Spans


@dataclass(frozen=True)
class GuidedRows:
    """How a guided stream [R * V + n, d] divides into R rows of V patches and T_r tokens of text.

    First the patches of all rows, then the text of all rows, then text padding where it counts (see `padding`).

    Attributes:
        patches: Spans of R parts of V positions.
        text: Spans of R parts of T_r positions, real text alone.
        keys: Spans of R parts of V + T_r positions.
        row: int64 [n], row of each position of text, padding included.
        counts: float32 [R, 1], positions of each row, padding included.
        padding: positions of text padding at the end. They count in the mean of the uniform rows and nowhere else; 0
            unless `FusionConfig.count_text_padding`.
    """

    patches: Spans
    text: Spans
    keys: Spans
    row: Tensor
    counts: Tensor
    padding: int

    @classmethod
    def of(cls, num_patches: int, text: Sequence[int], padding: Sequence[int] | None = None) -> GuidedRows:
        """Rows with so many tokens of text, and of padding."""
        padding = [0] * len(text) if padding is None else padding
        rows = torch.arange(len(text))
        counts = [torch.tensor(list(part), dtype=torch.int64) for part in (text, padding)]
        return cls(
            patches=Spans.of([num_patches] * len(text)),
            text=Spans.of(text),
            keys=Spans.of([num_patches + length for length in text]),
            row=torch.cat([rows.repeat_interleave(count) for count in counts]),
            counts=(num_patches + counts[0] + counts[1]).float().unsqueeze(1),
            padding=sum(padding),
        )

    def to(self, device: torch.device) -> GuidedRows:
        """The same rows on another device."""
        return GuidedRows(
            self.patches.to(device),
            self.text.to(device),
            self.keys.to(device),
            self.row.to(device, non_blocking=True),
            self.counts.to(device, non_blocking=True),
            self.padding,
        )

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[R * V + n, d] -> patches [R * V, d] and text [n, d]."""
        patches = sum(self.patches.lengths)
        first, second = x.split([patches, x.shape[0] - patches])
        return first, second

    def in_rows(self, patches: Tensor, text: Tensor) -> Tensor:
        """Patches [R * V, d] and text [n, d] row by row, without padding: [sum of V + T_r, d]."""
        if not any(self.text.lengths):
            return patches
        rows = zip(patches.split(self.patches.lengths), text.split([*self.text.lengths, self.padding]), strict=False)
        return torch.cat([part for row in rows for part in row])

    def mean(self, patches: Tensor, text: Tensor) -> Tensor:
        """Mean of each row, text padding included where there is any: [R * V, d], [n, d] -> [R, d]."""
        rows = len(self.patches.lengths)
        sums = patches.view(rows, patches.shape[0] // max(rows, 1), patches.shape[1]).sum(1, dtype=torch.float32)
        return (sums.index_add(0, self.row, text.float()) / self.counts).to(patches.dtype)
