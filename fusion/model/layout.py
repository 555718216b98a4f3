"""Where everything goes once markers are replaced: index tensors, computed once per batch on the host.

One gather builds the input of the decoder from a table of rows: a zero row, the text tokens, the image features and the
initial latents, in this order. Positions of all samples lie in one axis: one sample behind the other (packed, as in
training), or right-padded to the longest (row * L + position, as a cache of keys needs them).

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
from fusion.model.guided import GuidedRows
from fusion.model.interaction import QuestionGrid
from fusion.model.packing import Spans

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SequenceLayout:
    """Index tensors of one batch for given V and q; Q questions, R thumbnail rows, I pictures.

    Attributes:
        spans: the samples in one packed row; None when they are rows of their own, right-padded.
        length: L, positions of a row after the markers are replaced. A packed batch is one row.
        lengths: int64 [B], real positions of each sample (on the host).
        positions: int64 [1, L], position of each place of a row in its sample.
        text_ids: int64 [n], all text tokens of the batch.
        gather: int64 [rows * L], row of the table for each position.
        question_positions: int64 [Q], last token before each answer.
        latent_positions: int64 [Q, q].
        question_grid: the questions sorted by picture, or None when question i belongs to picture i for every i.
        last_positions: int64 [B], last real position of each sample.
        supervised_positions: int64 [n], positions whose next token is supervised.
        supervised_targets: int64 [n], those next tokens.
        supervised_samples: int64 [n], their samples; supervised_counts: int64 [B].
        instruct_ids: int64 [n], instructions of the thumbnail rows, one behind the other, text padding (id 0) last.
        guided: how the thumbnail rows and these instructions make one stream.
        row_image: int64 [R] into the pictures, or None when it counts 0, 1, 2, ..., N - 1.
        num_blank: samples without a picture; they share one blank one.
    """

    spans: Spans | None
    length: int
    lengths: Tensor
    positions: Tensor
    text_ids: Tensor
    gather: Tensor
    question_positions: Tensor
    latent_positions: Tensor
    question_grid: QuestionGrid | None
    last_positions: Tensor
    supervised_positions: Tensor
    supervised_targets: Tensor
    supervised_samples: Tensor
    supervised_counts: Tensor
    instruct_ids: Tensor
    guided: GuidedRows
    row_image: Tensor | None
    num_blank: int

    def to(self, device: torch.device) -> SequenceLayout:
        """A copy with the index tensors on `device` (`lengths` stays on the host)."""
        if device.type == "cpu":
            return self
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) and field.name != "lengths":
                moved[field.name] = value.to(device, non_blocking=True)
            elif isinstance(value, Spans | GuidedRows | QuestionGrid):
                moved[field.name] = value.to(device)
        return replace(self, **moved)


def _unless_counting(index: Indices, count: int) -> Tensor | None:
    if len(index) == count and bool((index == np.arange(count)).all()):
        return None
    return torch.from_numpy(index)


def _question_grid(picture_of_question: Indices, pictures: int) -> QuestionGrid | None:
    if len(picture_of_question) == pictures and bool((picture_of_question == np.arange(pictures)).all()):
        return None
    counts = np.bincount(picture_of_question, minlength=pictures)
    places = int(counts.max())
    order = np.argsort(picture_of_question, kind="stable")
    within = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty_like(order)
    place[order] = picture_of_question[order] * places + within
    question = np.zeros(pictures * places, dtype=np.int64)
    question[place] = np.arange(len(place))
    return QuestionGrid(torch.from_numpy(question), torch.from_numpy(place))


def build_layout(
    batch: FusionBatch,
    num_patches: int,
    num_latents: int,
    *,
    image_tokens: int | None = None,
    packed: bool = False,
    count_text_padding: bool = False,
) -> SequenceLayout:
    """Lay out a batch.

    The first marker of a sample with a picture takes its V image features, every later one q latents; a sample without
    takes q zero vectors at each. So every question has its latents before it.

    Args:
        batch: see FusionBatch.
        num_patches: V.
        num_latents: q.
        image_tokens: tokens that an image marker becomes; None = V.
        packed: one row of all samples without padding, instead of a right-padded row a sample.
        count_text_padding: see FusionConfig.

    Raises:
        ValueError: a sample's markers and question ends do not match.
    """
    shown = num_patches if image_tokens is None else image_tokens
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

    taken = np.where(first, shown, np.where(latent, num_latents, valid)).astype(np.int64)
    starts = np.cumsum(taken, axis=1) - taken
    lengths = taken.sum(1)
    length = int(lengths.sum() if packed else lengths.max())
    first_positions = np.cumsum(lengths) - lengths if packed else np.arange(size) * length
    starts += first_positions[:, None]
    positions = np.arange(length)
    if packed:
        positions -= np.repeat(first_positions, lengths)

    num_images = len(batch["pixels"])
    image_rows = np.flatnonzero(has_image)
    gather = np.zeros(length if packed else size * length, dtype=np.int64)
    is_text = valid & ~marker
    num_text = int(is_text.sum())
    gather[starts[is_text]] = 1 + np.arange(num_text)
    image_positions = starts[first][:, None] + np.arange(shown)
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
    row_image = image_index[image_rows]
    instruct = host["instruct_ids"][image_rows]
    # Text has no positions in the tower, and id 0 is seen by nobody: it is left out wherever it stands.
    real = instruct != 0
    padding = (~real).sum(1) if count_text_padding else np.zeros(len(instruct), dtype=np.int64)
    instruct_ids = np.concatenate([instruct[real], np.zeros(int(padding.sum()), dtype=np.int64)])
    return SequenceLayout(
        spans=Spans.of(lengths.tolist()) if packed else None,
        length=length,
        lengths=torch.from_numpy(lengths),
        positions=torch.from_numpy(positions).unsqueeze(0),
        text_ids=torch.from_numpy(ids[is_text]),
        gather=torch.from_numpy(gather),
        question_positions=torch.from_numpy(starts[question_rows, ends[question_rows, turns]]),
        latent_positions=torch.from_numpy(latent_positions),
        question_grid=_question_grid(image_of_question, num_images + (num_blank > 0)),
        last_positions=torch.from_numpy(first_positions + lengths - 1),
        supervised_positions=torch.from_numpy(starts[supervised] - 1),
        supervised_targets=torch.from_numpy(labels[supervised]),
        supervised_samples=torch.from_numpy(np.nonzero(supervised)[0]),
        supervised_counts=torch.from_numpy(supervised.sum(1)),
        instruct_ids=torch.from_numpy(instruct_ids),
        guided=GuidedRows.of(num_patches, real.sum(1).tolist(), padding.tolist()),
        row_image=_unless_counting(row_image, num_images),
        num_blank=num_blank,
    )
