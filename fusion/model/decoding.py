"""Running the decoder piece by piece: a prompt, a later turn of a conversation, or one new token.

Rows are right-padded within a piece. Padding stays in the cache as a gap that a mask hides, and each row counts its own
positions, so a row never depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from fusion.model.backbone import FusionModel
from fusion.model.interaction import QuestionGrid
from fusion.model.kv_cache import roomy_cache

# Position of a slot that holds padding: later than every query.
_NEVER = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Segment:
    """A piece of prompt, ready for the decoder. Positions below count within the piece, in one axis (row * L + i).

    Attributes:
        embeddings: [B, L, D], right-padded.
        lengths: real positions of each row.
        context: windows of every picture, [I, q, w * w, D]; None without interaction layers.
        question_positions: int64 [Q], last token before each answer.
        latent_positions: int64 [Q, q].
        question_grid: the questions sorted by picture, or None when question i belongs to picture i for every i.
    """

    embeddings: Tensor
    lengths: list[int]
    context: Tensor | None
    question_positions: Tensor
    latent_positions: Tensor
    question_grid: QuestionGrid | None


class DecoderState:
    """What has been decoded so far: keys and values, and the position of each row.

    Args:
        backbone: the model that the state belongs to.
        room: positions that will follow the first piece.
    """

    def __init__(self, backbone: FusionModel, room: int) -> None:
        self.backbone = backbone
        self.cache: Cache = roomy_cache(len(backbone.layers), room)
        self.lengths: list[int] = []
        self._next: Tensor | None = None  # int64 [B, 1], position of each row's next token
        self._slots: Tensor | None = None  # int64 [B, K], position of each entry of the cache; None = 0, 1, 2, ...

    @property
    def filled(self) -> int:
        """Entries of the cache, gaps included."""
        return int(self.cache.get_seq_length())

    def extend(self, segment: Segment) -> Tensor:
        """Run a prompt or a later turn.

        Returns:
            hidden states of the last real position of each row before the final norm, [B, D].

        Raises:
            ValueError: a piece after the first one has another number of rows, or more than one row.
        """
        hidden = segment.embeddings
        rows, length = hidden.shape[:2]
        if self.filled and (rows != 1 or len(self.lengths) != 1):
            raise ValueError(f"a later piece continues one row, not {rows} rows after {len(self.lengths)}")
        start = self.filled
        lengths = torch.tensor(segment.lengths, device=hidden.device).unsqueeze(1)
        offsets = torch.arange(length, device=hidden.device).unsqueeze(0)
        positions = start + offsets
        if min(segment.lengths) < length:
            self._slots = torch.where(offsets < lengths, offsets, _NEVER)
        # Right-padded and causal from the start: no position sees padding, whatever the mask.
        mask = self._mask(positions, start + length) if start else None
        hidden = self._run(hidden, positions, mask, segment)
        self.lengths = [start + count for count in segment.lengths]
        self._next = start + lengths
        return hidden.gather(1, (lengths - 1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])).squeeze(1)

    def step(self, tokens: Tensor) -> Tensor:
        """One token a row, ids int64 [B, 1]; hidden states before the final norm, [B, D]."""
        assert self._next is not None
        positions = self._next
        if self._slots is not None:
            self._slots = torch.cat([self._slots, positions], dim=1)
        end = self.filled + 1
        free = self._slots is None and not self._window_is_full(end)
        hidden = self._run(self.backbone.embed_tokens(tokens), positions, None if free else self._mask(positions, end))
        self._next = positions + 1
        self.lengths = [count + 1 for count in self.lengths]
        return hidden.squeeze(1)

    def repeat(self, copies: int) -> None:
        """Repeat each row, as beams or samples of one prompt."""
        self.cache.batch_repeat_interleave(copies)
        self.lengths = [count for count in self.lengths for _ in range(copies)]
        if self._next is not None:
            self._next = self._next.repeat_interleave(copies, dim=0)
        if self._slots is not None:
            self._slots = self._slots.repeat_interleave(copies, dim=0)

    def keep(self, rows: Tensor) -> None:
        """Go on with the rows of these indices alone, int64 [n]."""
        self.cache.batch_select_indices(rows)
        self.lengths = [self.lengths[row] for row in rows.tolist()]
        if self._next is not None:
            self._next = self._next[rows]
        if self._slots is not None:
            self._slots = self._slots[rows]

    def rewind(self, length: int) -> None:
        """Forget everything after the first `length` positions of the only row."""
        if self.filled > length:
            self.cache.crop(length - self.filled)
        self.lengths = [length]
        self._next = None if self._next is None else torch.full_like(self._next[:1], length)

    def _run(self, hidden: Tensor, positions: Tensor, mask: Tensor | None, segment: Segment | None = None) -> Tensor:
        backbone = self.backbone
        rope = backbone.rotary_emb(hidden, position_ids=positions)
        for index in range(len(backbone.layers)):
            hidden = backbone._layer(index, hidden, mask, positions, rope, self.cache)
            number = None if segment is None else backbone.interaction_at.get(index)
            if segment is not None and number is not None:
                hidden = backbone.vision_sampler_layers[number](
                    hidden.flatten(0, 1),
                    segment.context,
                    segment.question_positions,
                    segment.latent_positions,
                    segment.question_grid,
                ).view_as(hidden)
        return hidden

    @property
    def _text_config(self) -> PreTrainedConfig:
        config: PreTrainedConfig = self.backbone.config.text_config
        return config

    def _window_is_full(self, length: int) -> bool:
        window = getattr(self._text_config, "sliding_window", None)
        return window is not None and length > window

    def _mask(self, positions: Tensor, end: int) -> Tensor:
        """What queries at `positions` [B or 1, n] see: bool [B or 1, 1, n, end]."""
        slots = self._slots
        if slots is None:
            slots = torch.arange(end, device=positions.device).unsqueeze(0)
        query, key = positions[:, None, :, None], slots[:, None, None, :]
        seen = key <= query
        window = getattr(self._text_config, "sliding_window", None)
        return seen if window is None else seen & (key > query - window)


@dataclass(frozen=True)
class Prompt:
    """What a generation starts with.

    Attributes:
        lengths: positions of each row once markers are replaced, without what `state` holds.
        segment: encodes pictures and text; called once.
        state: of a conversation that goes on; None = a new one.
    """

    lengths: list[int]
    segment: Callable[[], Segment]
    state: DecoderState | None = None


@dataclass(frozen=True)
class DecoderStep:
    """One call of the decoder within a generation: the prompt first, then one token a row.

    Attributes:
        state: changed by the step.
        prompt: to be read, or None.
        copies: rows that each row of the prompt becomes after it was read (beams, samples).
        tokens: int64 [B, 1], read when there is no prompt.
    """

    state: DecoderState
    prompt: Prompt | None
    copies: int
    tokens: Tensor


def check_positions(config: PreTrainedConfig, starts: list[int], ends: list[int], done: int = 0) -> None:
    """Refuse what the decoder's rotary embedding cannot hold.

    "longrope" turns all keys by other angles once a sequence is longer than `original_max_position_embeddings`; keys
    that are in the cache already would not fit the later queries. So a generation stays on one side of that length,
    together with everything that shares its batch or cache.

    Args:
        config: of the language model.
        starts: positions of each row after the prompt.
        ends: positions of each row when the last token that may come has been read.
        done: positions of the only row before this prompt (a conversation goes on).

    Raises:
        ValueError: the rows are too long, or cross the length at which angles change.
    """
    limit = getattr(config, "max_position_embeddings", None)
    if limit is not None and max(ends) > limit:
        raise ValueError(
            f"max_new_tokens: prompt and answer take up to {max(ends)} positions, of which {max(starts)} are the "
            f"prompt's; the language model has {limit}. Ask for fewer tokens or shorten the prompt"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") != "longrope":
        return
    turn = int(rope["original_max_position_embeddings"])
    long = [length > turn for length in starts]
    if any(long) and (not all(long) or 0 < done <= turn):
        raise ValueError(
            f"input_ids: prompts of {min(done or min(starts), min(starts))} and {max(starts)} positions cannot share a "
            f"batch or a conversation: beyond {turn} the rotary embedding (longrope) is another. Ask separately"
        )
    if not any(long) and max(ends) > turn:
        raise ValueError(
            f"max_new_tokens: {max(starts)} positions of prompt and the answer pass {turn} positions ({max(ends)}), "
            f"where the rotary embedding (longrope) changes. Ask for at most {turn - max(starts) + 1} tokens"
        )
