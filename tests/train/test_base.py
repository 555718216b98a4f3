"""`fusion base`: base models are those of the settings, at their revision; wrong ones are told by their setting."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    SiglipVisionModel,
)
from typer.testing import CliRunner

from fusion.cli import app
from fusion.errors import FusionError
from fusion.settings import load_settings
from fusion.train.base import BaseModelError
from tests.model.tiny import text_config, tiny_tokenizer, vision_config

ROOT = Path(__file__).parents[2]
COMMITS = ("a" * 40, "b" * 40)


def language(folder: Path, seed: int) -> Path:
    tokenizer = tiny_tokenizer("phi_3")
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(text_config("phi_3", vocab_size=len(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tower(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    SiglipVisionModel(vision_config()).save_pretrained(folder)
    return folder


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with the catalog and the tokenizers of this one."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "data").symlink_to(ROOT / "data")
    monkeypatch.chdir(folder)
    return folder


def set_base(project: Path, **base: Any) -> None:
    document = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    document["variants"]["micro"]["base"] |= base
    (project / "params.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")


def test_wrong_base_models_are_told_by_their_setting(project: Path, tmp_path: Path) -> None:
    llm, siglip = str(language(tmp_path / "llm", 0)), str(tower(tmp_path / "tower", 0))
    clip = CLIPVisionConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    CLIPVisionModel(clip).save_pretrained(tmp_path / "clip")
    bert = BertConfig(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=90)
    BertModel(bert).save_pretrained(tmp_path / "bert")
    tiny_tokenizer("phi_3").save_pretrained(tmp_path / "bert")
    (tmp_path / "empty").mkdir()
    cases: list[tuple[dict[str, Any], tuple[str, ...]]] = [
        ({"tower": {"name": str(tmp_path / "clip")}}, ("base.tower", "a SigLIP vision tower", "clip_vision_model")),
        ({"tower": {"name": str(tmp_path / "mistyped")}}, ("base.tower", "mistyped", "a folder with config.json")),
        ({"tower": {"config": {"model_type": "clip"}}}, ("base.tower", "the configuration there", "clip is not")),
        ({"llm": {"name": str(tmp_path / "empty")}}, ("base.llm", "empty", "a folder with config.json")),
        ({"llm": {"name": str(tmp_path / "bert")}}, ("base.llm", "Llama- or Phi-3-type", "bert is not one of")),
        ({"llm": {"config": {"model_type": "gpt7"}}}, ("base.llm", "gpt7 is not one of llama, phi3")),
        ({"llm": {"name": llm, "revision": "v1"}}, ("base.llm.revision", "v1", llm)),
        ({"tower": {"name": siglip, "revision": "v1"}}, ("base.tower.revision", "v1", siglip)),
        ({"tower": {"config": {}, "revision": "v1"}}, ("base.tower.revision", "v1", "made from a configuration")),
    ]
    for base, words in cases:
        set_base(project, **base)
        result = CliRunner().invoke(app, ["base", "micro"])
        assert isinstance(result.exception, FusionError), (base, result.exception)
        told = str(result.exception)
        assert told.startswith("variants.micro.base.") and all(word in told for word in words), told
    assert not (project / "checkpoints").exists()
    assert issubclass(BaseModelError, FusionError)


def put_into_cache(cache: Path, repository: str, makers: list[Any]) -> None:
    """A repository as the Hub's client keeps it; the first of its two commits is `main`."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(COMMITS[0], encoding="utf-8")
    for commit, make in zip(COMMITS, makers, strict=True):
        make(folder / "snapshots" / commit)


def test_base_models_and_tokenizer_are_of_the_revision(project: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    put_into_cache(cache, "org/llm", [lambda folder: language(folder, 1), lambda folder: language(folder, 2)])
    put_into_cache(cache, "org/tower", [lambda folder: tower(folder, 1), lambda folder: tower(folder, 2)])
    # At the commit that `main` was there is no tokenizer: that of the revision is asked for, or nothing is.
    (cache / "models--org--llm/snapshots" / COMMITS[0] / "tokenizer.json").unlink()
    named = {"llm": "org/llm", "tower": "org/tower"}
    parts = {part: {"name": name, "revision": COMMITS[1]} for part, name in named.items()}
    set_base(project, **parts, tokenizer=None)
    assert load_settings(project / "params.yaml").variant("micro").base.llm.revision == COMMITS[1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "fusion.cli", "base", "micro"]
    result = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    made = load_file(project / "checkpoints/micro/base/model.safetensors")
    wanted = load_file(cache / "models--org--llm/snapshots" / COMMITS[1] / "model.safetensors")
    assert torch.equal(made["model.norm.weight"], wanted["model.norm.weight"])
    name = "model.layers.0.self_attn.o_proj.weight"
    assert torch.equal(made[name], wanted[name])
    seen = load_file(cache / "models--org--tower/snapshots" / COMMITS[1] / "model.safetensors")
    name = "encoder.layers.0.mlp.fc1.weight"
    weights = {key: value for key, value in made.items() if key.endswith(name)}
    original = next(value for key, value in seen.items() if key.endswith(name))
    assert all(torch.equal(value, original) for value in weights.values()) and weights
