"""The stream of thumbnails and instructions: how one packed tensor divides into rows.

Source: design heading "Text-guided unified vision encoding".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

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
        row_patches: V; num_patches: R * V.
        num_text: positions of real text.
        padding: positions of text padding at the end. They count in the mean of the uniform rows and nowhere else; 0
            unless `FusionConfig.count_text_padding`.
    """

    patches: Spans
    text: Spans
    keys: Spans
    row: Tensor
    counts: Tensor
    row_patches: int
    num_patches: int
    num_text: int
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
            row_patches=num_patches,
            num_patches=num_patches * len(text),
            num_text=sum(text),
            padding=sum(padding),
        )

    def to(self, device: torch.device) -> GuidedRows:
        """The same rows on another device."""
        return replace(
            self,
            patches=self.patches.to(device),
            text=self.text.to(device),
            keys=self.keys.to(device),
            row=self.row.to(device, non_blocking=True),
            counts=self.counts.to(device, non_blocking=True),
        )

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[R * V + n, d] -> patches [R * V, d] and text [n, d]."""
        patches, text = x.split([self.num_patches, self.num_text + self.padding])
        return patches, text

    @torch.compiler.disable  # A compiler would make new code for every number of rows.
    def in_rows(self, patches: Tensor, text: Tensor) -> Tensor:
        """Patches [R * V, d] and text [n, d] row by row, without padding: [sum of V + T_r, d]."""
        if self.num_text == 0:
            return patches
        rows = zip(patches.split(self.patches.lengths), text.split([*self.text.lengths, self.padding]), strict=False)
        return torch.cat([part for row in rows for part in row])

    def mean(self, patches: Tensor, text: Tensor) -> Tensor:
        """Mean of each row, text padding included where there is any: [R * V, d], [n, d] -> [R, d]."""
        sums = patches.view(self.counts.shape[0], self.row_patches, patches.shape[1]).sum(1, dtype=torch.float32)
        return (sums.index_add(0, self.row, text.float()) / self.counts).to(patches.dtype)
