"""Keys and values of the decoder in memory with room for what comes: a new token is written, nothing is copied."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer


class RoomyLayer(DynamicLayer):
    """Keys and values of one decoder layer, [B, heads, length, head width], as views of larger buffers.

    Transformers' own growing layer copies everything at each token; its static layer has attention read all the room,
    empty or not.
    """

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room
        self._buffers: tuple[Tensor, Tensor] | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Forget any earlier content."""
        super().lazy_initialization(key_states, value_states)
        self._buffers = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, heads, n, head width]; returns all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        old = self.get_seq_length()
        new = old + key_states.shape[-2]
        keys, values = self._with_room(key_states, value_states, old, new)
        keys[:, :, old:new] = key_states
        values[:, :, old:new] = value_states
        self.keys, self.values = keys[:, :, :new], values[:, :, :new]
        return self.keys, self.values

    def _with_room(self, key_states: Tensor, value_states: Tensor, old: int, new: int) -> tuple[Tensor, Tensor]:
        buffers = self._buffers
        # The base class selects, repeats and reorders rows by replacing the tensors: then the buffers are stale.
        held = self.keys
        fits = buffers is not None and buffers[0].shape[2] >= new
        if buffers is not None and held is not None and fits and held.data_ptr() == buffers[0].data_ptr():
            return buffers
        # Grown by a quarter at least: in a long conversation every entry is copied a few times, not once a turn.
        size = new + (max(self._room, new // 4) if old else self._room)
        keys = key_states.new_empty(*key_states.shape[:2], size, key_states.shape[3])
        values = value_states.new_empty(*value_states.shape[:2], size, value_states.shape[3])
        if held is not None and self.values is not None and old:
            keys[:, :, :old] = held
            values[:, :, :old] = self.values
        self._buffers = (keys, values)
        return keys, values


def roomy_cache(num_layers: int, room: int) -> Cache:
    """An empty cache that takes `room` further positions after a prefill without copying."""
    return Cache(layers=[RoomyLayer(room) for _ in range(num_layers)])
