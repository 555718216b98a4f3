"""From a variant's `model` in params.yaml to the fields of its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fusion.settings import Model


def architecture(model: Model) -> dict[str, Any]:
    """The fields of FusionConfig that params.yaml decides; the others follow from the base models and the tokenizer."""
    return {
        "query_len": list(model.query_len),
        "num_latents": model.num_latents,
        "window_size": model.window_size,
        "num_of_vision_sampler_layers": max(model.interaction.layers, 1),
        "start_of_vision_sampler_layers": model.interaction.start,
        "stride_of_vision_sampler_layers": model.interaction.stride,
        "use_interaction": model.interaction.layers > 0,
        "text_mask": model.text_mask,
        "text_guided": model.text_guided,
        "mapping_loss_weight": model.mapping_loss_weight,
    }
