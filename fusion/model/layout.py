"""Where everything goes once markers are replaced: index tensors, computed once per batch on the host.

One gather builds the input of the decoder from a table of rows: a zero row, the text tokens, the image features and the
initial latents, in this order. Positions of all samples lie in one axis (row * L + position).

Source: design heading "Context-aware recursive alignment decoding".
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fusion.model.batch import IGNORED, FusionBatch

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SequenceLayout:
    """Index tensors of one batch for given V and q; Q questions, R thumbnail rows, I pictures.

    Attributes:
        length: L, positions of a row after the markers are replaced, right-padded.
        lengths: int64 [B], real positions of each row (on the host).
        text_ids: int64 [n], all text tokens of the batch.
        gather: int64 [B * L], row of the table for each position.
        question_positions: int64 [Q], last token before each answer.
        latent_positions: int64 [Q, q].
        image_of_question: int64 [Q] into the I pictures, or None when it counts 0, 1, 2, ..., I - 1.
        last_positions: int64 [B], last real position of each row.
        supervised_positions: int64 [n], positions whose next token is supervised.
        supervised_targets: int64 [n], those next tokens.
        supervised_samples: int64 [n], their rows; supervised_counts: int64 [B].
        instruct_ids: int64 [R, T], instructions of the thumbnail rows.
        row_image: int64 [R] into the pictures, or None when it counts 0, 1, 2, ..., N - 1.
        row_weights: int64 [R], samples that a row stands for.
        text_padded: whether a thumbnail row has padding among its instruction.
        num_blank: samples without a picture.
        blank_apart: the blank picture's image loss is taken from its tile (pictures and text-only samples are mixed).
    """

    length: int
    lengths: Tensor
    text_ids: Tensor
    gather: Tensor
    question_positions: Tensor
    latent_positions: Tensor
    image_of_question: Tensor | None
    last_positions: Tensor
    supervised_positions: Tensor
    supervised_targets: Tensor
    supervised_samples: Tensor
    supervised_counts: Tensor
    instruct_ids: Tensor
    row_image: Tensor | None
    row_weights: Tensor
    text_padded: bool
    num_blank: int
    blank_apart: bool

    def to(self, device: torch.device) -> SequenceLayout:
        """A copy with the index tensors on `device` (`lengths` stays on the host)."""
        if device.type == "cpu":
            return self
        names = [field.name for field in fields(self) if field.name != "lengths"]
        tensors = {name: value for name in names if isinstance(value := getattr(self, name), Tensor)}
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in tensors.items()}
        return replace(self, **moved)


def _unless_counting(index: Indices, count: int) -> Tensor | None:
    if len(index) == count and bool((index == np.arange(count)).all()):
        return None
    return torch.from_numpy(index)


def build_layout(batch: FusionBatch, num_patches: int, num_latents: int) -> SequenceLayout:
    """Lay out a batch.

    The first marker of a sample with a picture takes its V image features, every later one q latents; a sample without
    takes q zero vectors at each. So every question has its latents before it.

    Args:
        batch: see FusionBatch.
        num_patches: V.
        num_latents: q.

    Raises:
        ValueError: a sample's markers and question ends do not match.
    """
    host = {name: tensor.cpu().numpy() for name, tensor in batch.host.items()}
    ids, labels, ends, image_index = host["input_ids"], host["labels"], host["question_ends"], host["image_index"]
    size, width = ids.shape
    valid = np.arange(width) < host["lengths"][:, None]
    has_image = image_index >= 0
    marker = valid & (ids < 0)
    first = marker & (np.cumsum(marker, axis=1) == 1) & has_image[:, None]
    latent = marker & ~first
    questions = (ends >= 0).sum(1)
    wrong = np.flatnonzero((latent.sum(1) != questions) | (questions == 0) | (first.sum(1) != has_image))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"input_ids: sample {row} has {int(marker[row].sum())} markers, which does not fit its {questions[row]} "
            f"questions {'and' if has_image[row] else 'without'} a picture"
        )

    taken = np.where(first, num_patches, np.where(latent, num_latents, valid)).astype(np.int64)
    starts = np.cumsum(taken, axis=1) - taken
    lengths = taken.sum(1)
    length = int(lengths.max())
    starts += np.arange(size)[:, None] * length

    num_images = len(batch["pixels"])
    image_rows = np.flatnonzero(has_image)
    gather = np.zeros(size * length, dtype=np.int64)
    is_text = valid & ~marker
    num_text = int(is_text.sum())
    gather[starts[is_text]] = 1 + np.arange(num_text)
    image_positions = starts[first][:, None] + np.arange(num_patches)
    gather[image_positions] = 1 + num_text + np.arange(image_positions.size).reshape(image_positions.shape)
    latent_positions = starts[latent][:, None] + np.arange(num_latents)
    picture = np.where(has_image, image_index, num_images)
    image_of_question = np.repeat(picture, questions)
    base = 1 + num_text + image_positions.size
    from_picture = np.repeat(has_image, questions)[:, None]
    latent_rows = base + image_of_question[:, None] * num_latents + np.arange(num_latents)
    gather[latent_positions] = np.where(from_picture, latent_rows, 0)

    question_rows, turns = np.nonzero(ends >= 0)
    supervised = valid & (labels != IGNORED)
    supervised[:, 0] = False

    num_blank = size - len(image_rows)
    if len(image_rows):
        row_image, row_weights = image_index[image_rows], np.ones(len(image_rows), dtype=np.int64)
        instruct = host["instruct_ids"][image_rows]
        instruct = instruct[:, : max(int((instruct != 0).cumsum(1).argmax(1).max()) + 1, 1)]
    else:
        # The tower always runs both of its streams: ranks of a sharded model must call the same layers.
        row_image, row_weights = np.zeros(1, dtype=np.int64), np.array([size])
        instruct = np.zeros((1, 1), dtype=np.int64)
    return SequenceLayout(
        length=length,
        lengths=torch.from_numpy(lengths),
        text_ids=torch.from_numpy(ids[is_text]),
        gather=torch.from_numpy(gather),
        question_positions=torch.from_numpy(starts[question_rows, ends[question_rows, turns]]),
        latent_positions=torch.from_numpy(latent_positions),
        image_of_question=_unless_counting(image_of_question, num_images + (num_blank > 0)),
        last_positions=torch.from_numpy(np.arange(size) * length + lengths - 1),
        supervised_positions=torch.from_numpy(starts[supervised] - 1),
        supervised_targets=torch.from_numpy(labels[supervised]),
        supervised_samples=torch.from_numpy(np.nonzero(supervised)[0]),
        supervised_counts=torch.from_numpy(supervised.sum(1)),
        instruct_ids=torch.from_numpy(np.ascontiguousarray(instruct)),
        row_image=_unless_counting(row_image, max(num_images, 1)),
        row_weights=torch.from_numpy(row_weights),
        text_padded=bool((instruct == 0).any()),
        num_blank=num_blank,
        blank_apart=num_blank > 0 and len(image_rows) > 0,
    )
