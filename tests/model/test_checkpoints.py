"""Saving, loading and initial models from base models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, SiglipVisionModel

from fusion.model.checkpoints import build_from_base, load_checkpoint, save_checkpoint
from fusion.model.configuration import FusionConfig
from fusion.model.modeling import FusionForConditionalGeneration
from tests.model.tiny import build, picture, shared, talk, text_config, tiny_tokenizer, vision_config

FAMILIES = ["phi_3", "llama_3"]


@pytest.mark.parametrize("family", FAMILIES)
def test_round_trip_is_bit_equal(family: str, tmp_path: Path) -> None:
    model, processor = shared(family)
    save_checkpoint(model, processor, tmp_path)
    again, reader = load_checkpoint(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    left, right = model.state_dict(), again.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    own = [name for name in FusionConfig.__annotations__ if not name.endswith("_config")]
    assert all(getattr(again.config, name) == getattr(model.config, name) for name in own if name != "sub_configs")
    batch = processor.collate([processor.encode(talk("<image>what colour", "red"), picture(0))])
    same = reader.collate([reader.encode(talk("<image>what colour", "red"), picture(0))])
    # Not bit-equal: matrix products round differently where the weights lie differently in memory.
    torch.testing.assert_close(model(batch).loss, again(same).loss, rtol=1e-6, atol=0)
    groups = again.parameter_groups()
    trained = {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert trained == {*groups["language"], *groups["vision"]}


def test_bfloat16_round_trip(tmp_path: Path) -> None:
    model, processor = build("phi_3", dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    save_checkpoint(model, processor, tmp_path)
    again, _ = load_checkpoint(tmp_path, dtype=torch.bfloat16)
    left, right = model.state_dict(), again.state_dict()
    assert all(torch.equal(left[name], right[name]) and right[name].dtype == torch.bfloat16 for name in left)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    model, processor = build("phi_3")
    del model.model.mm_projector
    save_checkpoint(model, processor, tmp_path)
    with pytest.raises(ValueError, match=r"mm_projector\.0\.weight"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_base_weights_are_taken_over(family: str, tied: bool, tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(family)
    old = len(tokenizer)
    # Real base models keep rows in reserve behind the tokenizer's last id.
    config = text_config(family, vocab_size=old + 5, tie_word_embeddings=tied)
    torch.manual_seed(1)
    decoder, tower = AutoModelForCausalLM.from_config(config), SiglipVisionModel(vision_config())
    decoder.save_pretrained(tmp_path / "llm")
    tokenizer.save_pretrained(tmp_path / "llm")
    tower.save_pretrained(tmp_path / "tower")
    model, processor = build_from_base(
        tmp_path / "llm", tmp_path / "tower", template=family, seed=3, num_of_vision_sampler_layers=1,
        interaction_heads=4, num_latents=4,
    )  # fmt: skip
    weights = model.state_dict()
    rows = decoder.get_input_embeddings().weight[:old]
    new = weights["model.embed_tokens.weight"]
    assert new.shape[0] == old + 2 == len(processor.tokenizer) == model.config.vocab_size
    assert torch.equal(new[:old], rows)
    torch.testing.assert_close(new[old:], rows.mean(0).expand(2, -1))
    assert (model.lm_head.weight is model.model.embed_tokens.weight) is tied
    torch.testing.assert_close(model.lm_head.weight[old:], decoder.lm_head.weight[:old].mean(0).expand(2, -1))
    assert torch.equal(weights["model.layers.1.input_layernorm.weight"], decoder.model.layers[1].input_layernorm.weight)
    prefix = "model.vision_tower.vision_tower.vision_model."
    for name, tensor in tower.state_dict().items():
        plain = name.removeprefix("vision_model.")
        if plain.startswith(("head.", "encoder.layers.4.")):
            assert prefix + plain not in weights
        else:
            assert torch.equal(weights[prefix + plain], tensor)
    save_checkpoint(model, processor, tmp_path / "own")
    again, _ = load_checkpoint(tmp_path / "own")
    assert all(torch.equal(weights[name], tensor) for name, tensor in again.state_dict().items())
    batch = processor.collate([processor.encode(talk("<image>what colour", "red"), picture(0))])
    assert torch.equal(model(batch).loss, again(batch).loss)


def test_the_seed_decides_all_random_weights() -> None:
    def weights(seed: int) -> dict[str, torch.Tensor]:
        return build("phi_3", seed=seed)[0].state_dict()

    state = torch.get_rng_state()
    one, same, other = weights(5), weights(5), weights(6)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    names = ("model.mm_projector.0.weight", "model.vision_sampler_layers.1.layers.0.proj_in.weight", "lm_head.weight")
    assert not any(torch.equal(one[name], other[name]) for name in names)


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    model, processor = shared("phi_3")
    processor.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_checkpoint(tmp_path)


def test_unfit_base_models_are_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer: is needed"):
        build_from_base(text_config("phi_3"), vision_config(), template="phi_3", seed=0)
    with pytest.raises(ValueError, match="template"):
        build_from_base(text_config("phi_3"), vision_config(), tiny_tokenizer("phi_3"), template="x", seed=0)


def test_a_plain_model_is_initialised() -> None:
    config = FusionConfig(
        text_config=text_config("llama_3"), vision_config=vision_config(), num_of_vision_sampler_layers=1,
        interaction_heads=4, template="llama_3",
    )  # fmt: skip
    model = FusionForConditionalGeneration(config)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    for each in (model, shared("llama_3")[0]):
        for weight in (each.model.mm_projector[0].weight, each.model.vision_sampler_layers[0].layers[0].proj_in.weight):
            assert 0.9 < weight.abs().max() * weight.shape[1] ** 0.5 <= 1.0
