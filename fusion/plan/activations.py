"""Bytes that a micro-batch keeps for its backward pass, by part, with and without activation checkpointing."""

from __future__ import annotations

from dataclasses import dataclass

from fusion.model.configuration import FusionConfig
from fusion.plan.kept import Kept, Rows, around, decoder_layers, interaction_layers, tower_layers
from fusion.plan.load import Load


@dataclass(frozen=True)
class Activations:
    """Bytes kept by part, and what the largest layer needs on top while it is computed again."""

    parts: dict[str, float]
    recomputed_layer: float

    @property
    def kept(self) -> float:
        """What the forward pass leaves."""
        return sum(self.parts.values())

    @property
    def total(self) -> float:
        """At the peak of the backward pass."""
        return self.kept + self.recomputed_layer


def activations(config: FusionConfig, load: Load, size: int, checkpointing: bool, fused: bool) -> Activations:
    """What one micro-batch keeps.

    Args:
        config: of the model.
        load: of the micro-batch.
        size: bytes of an element, 2 in bfloat16 and 4 in float32.
        checkpointing: layers keep their inputs alone.
        fused: one attention kernel for all samples of a pack (CUDA, bfloat16), which saves joining their outputs.
    """
    layers = [
        list(tensors(config, load, size, fused)) for tensors in (tower_layers, decoder_layers, interaction_layers)
    ]
    kept = list(around(config, load, size))
    largest = 0.0
    if checkpointing:
        # Counted by layer: not every layer keeps every tensor.
        largest = max((sum(tensor.layer_bytes for tensor in own if tensor.layers) for own in layers), default=0.0)
        kept += layer_inputs(config, load, size)
    else:
        kept += [tensor for own in layers for tensor in own]
    parts: dict[str, float] = {}
    for tensor in kept:
        parts[tensor.part] = parts.get(tensor.part, 0.0) + tensor.bytes
    return Activations(parts, largest)


def layer_inputs(config: FusionConfig, load: Load, size: int) -> list[Kept]:
    """What checkpointed layers keep: their inputs. Interaction layers get the hidden states of all positions."""
    hidden = load.positions * config.hidden_size
    return [
        Kept(
            "tower.layer", Rows.of(config, load).all * config.vision_config.hidden_size, size, config.used_tower_layers
        ),
        Kept("decoder.layer", hidden, size, config.text_config.num_hidden_layers),
        Kept("interaction.layer", hidden, size, len(config.interaction_layers)),
    ]
