"""The released layout: reading, writing, refusing what does not fit."""

from __future__ import annotations

import copy
import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, SiglipConfig, SiglipVisionModel

from fusion.cli import main
from fusion.model.checkpoints import load_checkpoint, save_checkpoint
from fusion.model.configuration import FusionConfig
from fusion.model.export import export_checkpoint
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.published import known_towers, read_published, write_published
from tests.model.tiny import build, shared, text_config, vision_config

FAMILIES = ["phi_3", "llama_3"]
SO400M, GIANT = known_towers()


def released(**changes: Any) -> dict[str, Any]:
    """A config.json as released, with a small language model and fields that nobody here reads."""
    return {
        "_name_or_path": "/somewhere/else",
        "architectures": ["FusionPhiForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
        "model_type": "fusion_phi",
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 131072,
        "original_max_position_embeddings": 4096,
        "rope_scaling": {"type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.5] * 8},
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-05,
        "sliding_window": 262144,
        "vocab_size": 32013,
        "pad_token_id": 32000,
        "bos_token_id": 1,
        "eos_token_id": 32000,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.48.1",
        "mm_hidden_size": 1152,
        "mm_vision_tower": SO400M,
        "mm_projector_type": "mlp2x_gelu",
        "image_aspect_ratio": "static_hd",
        "query_len": "4,16,36,64,144",
        "window_size": 3,
        "num_of_vision_sampler_layers": 2,
        "start_of_vision_sampler_layers": 0,
        "stride_of_vision_sampler_layers": 3,
        "tokenizer_model_max_length": 4096,
    } | changes


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_released_configuration_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(released()))
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(config) is FusionConfig and config.model_type == "fusion"
    own = FusionConfig.from_pretrained(tmp_path).to_dict()
    assert own | {"_name_or_path": str(tmp_path)} == config.to_dict()
    assert (config.text_config.model_type, config.hidden_size, config.template) == ("phi3", 64, "phi_3")
    assert config.text_config.rope_parameters["rope_type"] == "longrope"
    assert config.text_config.sliding_window == 262144
    assert (config.vision_config.hidden_size, config.used_tower_layers, config.num_patches) == (1152, 26, 729)
    assert (config.query_len, config.num_latents) == ([4, 16, 36, 64, 144], 16)
    assert config.interaction_layers == (0, 3)
    assert (config.pad_token_id, config.end_of_turn_token_id, config.vision_end_token_id) == (0, 32007, 32012)
    assert config.dtype == torch.bfloat16
    # Through our own file and back: nothing is lost, whether read here or not.
    config.save_pretrained(tmp_path / "own")
    assert write_published(FusionConfig.from_pretrained(tmp_path / "own")) == released()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"query_len": "36"}, {"query_len": [36], "num_latents": 36}),
        ({"query_len": [4, 9]}, {"query_len": [4, 9], "num_latents": 4}),
        ({"query_len": 16}, {"query_len": [16], "num_latents": 16}),
        ({"mm_vision_tower": GIANT, "mm_hidden_size": 1536}, {"early_layers": 19, "num_patches": 576}),
        ({"mm_vision_tower": f"/data/{SO400M.split('/')[1]}"}, {"num_patches": 729}),
        ({"vocab_size": 33000}, {"end_of_turn_token_id": None, "pad_token_id": 32000}),
        ({"model_type": "fusion_llama", "rope_scaling": None}, {"template": "llama_3", "end_of_turn_token_id": None}),
    ],
)
def test_fields_of_a_released_configuration(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    config = FusionConfig.from_dict(released(**changes))
    assert {name: getattr(config, name) for name in expected} == expected
    assert write_published(config) == released(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mm_vision_tower": None}, "^mm_vision_tower: "),
        ({"mm_hidden_size": 1536}, "^mm_hidden_size: 1536.*siglip-so400m.*1152"),
        ({"query_len": "4,x"}, "^query_len: "),
        ({"query_len": "5"}, "^query_len: 5 is not a square"),
        ({"num_of_vision_sampler_layers": 9}, "^num_of_vision_sampler_layers: "),
    ],
)
def test_wrong_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FusionConfig.from_dict(released(**changes))


def test_an_unknown_tower_is_looked_up(tmp_path: Path) -> None:
    SiglipVisionModel(vision_config()).save_pretrained(tmp_path / "vision")
    both = SiglipConfig(
        vision_config=vision_config().to_dict(), text_config={"hidden_size": 32, "num_hidden_layers": 1}
    )
    both.save_pretrained(tmp_path / "both")
    for folder in ("vision", "both"):
        fields = released(mm_vision_tower=str(tmp_path / folder), mm_hidden_size=48)
        assert FusionConfig.from_dict(fields).num_patches == 16
    text_config("phi_3").save_pretrained(tmp_path / "words")
    with pytest.raises(ValueError, match=r"^mm_vision_tower: .*words.*phi3"):
        FusionConfig.from_dict(released(mm_vision_tower=str(tmp_path / "words")))


