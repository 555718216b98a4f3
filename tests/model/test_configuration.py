"""Derived values and refusals of the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from fusion.model.configuration import FusionConfig
from tests.model.tiny import text_config, vision_config


def make(**options: Any) -> FusionConfig:
    vision = options.pop("vision", {})
    fields = {"num_of_vision_sampler_layers": 1, "interaction_heads": 4} | options
    return FusionConfig(text_config=text_config("llama_3"), vision_config=vision_config(**vision), **fields)


@pytest.mark.parametrize(("layers", "size"), [(27, 13), (40, 19), (5, 2), (3, 1)])
def test_levels_follow_the_depth(layers: int, size: int) -> None:
    config = make(vision={"num_hidden_layers": layers})
    assert (config.level_size, config.early_layers, config.used_tower_layers) == (size, size, layers - 1)


def test_round_trip_keeps_everything() -> None:
    config = make(text_mask="paper", early_layers=1, text_guided=False)
    again = FusionConfig.from_dict(config.to_dict())
    assert again.to_dict() == config.to_dict()
    assert (again.text_mask, again.early_layers, again.text_guided) == ("paper", 1, False)
    assert type(again.text_config) is type(config.text_config)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"template": "vicuna"}, "template"),
        ({"query_len": []}, "query_len"),
        ({"query_len": [4, 5]}, "query_len"),
        ({"num_latents": 8}, "num_latents"),
        ({"num_latents": 0}, "num_latents"),
        ({"window_size": 0}, "window_size"),
        ({"text_mask": "none"}, "text_mask"),
        ({"mapping_loss_weight": -1.0}, "mapping_loss_weight"),
        ({"num_of_vision_sampler_layers": 9}, "num_of_vision_sampler_layers"),
        ({"stride_of_vision_sampler_layers": 0}, "stride_of_vision_sampler_layers"),
        ({"interaction_heads": 7}, "interaction_heads"),
        ({"early_layers": 9}, "early_layers"),
        ({"level_size": 3}, "level_size"),
        ({"pad_token_id": 10**6}, "pad_token_id"),
        ({"vision": {"patch_size": 17}}, "vision_config.patch_size"),
        ({"vision": {"num_hidden_layers": 2}}, "vision_config.num_hidden_layers"),
    ],
)
def test_errors_name_the_field(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"^{field}: "):
        make(**options)
