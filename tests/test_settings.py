"""params.yaml: every wrong key, type and range is named before anything runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fusion.settings import STAGES, SettingsError, load_settings

PARAMS = Path(__file__).parents[1] / "params.yaml"
Edit = Callable[[dict[str, Any]], None]


def edited(folder: Path, edit: Edit) -> Path:
    """A copy of params.yaml with one change."""
    document = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    edit(document)
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump(document), encoding="utf-8")
    return path


def put(dotted: str, value: Any) -> Edit:
    """Sets one key, given by its path."""

    def edit(document: dict[str, Any]) -> None:
        *parents, last = dotted.split(".")
        for key in parents:
            document = document[key]
        document[last] = value

    return edit


def drop(dotted: str) -> Edit:
    """Removes one key, given by its path."""

    def edit(document: dict[str, Any]) -> None:
        *parents, last = dotted.split(".")
        for key in parents:
            document = document[key]
        del document[last]

    return edit


@pytest.mark.parametrize(
    ("edit", "key", "reason"),
    [
        (
            put("variants.tiny.stages.stage2.lerning_rate", 1e-3),
            "variants.tiny.stages.stage2.lerning_rate",
            "unknown key",
        ),
        (put("evaluatoin", {}), "evaluatoin", "unknown key"),
        (drop("variants.tiny.stages.stage1.global_batch"), "variants.tiny.stages.stage1.global_batch", "missing"),
        (put("variants.tiny.stages.stage1.global_batch", "64"), "variants.tiny.stages.stage1.global_batch", "integer"),
        (
            put("variants.tiny.stages.stage1.global_batch", 0),
            "variants.tiny.stages.stage1.global_batch",
            "greater than 0",
        ),
        (
            put("variants.tiny.stages.stage1.learning_rate", -1.0),
            "variants.tiny.stages.stage1.learning_rate",
            "greater than 0",
        ),
        (put("training.schedule", "cosin"), "training.schedule", "'cosine'"),
        (put("training.zero_stage", 4), "training.zero_stage", "0, 1, 2 or 3"),
        (put("training.activation_checkpointing", "yes"), "training.activation_checkpointing", "boolean"),
        (put("run.seed", -1), "run.seed", "greater than or equal to 0"),
        (put("run.variants", []), "run.variants", "at least 1"),
        (put("run.variants", "tiny"), "run.variants", "list"),
        (put("run.variants", ["tinny"]), "run.variants", "tinny"),
        (put("run.variants", ["tiny", "tiny"]), "run.variants", "twice"),
        (put("variants.tiny.model.num_latents", 5), "variants.tiny.model.num_latents", "not a square"),
        (put("variants.tiny.base.llm.name", "x/y"), "variants.tiny.base.llm", "exactly one"),
        (
            put("curation.profiles.web.image_distance", 16),
            "curation.profiles.web.image_distance",
            "less than or equal to 15",
        ),
    ],
)
def test_wrong_setting_is_named(tmp_path: Path, edit: Edit, key: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(edited(tmp_path, edit))
    assert key in str(caught.value)
    assert reason in str(caught.value)


def test_several_wrong_settings_are_all_named(tmp_path: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        put("run.seed", "x")(document)
        put("data.workers", 0)(document)

    with pytest.raises(SettingsError, match=r"2 wrong setting") as caught:
        load_settings(edited(tmp_path, edit))
    assert "run.seed" in str(caught.value)
    assert "data.workers" in str(caught.value)


def test_missing_file_and_broken_yaml_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is not here"):
        load_settings(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("run: [", encoding="utf-8")
    with pytest.raises(SettingsError, match="not valid YAML"):
        load_settings(tmp_path / "params.yaml")


def test_stage_overrides_shared_values() -> None:
    settings = load_settings(PARAMS)
    assert settings.training.precision == "bf16"
    assert settings.stage("tiny", "stage1").precision == "fp32"
    assert settings.stage("fusion-phi35-3b", "stage1").precision == "bf16"


@pytest.mark.parametrize(
    "variant", ["fusion-phi35-3b", "fusion-llama31-8b", "fusion-x-phi35-3b", "fusion-x-llama31-8b"]
)
def test_published_hyperparameters(variant: str) -> None:
    """Values of the released configurations (design "Four published models, three stages each")."""
    settings = load_settings(PARAMS)
    found = {
        stage: (value.global_batch, value.learning_rate, value.vision_learning_rate, value.max_length)
        for stage in STAGES
        for value in [settings.stage(variant, stage)]  # type: ignore[arg-type]
    }
    last = 3072 if variant == "fusion-x-llama31-8b" else 4096
    assert found == {
        "stage1": (256, 2e-5, 2e-5, 2048),
        "stage1_5": (128, 2e-5, 2e-6, 4096),
        "stage2": (128, 1e-5, 1e-6, last),
    }
    shared = settings.stage(variant, "stage1")
    assert (shared.epochs, shared.schedule, shared.warmup_ratio, shared.zero_stage) == (1, "cosine", 0.03, 2)
    assert shared.optimizer is not None
    assert shared.optimizer.weight_decay == 0
    assert shared.activation_checkpointing
