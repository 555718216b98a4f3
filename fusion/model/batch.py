"""Encoded samples and batches of them: what crosses from the data loader to the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

IMAGE_MARKER = -200
LATENT_MARKER = -300
IGNORED = -100

# Small tensors of a batch that the sequence layout is computed from; they stay on the host as well.
_LAYOUT_KEYS = ("input_ids", "labels", "lengths", "question_ends", "instruct_ids", "image_index")


@dataclass(frozen=True)
class EncodedSample:
    """One sample as numbers.

    Attributes:
        input_ids: int64 [n], token ids with the markers -200 (image) and -300 (latents).
        labels: int64 [n], the token id where supervised (answers and the end-of-turn token after them), else -100.
        question_ends: int64 [turns], index in input_ids of the last token before each answer.
        instruct_ids: int64 [T], the instruction that guides the tower; the single id 0 for a text-only sample.
        pixels: uint8 [5, 3, S, S], four tiles and the thumbnail; None for a text-only sample.
    """

    input_ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    question_ends: npt.NDArray[np.int64]
    instruct_ids: npt.NDArray[np.int64]
    pixels: npt.NDArray[np.uint8] | None

    @property
    def num_text_tokens(self) -> int:
        """Tokens that are not markers."""
        return int((self.input_ids >= 0).sum())

    def sequence_length(self, num_patches: int, num_latents: int) -> int:
        """Positions after the markers are replaced: text + (V if there is an image) + q * turns."""
        image = 0 if self.pixels is None else num_patches
        return self.num_text_tokens + image + num_latents * len(self.question_ends)


class FusionBatch(dict[str, Tensor]):
    """A right-padded batch; a dict of tensors.

    Keys:
        input_ids: int64 [B, n], with markers; padded with the pad token.
        labels: int64 [B, n], -100 where unsupervised.
        lengths: int64 [B], real tokens of each row.
        question_ends: int64 [B, turns], -1 where a sample has fewer turns.
        instruct_ids: int64 [B, T], padded with 0.
        image_index: int64 [B], row of `pixels`, -1 for the blank picture of a text-only sample.
        pixels: uint8 [N, 5, 3, S, S], each picture once.

    The tensors that decide the layout are also kept where they were made, so that a batch on an accelerator is laid
    out without waiting for it.
    """

    def __init__(self, tensors: Mapping[str, Tensor], host: Mapping[str, Tensor] | None = None) -> None:
        super().__init__(tensors)
        self.host: dict[str, Tensor] = dict(host) if host is not None else {key: self[key] for key in _LAYOUT_KEYS}

    def __reduce__(self) -> tuple[type[FusionBatch], tuple[dict[str, Tensor], dict[str, Tensor]]]:
        return (FusionBatch, (dict(self), self.host))

    def to(self, device: torch.device | str | int, non_blocking: bool = False) -> FusionBatch:
        """A copy with every tensor on `device`; dtypes stay."""
        moved = {key: value.to(device, non_blocking=non_blocking) for key, value in self.items()}
        return FusionBatch(moved, self.host)

    def pin_memory(self, *args: Any) -> FusionBatch:
        """A copy in page-locked memory."""
        return FusionBatch({key: value.pin_memory() for key, value in self.items()}, self.host)

    @property
    def size(self) -> int:
        """Samples in the batch, B."""
        return self["input_ids"].shape[0]

    @property
    def supervised(self) -> Tensor:
        """int64 [B]: supervised tokens of each sample, on the host."""
        inside = torch.arange(self.host["labels"].shape[1]) < self.host["lengths"].unsqueeze(1)
        return ((self.host["labels"] != IGNORED) & inside)[:, 1:].sum(1)


def _pad(rows: Sequence[npt.NDArray[np.int64]], value: int) -> Tensor:
    length = max((len(row) for row in rows), default=0)
    padded = np.full((len(rows), length), value, dtype=np.int64)
    for index, row in enumerate(rows):
        padded[index, : len(row)] = row
    return torch.from_numpy(padded)


def _stack(pictures: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """uint8 [N, 5, 3, S, S]; without a copy where the pictures are rows of one array, in their order from its first."""
    whole = pictures[0].base
    if isinstance(whole, np.ndarray) and whole.shape[1:] == pictures[0].shape and len(pictures) <= len(whole):
        rows = whole[: len(pictures)]
        if all(_same_memory(row, picture) for row, picture in zip(rows, pictures, strict=True)):
            return rows
    return np.stack(pictures)


def _same_memory(first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]) -> bool:
    return bool(first.ctypes.data == second.ctypes.data and first.strides == second.strides)


def collate(samples: Sequence[EncodedSample], pad_token_id: int, image_size: int) -> FusionBatch:
    """Pad and stack samples. Samples that hold the same pixel array (the same object) share one picture.

    Args:
        samples: at least one.
        pad_token_id: fills input_ids.
        image_size: S, needed when no sample has a picture.

    Raises:
        ValueError: no samples, or pixels that are not uint8 [5, 3, S, S].
    """
    if not samples:
        raise ValueError("a batch needs at least one sample")
    pictures: dict[int, npt.NDArray[np.uint8]] = {}
    image_index = np.full(len(samples), -1, dtype=np.int64)
    rows: dict[int, int] = {}
    shape = (5, 3, image_size, image_size)
    for index, sample in enumerate(samples):
        if sample.pixels is None:
            continue
        if sample.pixels.shape != shape or sample.pixels.dtype != np.uint8:
            raise ValueError(f"pixels: expected uint8 {shape}, got {sample.pixels.dtype} {sample.pixels.shape}")
        key = id(sample.pixels)
        image_index[index] = rows.setdefault(key, len(rows))
        pictures[key] = sample.pixels
    stacked = _stack(list(pictures.values())) if pictures else np.empty((0, *shape), dtype=np.uint8)
    return FusionBatch(
        {
            "input_ids": _pad([sample.input_ids for sample in samples], pad_token_id),
            "labels": _pad([sample.labels for sample in samples], IGNORED),
            "lengths": torch.tensor([len(sample.input_ids) for sample in samples], dtype=torch.int64),
            "question_ends": _pad([sample.question_ends for sample in samples], -1),
            "instruct_ids": _pad([sample.instruct_ids for sample in samples], 0),
            "image_index": torch.from_numpy(image_index),
            "pixels": torch.from_numpy(stacked),
        }
    )