@settings(max_examples=25, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    changes=st.fixed_dictionaries(
        {},
        optional={
            "template": st.sampled_from(FAMILIES),
            "query_len": st.lists(st.sampled_from([1, 4, 9, 16, 144]), min_size=1, max_size=4),
            "num_latents": st.sampled_from([1, 4, 16]),
            "window_size": st.integers(1, 4),
            "text_mask": st.sampled_from(["checkpoint", "paper"]),
            "mapping_loss_weight": st.floats(0, 1),
            "text_guided": st.booleans(),
            "use_interaction": st.booleans(),
            "early_layers": st.integers(0, 4),
            "pad_token_id": st.one_of(st.none(), st.integers(0, 30)),
            "dtype": st.sampled_from([None, "bfloat16", "float32"]),
        },
    ),
    base=st.sampled_from([1e4, 5e5]),
    linear=st.booleans(),
    tied=st.booleans(),
)
def test_what_ours_says_survives_the_released_layout(
    family: str, changes: dict[str, Any], base: float, linear: bool, tied: bool
) -> None:
    kind = "default" if not linear else "linear" if family == "llama_3" else "longrope"
    factors = {
        "default": {},
        "linear": {"factor": 2.0},
        "longrope": {"short_factor": [1.0] * 8, "long_factor": [3.0] * 8},
    }
    rope = {"rope_theta": base, "rope_scaling": {"type": kind, **factors[kind]} if linear else None}
    text = text_config(family, tie_word_embeddings=tied, **rope)
    fields = {"num_of_vision_sampler_layers": 1, "interaction_heads": 4, "template": family} | changes
    config = FusionConfig(text_config=text, vision_config=vision_config(), **fields)
    written = json.loads(json.dumps(write_published(config)))
    again = FusionConfig.from_dict(copy.deepcopy(written))
    left, right = again.to_dict(), config.to_dict()
    assert {**left, "architectures": None} == {**right, "architectures": None}
    assert write_published(again) == written


