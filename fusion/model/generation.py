"""Greedy decoding of a batch from one prefill.

Prompts are right-padded for the prefill (causal attention needs no mask then). The padding stays in the cache as a gap
that a mask hides, and every row counts its own positions, so rows do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

NextLogits = Callable[[Tensor, Tensor, Tensor, DynamicCache], Tensor]


@dataclass
class DecodeState:
    """Cache after the prefill.

    Attributes:
        cache: keys and values of the prompts, padding included.
        lengths: int64 [B], real length of each prompt.
        width: length of the longest prompt.
    """

    cache: DynamicCache
    lengths: Tensor
    width: int


def greedy_decode(
    next_logits: NextLogits, logits: Tensor, state: DecodeState, max_new_tokens: int, stop_ids: tuple[int, ...]
) -> list[list[int]]:
    """Continue every row with its most likely token until a stop token or the limit.

    Args:
        next_logits: (ids [B, 1], positions [B, 1], mask bool [B, 1, 1, keys], cache) -> logits [B, vocabulary].
        logits: of the prompts' last positions, [B, vocabulary].
        state: after the prefill.
        max_new_tokens: limit of each row.
        stop_ids: tokens that end a row.

    Returns:
        new ids of each row, without the stop token.
    """
    device = logits.device
    size = logits.shape[0]
    answers: list[list[int]] = [[] for _ in range(size)]
    rows = list(range(size))
    done = [False] * size
    lengths = state.lengths
    seen = torch.arange(state.width, device=device) < lengths.unsqueeze(1)
    for count in range(max_new_tokens):
        tokens = logits.argmax(-1)
        for index, token in enumerate(tokens.tolist()):
            done[index] = done[index] or token in stop_ids
            if not done[index]:
                answers[rows[index]].append(token)
        going = [index for index, finished in enumerate(done) if not finished]
        if not going or count + 1 == max_new_tokens:
            break
        if 2 * len(going) <= len(rows):
            # Finished rows are carried along until they are half of the batch: cutting the cache copies it.
            keep = torch.tensor(going, device=device)
            state.cache.batch_select_indices(keep)
            tokens, lengths, seen = tokens[keep], lengths[keep], seen[keep]
            rows, done = [rows[index] for index in going], [False] * len(going)
        seen = torch.cat([seen, seen.new_ones(len(rows), 1)], dim=1)
        logits = next_logits(tokens[:, None], (lengths + count)[:, None], seen[:, None, None], state.cache)
    return answers
