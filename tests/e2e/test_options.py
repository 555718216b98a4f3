"""Whole stages of micro with other settings: adapters, frozen parts, and base models of other kinds from folders."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from fusion.hashing import file_sha256
from fusion.train.parts import part_of
from tests.e2e.disturbed import train_again_with_a_kill
from tests.e2e.project import Project, copy_project, executed
from tests.e2e.test_resume import LOG, WEIGHTS, kill, start

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]
LORA: dict[str, Any] = {"rank": 4, "alpha": 8.0, "dropout": 0.1, "targets": {"language": "all", "vision": ["fc1"]}}
STAGE1 = "variants.micro.stages.stage1"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which stage 1 of micro is ready to be trained."""
    made = copy_project(tmp_path_factory.mktemp("options") / "project", "micro")
    made.set(f"{STAGE1}.save_every_steps", 4)
    made.set(f"{STAGE1}.epochs", 3)
    made.repro("base@micro", "validate@micro-stage1")
    return made


def trained(project: Project, **changes: Any) -> dict[str, torch.Tensor]:
    """The weights of stage 1 with other settings."""
    for key, value in changes.items():
        project.set(f"{STAGE1}.{key}", value)
    clean(project)
    project.run("fusion", "train", "micro", "stage1")
    return load_file(project.root / WEIGHTS)


def clean(project: Project) -> None:
    shutil.rmtree(project.root / "checkpoints/micro/stage1", ignore_errors=True)
    shutil.rmtree(project.root / "scratch/train", ignore_errors=True)
    (project.root / LOG).unlink(missing_ok=True)


def changed_parts(project: Project, after: dict[str, torch.Tensor]) -> set[str]:
    before = load_file(project.root / "checkpoints/micro/base/model.safetensors")
    assert before.keys() == after.keys()
    return {part_of(name) for name, tensor in after.items() if not torch.equal(tensor, before[name])}


def test_frozen_parts_are_those_of_the_parent(project: Project) -> None:
    after = trained(project, trained_parts=["projectors", "interaction"], zero_stage=3)
    assert changed_parts(project, after) == {"projectors", "interaction"}


def test_a_stage_with_adapters_goes_on_after_a_kill_and_the_next_one_follows(project: Project) -> None:
    parts = ["language", "vision", "projectors"]
    after = trained(project, trained_parts=parts, zero_stage=2, activation_checkpointing=True, lora=LORA)
    assert changed_parts(project, after) == set(parts)
    expected = file_sha256(project.root / WEIGHTS)
    clean(project)
    kill(start(project, 2))
    project.run("fusion", "train", "micro", "stage1")
    assert file_sha256(project.root / WEIGHTS) == expected
    project.repro("validate@micro-stage2")
    project.run("fusion", "train", "micro", "stage1_5")


def test_adapters_in_all_stages_from_sources_to_the_package(tmp_path: Path) -> None:
    """Two ranks; each stage merges its own, so that the next one and all that follows has a model like any other."""
    whole = copy_project(tmp_path / "project", "micro")
    whole.set("training.lora", LORA)
    whole.set("training.trained_parts", ["language", "vision", "projectors"])
    whole.repro()
    weights = {
        stage: load_file(whole.root / "checkpoints/micro" / stage / "model.safetensors")
        for stage in ("base", "stage1", "stage1_5", "stage2")
    }
    for before, after in pairwise(weights.values()):
        changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
        assert before.keys() == after.keys()
        assert {part_of(name) for name in changed} == {"language", "vision", "projectors"}
        assert not [name for name in changed if "embed_tokens" in name or "lm_head" in name], "adapters alone"
    assert (whole.root / "packages/micro/model.safetensors").is_file()
    outputs = whole.lock()["train_stage2@micro"]
    first, second = train_again_with_a_kill(whole, "micro", "stage2")
    assert first == 0 and second > 0 and whole.lock()["train_stage2@micro"] == outputs
    assert executed(whole.repro()) == [], "what follows is still true of it"


def test_base_models_of_other_kinds_from_folders(project: Project) -> None:
    """A Llama-type model with tied embeddings and grouped heads, a tower with another activation and patch size."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(project.root / "data/tokenizers/tiny")
    llm = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=True, attention_bias=True, rope_theta=5e5, pad_token_id=None,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    tower = SiglipVisionConfig(
        hidden_size=40, intermediate_size=72, num_hidden_layers=4, num_attention_heads=2, image_size=42, patch_size=14,
        hidden_act="gelu",
    )  # fmt: skip
    LlamaForCausalLM(llm).save_pretrained(project.root / "bases/llm")
    SiglipVisionModel(tower).save_pretrained(project.root / "bases/tower")
    params = yaml.safe_load((project.root / "params.yaml").read_text(encoding="utf-8"))
    other = params["variants"]["micro"]
    other["base"] = {
        "llm": {"name": "bases/llm"}, "tower": {"name": "bases/tower"}, "tokenizer": "data/tokenizers/tiny",
    }  # fmt: skip
    project.set("variants.other", other | {"publish_as": "Other"})
    for key in ("lora", "trained_parts", "zero_stage"):
        project.set(f"variants.other.stages.stage1.{key}", None)
    project.run("fusion", "base", "other")
    project.run("fusion", "train", "other", "stage1")
    after = load_file(project.root / "checkpoints/other/stage1/model.safetensors")
    assert "lm_head.weight" not in after and after["model.layers.2.self_attn.k_proj.weight"].shape == (24, 48)
    # Neither stage 2 of this variant nor of another one takes the other's parent.
    shutil.copytree(project.root / "checkpoints/other/stage1", project.root / "checkpoints/tiny/stage1_5")
    for name in ("manifests", "validation"):
        shutil.copytree(project.root / "data" / name / "micro-stage1", project.root / "data" / name / "tiny-stage2")
    refused = project.run("fusion", "train", "tiny", "stage2", check=False)
    assert refused.returncode == 1 and "its base LLM is" in refused.stderr and "wanted is" in refused.stderr
    assert Path(project.root / "checkpoints/tiny/stage2").exists() is False
