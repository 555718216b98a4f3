"""params.yaml: every wrong key, type and range is named before anything runs."""

from collections.abc import Callable
from copy import deepcopy
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pydantic import BaseModel

from fusion.data import catalog as catalog_module
from fusion.data.catalog import Entry
from fusion.settings import STAGES, Section, SettingsError, load_settings

PARAMS = Path(__file__).parents[1] / "params.yaml"
DOCUMENT = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
Edit = Callable[[dict[str, Any]], None]


def edited(folder: Path, edit: Edit) -> Path:
    """A copy of params.yaml with one change."""
    document = deepcopy(DOCUMENT)
    edit(document)
    path = folder / "params.yaml"
    path.write_text(yaml.dump(document, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper)), encoding="utf-8")
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


def test_the_limit_of_pixels_is_not_above_what_training_reads(tmp_path: Path):
    from fusion.model.images import MAX_PIXELS

    largest = load_settings(edited(tmp_path, put("data.max_image_pixels", MAX_PIXELS)))
    assert largest.data.max_image_pixels == MAX_PIXELS
    with pytest.raises(SettingsError, match=r"data\.max_image_pixels: .*most pixels of a picture that training reads"):
        load_settings(edited(tmp_path, put("data.max_image_pixels", MAX_PIXELS + 1)))


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
        (put("run.variants", ["tinny"]), "run.variants", "`tinny` is not one of the variants; did you mean `tiny`?"),
        (put("training.optimizer.eps", float("inf")), "training.optimizer.eps", "finite"),
        (put("variants.tiny.model.mapping_loss_weight", float("nan")), "mapping_loss_weight", "finite"),
        (put("run.variants", ["xyz"]), "run.variants", "known: "),
        (put("training.shedule", "cosine"), "training.shedule", "unknown key; did you mean `schedule`?"),
        (put("variants.tiny.hardware.ranks", 64), "variants.tiny.stages.stage2.global_batch", "do not divide"),
        (put("variants.tiny.hardware.ranks", 5), "variants.tiny.stages.stage1.global_batch", "hardware.ranks 5"),
        (put("variants.tiny.base.tokenizer", None), "variants.tiny.base.tokenizer", "missing"),
        (put("variants.tiny.base.llm.config", {}), "variants.tiny.base.llm.config.model_type", "missing"),
        (put("variants.tiny.model.interaction.layers", 4), "variants.tiny.model.interaction", "decoder layer 3"),
        (put("curation.profiles.web.min_answer_chars", 30000), "curation.profiles.web.min_answer_chars", "max_answer"),
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


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"run: [", ("not valid YAML: line ",)),
        (b"run:\n\tseed: 1\n", ("not valid YAML", "line 2 is indented with a tab")),
        (b"run:\n  seed: 1\n# caf\xe9\n", ("line 3", "0xe9 is not UTF-8")),
        (b"- run\n", ("must be a mapping",)),
        (b"", ("must be a mapping",)),
        (b"run: &a [*a]\n", ("params.yaml",)),
        (b"run: !!python/object:os.system {}\n", ("not valid YAML",)),
    ],
)
def test_what_is_no_sound_yaml_is_named(tmp_path: Path, content: bytes, words: tuple[str, ...]) -> None:
    (tmp_path / "params.yaml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        load_settings(tmp_path / "params.yaml")
    assert all(word in str(caught.value) for word in ("params.yaml", *words)), str(caught.value)


def test_keys_that_stand_twice_are_all_named(tmp_path: Path) -> None:
    """YAML itself takes the last and says nothing."""
    text = PARAMS.read_text(encoding="utf-8")
    text = text.replace("  shard_size_mb: 512\n", "  shard_size_mb: 512\n  shard_size_mb: 64\n")
    text = text.replace("      num_latents: 4\n", "      num_latents: 4\n      num_latents: 9\n", 1)
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=r"2 key\(s\) twice") as caught:
        load_settings(tmp_path / "params.yaml")
    line = text.splitlines().index("  shard_size_mb: 512") + 1
    assert f"data.shard_size_mb: stands twice, in lines {line} and {line + 1}" in str(caught.value)
    assert "variants.tiny.model.num_latents" in str(caught.value)


