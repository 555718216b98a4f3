"""The recorded cases in the tree, and the layout of the four published models."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from fusion.model.configuration import FusionConfig
from fusion.model.from_settings import architecture
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.published import write_published
from fusion.settings import load_settings
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


PHI35: dict[str, Any] = {
    "model_type": "fusion_phi", "vocab_size": 32013, "hidden_size": 3072, "intermediate_size": 8192,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 131072,
    "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "sliding_window": 262144, "pad_token_id": 32000,
    "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}, "rope_theta": 10000.0,
}  # fmt: skip
LLAMA31: dict[str, Any] = {
    "model_type": "fusion_llama", "vocab_size": 128258, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009],
    "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_type": "llama3",
                     "original_max_position_embeddings": 8192},
}  # fmt: skip
# Variant of params.yaml -> the model as recorded, its language model, billions of parameters.
FULL = {
    "fusion-phi35-3b": ("FUSION-Phi3.5-3B", PHI35, 5.09),
    "fusion-llama31-8b": ("FUSION-LLaMA3.1-8B", LLAMA31, 9.98),
    "fusion-x-phi35-3b": ("FUSION-X-Phi3.5-3B", PHI35, 5.81),
    "fusion-x-llama31-8b": ("FUSION-X-LLaMA3.1-8B", LLAMA31, 10.69),
}


@pytest.mark.parametrize("variant", FULL)
def test_full_variants_have_the_published_layout(variant: str) -> None:
    """Names and shapes of all tensors, of our settings and of a released configuration that says the same."""
    name, language, billions = FULL[variant]
    settings = load_settings(Path(__file__).parents[2] / "params.yaml").variant(variant)
    own = architecture(settings.model)
    released = {
        **language,
        "mm_vision_tower": settings.base.tower.name,
        "query_len": ",".join(map(str, own["query_len"])),
        **{key: own[key] for key in own if key.endswith("_layers") or key == "window_size"},
    }
    config = FusionConfig.from_dict(dict(released))
    assert config.template == settings.template
    assert {key: getattr(config, key) for key in own} == own
    assert write_published(config) == released
    with torch.device("meta"):
        model = FusionForConditionalGeneration(config)
    assert {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()} == full_shapes(name)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e9, 2) == billions
    # Released checkpoints hold the norm behind the tower, which nothing uses.
    unused = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert len(unused) == 2 and all(".vision_model.post_layernorm." in key for key in unused)
