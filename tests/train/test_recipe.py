"""Recipes: rates, draws and identity follow from settings and inputs alone."""

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from fusion.contradictions import contradictions
from fusion.lineage.stages import resolve_stages
from fusion.settings import STAGES, Settings, StageHardware, Training, load_settings
from fusion.train.recipe import NO_RESULT, Recipe, make_recipe

ROOT = Path(__file__).parents[2]


def recipe(root: Path, variant: str = "tiny", stage: str = "stage2") -> Recipe:
    return make_recipe(load_settings(ROOT / "params.yaml"), variant, stage, root)  # type: ignore[arg-type]


def test_rates_warm_up_then_fall_along_a_cosine() -> None:
    published = recipe(ROOT, "fusion-phi35-3b", "stage1")
    steps = 1000
    factors = [published.learning_rate_factor(step, steps) for step in range(steps)]
    warmup = 30
    assert factors[0] == pytest.approx(1 / warmup)
    assert factors[warmup - 1] == 1.0
    assert max(factors) == 1.0
    assert factors[warmup + (steps - warmup) // 2] == pytest.approx(0.5, abs=1e-3)
    assert factors[-1] < 1e-4
    assert all(later <= earlier for earlier, later in zip(factors[warmup - 1 :], factors[warmup:], strict=False))


def test_latents_are_drawn_alike_on_every_rank_and_cover_all_choices() -> None:
    first, again, later = (recipe(ROOT, "fusion-phi35-3b", stage) for stage in ("stage1", "stage1", "stage2"))
    draws = [first.num_latents(step) for step in range(300)]
    assert draws == [again.num_latents(step) for step in range(300)]
    assert set(draws) == {4, 16, 36, 64, 144}
    assert draws != [later.num_latents(step) for step in range(300)]


@pytest.mark.parametrize("variant", ["tiny", "fusion-x-llama31-8b"])
def test_stages_form_a_chain(variant: str) -> None:
    chain = [recipe(ROOT, variant, stage) for stage in STAGES]
    assert [link.parent.name for link in chain] == ["base", "stage1", "stage1_5"]
    assert all(later.parent == earlier.output for earlier, later in itertools.pairwise(chain))


def test_identity_changes_with_data_parent_and_code_but_not_with_place(tmp_path: Path) -> None:
    def project(name: str) -> Recipe:
        made = recipe(tmp_path / name)
        for part in ("fusion/model", "fusion/train"):
            shutil.copytree(ROOT / part, made.root / part, ignore=shutil.ignore_patterns("__pycache__"))
        for part in ("fusion/data/stream/order.py", "fusion/data/stream/loader.py"):
            (made.root / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / part, made.root / part)
        made.manifest.parent.mkdir(parents=True)
        made.manifest.write_bytes(b"rows")
        made.parent.mkdir(parents=True)
        (made.parent / "model.safetensors").write_bytes(b"weights")
        return made

    first, second = project("a"), project("b")
    assert first.identity() == second.identity()
    elsewhere = replace(
        first,
        hardware=first.hardware.model_copy(update={"ranks": 4, "micro_batch": 2}),
        settings=first.settings.model_copy(update={"zero_stage": 3, "save_every_steps": 7}),
    )
    helped = {"activation_checkpointing": True, "on_bad_sample": "count", "hardware": StageHardware(micro_batch=1)}
    assert replace(first, settings=first.settings.model_copy(update=helped)).identity() == first.identity()
    assert elsewhere.identity() == first.identity(), "a state continues on other ranks"
    hotter = replace(first, settings=first.settings.model_copy(update={"learning_rate": 0.5}))
    assert hotter.identity() != first.identity()
    for path in (second.manifest, second.parent / "model.safetensors", second.root / "fusion/train/step.py"):
        before = second.identity()
        path.write_bytes(path.read_bytes() + b"#")
        assert second.identity() != before


def test_a_stage_has_hardware_of_its_own() -> None:
    settings = load_settings(ROOT / "params.yaml")
    document = settings.model_dump()
    document["variants"]["micro"]["stages"]["stage1_5"]["hardware"] = {"micro_batch": 2, "ranks": 1}
    changed = Settings.model_validate(document)
    for stage in STAGES:
        before, after = (make_recipe(one, "micro", stage).hardware for one in (settings, changed))  # type: ignore[arg-type]
        own = {"micro_batch": 2, "ranks": 1} if stage == "stage1_5" else {}
        assert after == before.model_copy(update=own)
    document["variants"]["micro"]["stages"]["stage1_5"]["hardware"] = {"ranks": 3}
    assert any("stages.stage1_5.global_batch" in line for line in contradictions(Settings.model_validate(document)))


def test_what_changes_no_result_runs_no_finished_stage_again() -> None:
    """A stage of DVC names neither how often its state is saved nor what another stage has for itself."""
    stages = resolve_stages(ROOT)
    for stage in STAGES:
        names = set(stages[f"train_{stage}@tiny"].params["params.yaml"])
        assert not names & {
            "training",
            "training.keep_checkpoints",
            "training.save_every_steps",
            "variants.tiny.stages",
        }
        assert {name for name in names if ".stages." in name} == {f"variants.tiny.stages.{stage}"}
        every = {f"training.{name}" for name in Training.model_fields} - {f"training.{name}" for name in NO_RESULT}
        assert every <= names