@pytest.mark.parametrize("family", FAMILIES)
def test_export_there_and_back_is_bit_equal(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = build(family, text_mask="paper", mapping_loss_weight=0.2)
    save_checkpoint(model, processor, tmp_path / "own")
    monkeypatch.setattr(sys, "argv", ["fusion", "export", str(tmp_path / "own"), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code
    export_checkpoint(tmp_path / "own", tmp_path / "again", layout="published")
    assert files(tmp_path / "out") == files(tmp_path / "again")
    fields = json.loads((tmp_path / "out" / "config.json").read_text())
    assert fields["model_type"] == {"phi_3": "fusion_phi", "llama_3": "fusion_llama"}[family]
    assert fields["hidden_size"] == 64 and fields["query_len"] == "1,4,9"
    export_checkpoint(tmp_path / "out", tmp_path / "back", layout="fusion")
    assert files(tmp_path / "back") == files(tmp_path / "own")
    left, right = tensors(tmp_path / "out"), model.state_dict()
    assert left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
    again, _ = load_checkpoint(tmp_path / "out")
    assert all(torch.equal(tensor, right[name]) for name, tensor in again.state_dict().items())


@pytest.mark.parametrize("tied", [False, True])
def test_a_released_folder_goes_through_ours_unchanged(tied: bool, tmp_path: Path) -> None:
    """Sharded, in bfloat16, with fields of its own."""
    tower = {key: getattr(vision_config(), key) for key in ("hidden_size", "intermediate_size", "image_size")}
    tower |= {"num_hidden_layers": 5, "num_attention_heads": 4, "patch_size": 4}
    fields = released(mm_vision_config=tower, mm_hidden_size=48, vocab_size=90, tie_word_embeddings=tied)
    del fields["mm_vision_tower"]
    fields |= {"pad_token_id": 0, "eos_token_id": 2}
    model = FusionForConditionalGeneration(FusionConfig.from_dict(copy.deepcopy(fields))).to(torch.bfloat16)
    folder = tmp_path / "released"
    model.save_pretrained(folder, max_shard_size="300KB")
    (folder / "config.json").write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
    assert len(list(folder.glob("*.safetensors"))) > 1
    weights = model.state_dict()
    for dtype in ("auto", torch.float32):
        again = FusionForConditionalGeneration.from_pretrained(folder, dtype=dtype)
        wanted = torch.bfloat16 if dtype == "auto" else dtype
        assert all(torch.equal(tensor, weights[name].to(wanted)) for name, tensor in again.state_dict().items())
        assert (again.lm_head.weight is again.model.embed_tokens.weight) is tied
    export_checkpoint(folder, tmp_path / "own", layout="fusion")
    assert json.loads((tmp_path / "own" / "config.json").read_text())["model_type"] == "fusion"
    export_checkpoint(tmp_path / "own", tmp_path / "back", layout="published")
    assert files(tmp_path / "back") == files(folder)


def test_export_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    model, processor = shared("phi_3")
    save_checkpoint(model, processor, tmp_path / "own")
    with pytest.raises(ValueError, match=r"^layout: 'x'"):
        export_checkpoint(tmp_path / "own", tmp_path / "out", layout="x")
    with pytest.raises(ValueError, match="something already"):
        export_checkpoint(tmp_path / "own", tmp_path / "own", layout="fusion")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"config\.json"):
        export_checkpoint(tmp_path / "empty", tmp_path / "out", layout="fusion")
    (tmp_path / "own" / "model.safetensors").rename(tmp_path / "own" / "model.bin")
    monkeypatch.setattr(sys, "argv", ["fusion", "export", str(tmp_path / "own"), str(tmp_path / "out")])
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and said.startswith("error: ") and "has no model.safetensors" in said
    assert not (tmp_path / "out").exists() and sorted(path.name for path in tmp_path.iterdir()) == ["empty", "own"]


def change_config(folder: Path, **parts: dict[str, Any]) -> None:
    path = folder / "config.json"
    fields = json.loads(path.read_text())
    for part, changes in parts.items():
        fields[part] |= changes
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"vision_config": {"hidden_size": 64}}, "says vision tower .*width 64.*but.*width 48"),
        ({"vision_config": {"num_hidden_layers": 7}}, "says vision tower with 6 layers.*but.*with 4 layers"),
        ({"vision_config": {"patch_size": 8}}, "says vision tower .*patches of 8.*but.*patches of 4"),
        ({"text_config": {"hidden_size": 32}}, "says language model .*width 32.*but.*width 64"),
        ({"text_config": {"num_hidden_layers": 4}}, "says language model .*4 layers.*but.*2 layers"),
        ({"text_config": {"vocab_size": 500}}, "says language model .*vocabulary of 500.*but"),
        ({"text_config": {"model_type": "llama"}}, "says language model of Llama type.*but.*of Phi-3 type"),
        ({"text_config": {"intermediate_size": 64}}, r"of another shape: model\.layers\.0\.mlp"),
    ],
)
def test_another_base_model_is_refused(parts: dict[str, Any], message: str, tmp_path: Path) -> None:
    model, processor = shared("phi_3")
    save_checkpoint(model, processor, tmp_path)
    change_config(tmp_path, **parts)
    for load in (FusionForConditionalGeneration.from_pretrained, load_checkpoint):
        with pytest.raises(ValueError, match=message):
            load(tmp_path)
    with pytest.raises(ValueError, match=message):
        export_checkpoint(tmp_path, tmp_path / "out", layout="published")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("model.mm_projector.0.bias"), r"missing: model\.mm_projector\.0\.bias"),
        (lambda weights: weights.update(extra=torch.zeros(2)), "unexpected: extra"),
        (
            lambda weights: weights.update({"model.mm_projector.0.bias": torch.zeros(3)}),
            r"of another shape: model\.mm_projector\.0\.bias \[3\] instead of \[64\]",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(change: Any, message: str, tmp_path: Path) -> None:
    model, processor = shared("llama_3")
    save_checkpoint(model, processor, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    change(weights)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=message):
        FusionForConditionalGeneration.from_pretrained(tmp_path)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def test_pickles_need_a_word_and_run_no_code(tmp_path: Path) -> None:
    model, processor = shared("phi_3")
    processor.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        FusionForConditionalGeneration.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"^use_safetensors: "):
        FusionForConditionalGeneration.from_pretrained(tmp_path, use_safetensors=False)
    again, _ = load_checkpoint(tmp_path, allow_pickle=True)
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    trap = tmp_path / "executed"
    torch.save({**model.state_dict(), "x": Malicious(trap)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path, allow_pickle=True)
    assert not trap.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert trap.exists()  # the trap itself works


@pytest.mark.parametrize("place", ["cpu", "auto", {"": "cpu"}])
def test_device_map_and_attention_are_honoured(place: Any, tmp_path: Path) -> None:
    model, processor = shared("phi_3")
    save_checkpoint(model, processor, tmp_path)
    again = FusionForConditionalGeneration.from_pretrained(
        tmp_path, device_map=place, torch_dtype=torch.bfloat16, attn_implementation="eager"
    )
    assert {parameter.device.type for parameter in again.parameters()} == {"cpu"}
    assert {parameter.dtype for parameter in again.parameters()} == {torch.bfloat16}
    assert again.config._attn_implementation == again.config.text_config._attn_implementation == "eager"
    with pytest.raises(ValueError, match="nonsense"):
        FusionForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="nonsense")


def test_the_tower_keeps_its_unused_norm_frozen(tmp_path: Path) -> None:
    model, processor = shared("phi_3")
    save_checkpoint(model, processor, tmp_path)
    again = FusionForConditionalGeneration.from_pretrained(tmp_path)
    frozen = {name for name, parameter in again.named_parameters() if not parameter.requires_grad}
    prefix = "model.vision_tower.vision_tower.vision_model.post_layernorm."
    assert frozen == {prefix + "weight", prefix + "bias"} and not again.training


def test_reading_leaves_the_fields_alone() -> None:
    fields = released()
    FusionConfig(**read_published(fields))
    assert fields == released()
