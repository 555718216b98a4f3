"""Prompts as keyword tensors, in the shape that the Transformers library passes them, made into a batch.

Rows may be padded on either side; what can be derived may be left out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fusion.model.batch import IGNORED, IMAGE_MARKER, LATENT_MARKER, FusionBatch
from fusion.model.configuration import FusionConfig


def prompt_batch(
    config: FusionConfig,
    input_ids: Tensor,
    *,
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
    lengths: Tensor | None = None,
    question_ends: Tensor | None = None,
    instruct_ids: Tensor | None = None,
    image_index: Tensor | None = None,
    pixels: Tensor | None = None,
) -> FusionBatch:
    """A right-padded batch from separate tensors, as tools of the Transformers library hand them over.

    Args:
        config: of the model.
        input_ids: int64 [B, n], with the markers -200 (image) and -300 (latents), padded on either side.
        attention_mask: [B, n], 1 for real tokens. None: from `lengths`; without these nothing may be padded.
        labels: int64 [B, n], padded like input_ids, -100 where unsupervised. None: nothing is supervised.
        lengths: int64 [B], real tokens of right-padded rows.
        question_ends: int64 [B, turns], index in the row of input_ids of the last token before each answer, -1 where a
            row has fewer turns. None: the last token of a row; then every row must be a single question.
        instruct_ids: int64 [B, T], padded with 0. May be left out when there is no picture, or when the model's tower
            sees no text.
        image_index: int64 [B], row of `pixels` or -1. None: rows with an image marker have one picture each, in order.
        pixels: uint8 [N, 5, 3, S, S]; None when there is no picture.

    Returns:
        the batch on the device of `input_ids`.

    Raises:
        ValueError: the tensors do not fit together; the message begins with the argument's name.
    """
    if input_ids.ndim != 2 or input_ids.dtype != torch.int64 or not input_ids.numel():
        raise ValueError(f"input_ids: expected int64 [B, n], got {input_ids.dtype} {list(input_ids.shape)}")
    host_ids = input_ids.cpu()
    size, width = host_ids.shape
    starts, counts = _real_parts(config, host_ids, attention_mask, lengths)
    index = starts[:, None] + torch.arange(int(counts.max()))
    inside = torch.arange(int(counts.max())) < counts[:, None]

    def aligned(rows: Tensor, padding: int) -> Tensor:
        return rows.gather(1, index.clamp(max=width - 1)).where(inside, padding)

    ids = aligned(host_ids, config.pad_token_id or 0)
    if labels is not None and labels.shape != input_ids.shape:
        raise ValueError(f"labels: have shape {list(labels.shape)}, input_ids {list(input_ids.shape)}")

    has_picture = (ids == IMAGE_MARKER).any(1)
    if question_ends is None:
        turns = (ids == LATENT_MARKER).sum(1)
        if bool((turns != 1).any()):
            row = int((turns != 1).nonzero()[0])
            raise ValueError(f"question_ends: is needed, as sample {row} has {int(turns[row])} questions, not one")
        ends = (counts - 1).unsqueeze(1)
    else:
        given = question_ends.cpu()
        ends = torch.where(given >= 0, given - starts[:, None], -1)
        if bool((ends >= counts[:, None]).any()) or bool(((ends < 0) & (given >= 0)).any()):
            raise ValueError("question_ends: an index lies in the padding of its row of input_ids")
    if image_index is None:
        order = has_picture.cumsum(0) - 1
        image_index = torch.where(has_picture, order, -1)
    pictures = _pictures(config, pixels, input_ids.device)
    used = image_index.cpu()
    if used.shape != (size,) or bool(((used >= 0) != has_picture).any()) or int(used.max()) >= len(pictures):
        raise ValueError(
            f"image_index, pixels: {int(has_picture.sum())} of {size} samples have an image marker, which does not fit "
            f"image_index {used.tolist()} into {len(pictures)} pictures"
        )
    if instruct_ids is None:
        if config.text_guided and bool(has_picture.any()):
            raise ValueError("instruct_ids: is needed, as the questions guide the encoding of the pictures")
        instruct_ids = torch.zeros(size, 1, dtype=torch.int64)
    host = {
        "input_ids": ids,
        "labels": torch.full_like(ids, IGNORED) if labels is None else aligned(labels.cpu(), IGNORED),
        "lengths": counts,
        "question_ends": ends,
        "instruct_ids": instruct_ids.cpu(),
        "image_index": used,
    }
    tensors = {name: tensor.to(input_ids.device) for name, tensor in host.items()}
    return FusionBatch(tensors | {"pixels": pictures}, host)


def _real_parts(
    config: FusionConfig, ids: Tensor, attention_mask: Tensor | None, lengths: Tensor | None
) -> tuple[Tensor, Tensor]:
    """First index and number of the real tokens of each row, int64 [B] both."""
    size, width = ids.shape
    if attention_mask is not None:
        mask = attention_mask.cpu().bool()
        if mask.shape != ids.shape:
            raise ValueError(f"attention_mask: has shape {list(mask.shape)}, input_ids {list(ids.shape)}")
        counts = mask.sum(1)
        starts = mask.int().argmax(1)
        run = torch.arange(width) - starts[:, None]
        if bool((mask != ((run >= 0) & (run < counts[:, None]))).any()) or not bool(counts.all()):
            raise ValueError("attention_mask: the real tokens of each row must be one run of at least one token")
        return starts, counts
    if lengths is not None:
        counts = lengths.cpu().long()
        if counts.shape != (size,) or int(counts.min()) < 1 or int(counts.max()) > width:
            raise ValueError(f"lengths: expected [{size}] numbers from 1 to {width}, got {counts.tolist()}")
        return torch.zeros_like(counts), counts
    pad = config.pad_token_id
    if size > 1 and pad is not None and bool((ids[:, [0, -1]] == pad).any()):
        raise ValueError(
            f"attention_mask: is needed, as a row of input_ids begins or ends with the padding token {pad}; "
            "give 1 for real tokens"
        )
    return torch.zeros(size, dtype=torch.int64), torch.full((size,), width)


def _pictures(config: FusionConfig, pixels: Tensor | None, device: torch.device) -> Tensor:
    shape = (5, 3, config.image_size, config.image_size)
    if pixels is None:
        return torch.empty(0, *shape, dtype=torch.uint8, device=device)
    if pixels.shape[1:] != shape or pixels.dtype != torch.uint8:
        raise ValueError(f"pixels: expected uint8 [N, {', '.join(map(str, shape))}], got {pixels.dtype} {pixels.shape}")
    return pixels.to(device)