def test_anchors_and_merges_are_no_repetition(tmp_path: Path) -> None:
    """The README's way to keep two variants: a merge, of which some keys are replaced."""
    text = PARAMS.read_text(encoding="utf-8").replace("  tiny:\n", "  tiny: &tiny\n")
    text += "  plain:\n    <<: *tiny\n    publish_as: FUSION-Plain\n"
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8")
    settings = load_settings(tmp_path / "params.yaml")
    assert settings.variant("plain").publish_as == "FUSION-Plain"
    assert settings.variant("plain").model == settings.variant("tiny").model


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values of a document."""
    found = [path] if path else []
    for key, item in value.items() if isinstance(value, dict) else ():
        found += places(item, (*path, key))
    return found


FREE = ("config", "environment")
"""Sections that hold what another library reads."""
PLACES = [path for path in places(DOCUMENT) if not set(path) & {*FREE, "roots", "shards", "revision", "name"}]
NAMED = {"variants", "profiles", "benchmarks", "margins", "over_blind"}
"""Sections whose keys are names of things, not fields."""
SECTIONS = [path for path in PLACES if isinstance(reduce(getitem, path, DOCUMENT), dict) and path[-1] not in NAMED]


@hypothesis_settings(max_examples=40, deadline=None)
@given(place=st.sampled_from(PLACES), wrong=st.sampled_from([{"x": []}, [[]], [{"x": 1}]]))
def test_a_value_of_a_wrong_type_is_named_wherever_it_stands(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, ...], wrong: Any
) -> None:
    path = edited(tmp_path_factory.mktemp("wrong"), put(".".join(place), wrong))
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert f"  {'.'.join(place)}" in str(caught.value)


@hypothesis_settings(max_examples=40, deadline=None)
@given(place=st.sampled_from(SECTIONS), key=st.text("abcdefghijklmnopqrstuvwxyz_", min_size=1, max_size=12))
def test_an_unknown_key_is_named_wherever_it_stands(
    tmp_path_factory: pytest.TempPathFactory, place: tuple[str, ...], key: str
) -> None:
    dotted = ".".join((*place, f"{key}_unknown"))
    with pytest.raises(SettingsError) as caught:
        load_settings(edited(tmp_path_factory.mktemp("unknown"), put(dotted, 1)))
    assert f"  {dotted}: unknown key" in str(caught.value)


def test_values_that_stand_in_no_file_never_change() -> None:
    """A stage runs again when its params change. A default is no param: a new one would leave stale results behind.

    So a new default goes into params.yaml or the catalog as a value; here only for a field that is new.
    """

    def kinds(base: type[BaseModel]) -> list[type[BaseModel]]:
        return [kind for child in base.__subclasses__() for kind in (child, *kinds(child))]

    defaults = {
        f"{kind.__name__}.{name}": field.default
        for kind in (*kinds(Section), *kinds(Entry))
        for name, field in kind.model_fields.items()
        if not field.is_required() and field.default is not None
    }
    assert defaults == {
        "Catalog.benchmarks": {},
        "Catalog.datasets": {},
        "Data.roots": {},
        "Dataset.combines": [],
        "Dataset.contamination": [],
        "Dataset.expect": catalog_module.Expectations(min_kept_share=0.5, category_shares={}),
        "Dataset.members": {},
        "Dataset.whole": {},
        "Expectations.category_shares": {},
        "Expectations.min_kept_share": 0.5,
        "Hardware.compile": False,
        "Hardware.offload_optimizer": False,
        "Lora.dropout": 0.0,
        "Model.mapping_loss_weight": 0.1,
        "Model.text_guided": True,
        "Model.text_mask": "checkpoint",
        "Model.window_size": 3,
        "Published.notes": [],
        "Source.weight": 1,
    }


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
