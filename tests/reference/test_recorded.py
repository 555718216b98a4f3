"""The recorded cases in the tree, and the layout of the four published models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, Phi3Config, PreTrainedConfig, SiglipVisionConfig

sys.path.insert(0, str(Path(__file__).parents[2]))

from fusion.model.configuration import FusionConfig
from fusion.model.modeling import FusionForConditionalGeneration
from tests.reference.__main__ import CASES, find_cases
from tests.reference.compare import compare_case

SHAPES: dict[str, dict[str, list[int]]] = json.loads((Path(__file__).parent / "state_dict_shapes.json").read_text())


@pytest.mark.parametrize("case", find_cases(CASES), ids=lambda path: path.name)
def test_case_agrees(case: Path) -> None:
    result = compare_case(case)
    assert result.passed, result.line()


def full_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a published model; the file has one line for all layers, the number of layers first."""
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in SHAPES[name].items():
        if "*" in key:
            shapes |= {key.replace("*", str(layer)): tuple(shape[1:]) for layer in range(shape[0])}
        else:
            shapes[key] = tuple(shape)
    return shapes


@pytest.mark.parametrize("name", SHAPES)
def test_published_layout(name: str) -> None:
    text: PreTrainedConfig
    if "Phi" in name:
        text = Phi3Config(vocab_size=32013, pad_token_id=0)
    else:
        text = LlamaConfig(
            vocab_size=128258, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
            num_key_value_heads=8, head_dim=128,
        )  # fmt: skip
    tower: dict[str, Any] = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "patch_size": 14}
    if "-X-" in name:
        tower = {
            "hidden_size": 1536,
            "intermediate_size": 6144,
            "num_hidden_layers": 40,
            "patch_size": 16,
        }
    vision = SiglipVisionConfig(image_size=384, num_attention_heads=16, **tower)
    config = FusionConfig(text_config=text, vision_config=vision, template="phi_3" if "Phi" in name else "llama_3")
    with torch.device("meta"):
        model = FusionForConditionalGeneration(config)
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == full_shapes(name)
