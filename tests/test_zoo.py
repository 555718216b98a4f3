"""The model zoo: its facts agree with each other and with the rest of the project, and its rules hold."""

import json
from fractions import Fraction
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fusion.data.catalog import load_catalog
from fusion.errors import FusionError
from fusion.publish.own_models import own_models
from fusion.publish.zoo import check_lines, document, show_zoo
from fusion.settings import STAGES, Settings, load_settings
from fusion.zoo.arithmetic import can_refute, impossible_scores, is_possible, step_of
from fusion.zoo.entries import ZooError, load_zoo, parse_zoo, stage_note
from fusion.zoo.markdown import markdown
from fusion.zoo.own import NOT_RUN
from fusion.zoo.rules import check_parent, checkpoint_identity, obligations
from fusion.zoo.terminal import print_zoo
from tests.publish.finished_run import write_evaluation

ROOT = Path(__file__).parents[1]
TEXT = resources.files("fusion.zoo").joinpath("zoo.yaml").read_text(encoding="utf-8")
PUBLISHED_VARIANTS = ("fusion-phi35-3b", "fusion-llama31-8b", "fusion-x-phi35-3b", "fusion-x-llama31-8b")


@pytest.fixture(scope="module")
def settings() -> Settings:
    return load_settings(ROOT / "params.yaml")


def test_the_zoo_is_whole() -> None:
    zoo = load_zoo()
    assert (len(zoo.columns), len(zoo.models), len(zoo.stage_checkpoints)) == (23, 4, 8)
    pairs = {(model.version, model.llm) for model in zoo.models}
    assert {(c.version, c.llm, c.stage) for c in zoo.stage_checkpoints} == {
        (version, llm, stage) for version, llm in pairs for stage in STAGES[:2]
    }
    suffixes = {"stage1": "-Stage1", "stage1_5": "-Stage1.5", "stage2": ""}
    for entry in zoo.checkpoints:
        assert entry.repo == f"starriver030515/{entry.version}-{entry.llm}{suffixes[entry.stage]}"
        assert zoo.checkpoint(entry.name) is entry and zoo.checkpoint(entry.repo) is entry
    assert zoo.models[2].scores["MME-P"] == 1607.5 and zoo.models[1].scores["DocVQA"] == 70.9


def test_only_one_stage_checkpoint_is_presumed_and_its_published_link_is_kept_apart() -> None:
    (presumed,) = [entry for entry in load_zoo().stage_checkpoints if entry.presumed]
    assert presumed.name == "FUSION-X-Phi3.5-3B-Stage1.5"
    assert presumed.link == "starriver030515/FUSION-Phi3.5-3B-Stage1.5"


def test_base_models_have_the_shapes_of_the_published_weights() -> None:
    zoo = load_zoo()
    known = json.loads((ROOT / "tests/reference/state_dict_shapes.json").read_text())
    for model in zoo.models:
        shapes, llm, tower = known[model.name], zoo.llm(model.llm), zoo.encoder(model.encoder)
        vision = "model.vision_tower.vision_tower.vision_model."
        # A star stands for the layers, whose number comes first.
        assert shapes["model.embed_tokens.weight"][1] == llm.width
        assert shapes["model.layers.*.mlp.down_proj.weight"] == [llm.layers, llm.width, llm.mlp]
        patch = tower.patch_size
        assert shapes[vision + "embeddings.patch_embedding.weight"] == [tower.width, 3, patch, patch]
        # The last layer is never built.
        assert shapes[vision + "encoder.layers.*.mlp.fc1.weight"] == [tower.layers - 1, tower.mlp, tower.width]
        patches = (tower.image_size // patch) ** 2
        assert shapes[vision + "embeddings.position_embedding.weight"] == [patches, tower.width]
        assert patches < model.visual_tokens < patches + 144


def test_the_zoo_agrees_with_the_variants_the_licences_and_the_catalog(settings: Settings) -> None:
    zoo = load_zoo()
    repos = {(zoo.llm(m.llm).repo, zoo.encoder(m.encoder).repo, zoo.llm(m.llm).template) for m in zoo.models}
    variants = [settings.variant(name) for name in PUBLISHED_VARIANTS]
    assert {(v.base.llm.name, v.base.tower.name, v.template) for v in variants} == repos
    licences = yaml.safe_load((ROOT / "fusion/publish/licences.yaml").read_text())["base_models"]
    for llm in zoo.llms:
        assert licences[llm.repo]["id"] == llm.licence
        assert licences[llm.repo]["title"] == zoo.licence(llm.licence).title
    assert obligations("Phi3.5-3B") == ("mit", tuple(zoo.licence("mit").obligations))
    assert obligations("somebody/else") is None
    titles = {dataset.title for dataset in load_catalog(ROOT / "data/catalog").datasets.values()}
    assert {data for entry in zoo.stage_checkpoints for data in entry.data} <= titles


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("visual_tokens: 780, schedule", "tokens: 780, schedule", "models.0.tokens: unknown key"),
        ("MMB_EN: 80.5", "MMB_EN: high", "models.0.scores.MMB_EN"),
        ("MMB_EN: 80.5", "MMB_EN: 180.5", "models.0.scores.MMB_EN: 180.5 is above 100"),
        ("MMB_EN: 80.5, ", "", "models.0.scores: must name every column in order; missing: MMB_EN"),
        ("MMB_EN: 80.5, MMB_CN: 74.9", "MMB_CN: 74.9, MMB_EN: 80.5", "their order is another"),
        ("licence: llama3.1", "licence: llama", "llms.0.licence: `llama` is not one of mit, llama3.1"),
        ("stage: stage1,", "stage: stage2,", "stage_checkpoints.0.stage"),
        ("title: AI2D, maximum: 100, questions: 3088", "title: AI2D, maximum: 100, questions: '3088'", "questions"),
        ("scores: {MMVP: [79.9, 78.1]}", "scores: {MMV: [79.9]}", "notes.3.scores: `MMV` is not one of"),
        ("rules:", "rule:", "rules: missing"),
        ("columns:", "columns: [", "not valid YAML"),
    ],
)
def test_a_wrong_entry_is_named(old: str, new: str, words: str) -> None:
    assert old in TEXT
    with pytest.raises(ZooError) as caught:
        parse_zoo(TEXT.replace(old, new, 1))
    assert words in str(caught.value)


@given(st.integers(1, 5000), st.data())
def test_what_a_count_gives_is_possible(questions: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, questions))
    assert is_possible(round(100 * right / questions, 1), Fraction(100, questions))


@given(st.integers(1, 1200), st.integers(0, 1000))
def test_impossible_means_that_no_count_gives_it(questions: int, tenths: int) -> None:
    exact = [Fraction(100 * right, questions) for right in range(questions + 1)]
    reached = any(abs(value - Fraction(tenths, 10)) <= Fraction(1, 20) for value in exact)
    assert is_possible(tenths / 10, Fraction(100, questions)) is reached


@given(st.integers(1, 2500))
def test_a_column_is_called_checked_exactly_if_some_score_is_impossible(questions: int) -> None:
    step = Fraction(100, questions)
    assert can_refute(step) is any(not is_possible(tenths / 10, step) for tenths in range(1001))


def test_the_impossible_scores_are_found_and_noted() -> None:
    zoo = load_zoo()
    found = {(f.model, f.column, f.score): f.rounded_up for f in impossible_scores(zoo)}
    assert found == {
        ("FUSION-X-LLaMA3.1-8B", "MMVP", 79.9): False, ("FUSION-X-Phi3.5-3B", "MMVP", 78.1): False,
        ("FUSION-Phi3.5-3B", "MME-C", 416.5): True, ("FUSION-X-LLaMA3.1-8B", "MME-C", 337.2): True,
    }  # fmt: skip
    # Four parts: 70 pictures of two questions and three times 20: sevenths and halves of five.
    assert step_of(next(column for column in zoo.columns if column.name == "MME-C")) == Fraction(5, 14)
    assert check_lines(zoo)[1]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("MMVP: [79.9, 78.1]", "MMVP: [78.1]", "FAIL  FUSION-X-LLaMA3.1-8B MMVP 79.9"),
        ("MMVP: [79.9, 78.1]", "MMVP: [79.9, 78.1, 76.0]", "mmvp: MMVP 76.0"),
        ("MMMU: 43.1", "MMMU: 43.5", "FUSION-LLaMA3.1-8B MMMU 43.5"),
    ],
)
def test_the_check_fails_where_notes_and_numbers_differ(old: str, new: str, words: str) -> None:
    lines, good = check_lines(parse_zoo(TEXT.replace(old, new, 1)))
    assert not good and any(line.startswith("FAIL") and words in line for line in lines)


def test_the_committed_page_is_what_the_command_writes(tmp_path: Path) -> None:
    options = {"json": False, "markdown": True, "published": True, "check": False}
    assert show_zoo(**options, output=tmp_path / "page.md", root=tmp_path) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"]
    assert (tmp_path / "page.md").read_text() == (ROOT / "MODEL_ZOO.md").read_text()


def test_the_page_has_every_number_in_its_row() -> None:
    zoo = load_zoo()
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in markdown(zoo, None).splitlines() if "|" in line
    ]
    (head,) = [row for row in rows if "Visual tokens" in row]
    for model in zoo.models:
        (row,) = [row for row in rows if len(row) == len(head) and row[5].startswith(f"[{model.repo}]")]
        cells = dict(zip(head, row, strict=True))
        assert {name: float(cells[name]) for name in model.scores} == model.scores
    assert sum("starriver030515/" in "|".join(row) for row in rows) == 12


def test_the_terminal_needs_100_columns() -> None:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_zoo(load_zoo(), [], console)
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    for model in load_zoo().models:
        lines = [line for line in text.splitlines() if line.startswith(model.name + " ")]
        shown = [word.rstrip("*") for line in lines[1:] for word in line.split()[1:]]
        assert [float(word) for word in shown] == list(model.scores.values())
    assert text.count("*") - text.count("* not") == len(impossible_scores(load_zoo()))


def test_own_checkpoints_stand_apart_with_what_was_evaluated(settings: Settings, tmp_path: Path) -> None:
    zoo = load_zoo()
    assert own_models(settings, tmp_path) == []
    (tmp_path / "checkpoints/tiny/stage2").mkdir(parents=True)
    (tmp_path / "checkpoints/tiny/stage2/model.safetensors").write_bytes(b"weights")
    write_evaluation(tmp_path, 12)
    path = tmp_path / "results/tiny/evaluation/scores.json"
    (own,) = own_models(settings, tmp_path)
    assert (own.name, own.folder) == ("FUSION-Tiny", "checkpoints/tiny/stage2")
    assert [(s.benchmark, s.questions, s.value) for s in own.scores] == [
        ("easy-vqa-test", 2000, 85.4), ("scenes-test", 2000, 85.4),
    ]  # fmt: skip
    made = json.loads(json.dumps(document(zoo, [own])))
    assert set(made["own"][0]["zoo_columns"].values()) == {NOT_RUN}
    page = markdown(zoo, [own])
    published, _, mine = page.partition("## Checkpoints of this checkout")
    assert "FUSION-Tiny" not in published and "| FUSION-Tiny | easy-vqa-test | 2000 | 85.4 |" in mine
    assert all(column.name in mine for column in zoo.columns)
    path.write_text("{}")
    with pytest.raises(FusionError, match=r"scores\.json .*`dvc repro --force evaluate@tiny"):
        own_models(settings, tmp_path)


def test_options_that_exclude_each_other(tmp_path: Path) -> None:
    for options in ({"json": True, "markdown": True}, {"json": True, "check": True}, {"output": tmp_path / "x"}):
        chosen: dict[str, Any] = {"json": False, "markdown": False, "check": False, "output": None} | options
        with pytest.raises(ZooError, match="--"):
            show_zoo(**chosen, published=True, root=tmp_path)


def test_stage_checkpoints_bear_the_published_note() -> None:
    for stage in ("stage1", "stage1_5"):
        note = stage_note(stage)
        assert note and "not recommended for downstream tasks, but can be used for visual instruction tuning" in note
    assert stage_note("stage2") is None and stage_note(None) is None


OWN: dict[str, Any] = {
    "model_type": "fusion",
    "template": "phi_3",
    "text_config": {"model_type": "phi3", "hidden_size": 3072, "num_hidden_layers": 32, "intermediate_size": 8192},
    "vision_config": {"hidden_size": 1152, "num_hidden_layers": 27, "image_size": 384, "patch_size": 14},
}
PUBLISHED: dict[str, Any] = {
    "model_type": "fusion_phi", "hidden_size": 3072, "num_hidden_layers": 32, "intermediate_size": 8192,
    "mm_vision_tower": "google/siglip-so400m-patch14-384", "_name_or_path": "checkpoints/stage1.5",
}  # fmt: skip


def parent(folder: Path, config: dict[str, Any], **changes: Any) -> Path:
    """A checkpoint folder with a configuration, some of whose parts are changed."""
    folder.mkdir(parents=True)
    made = {**config, **changes}
    for key, value in config.items():
        if isinstance(value, dict):
            made[key] = {**value, **changes.get(key, {})}
    (folder / "config.json").write_text(json.dumps(made))
    return folder


@pytest.mark.parametrize("config", [OWN, PUBLISHED])
def test_the_same_base_models_may_be_continued(config: dict[str, Any], settings: Settings, tmp_path: Path) -> None:
    folder = parent(tmp_path / "stage1_5", config)
    check_parent(folder, settings.variant("fusion-phi35-3b"), "stage2")


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (OWN, {"text_config": {"hidden_size": 2048}}, ("base LLM", "width 2048", "Phi-3.5-mini-instruct", "3072")),
        (OWN, {"text_config": {"model_type": "llama"}}, ("base LLM", "type llama", "type phi3")),
        (OWN, {"text_config": {"_name_or_path": "microsoft/Phi-3-mini-4k-instruct"}},
         ("microsoft/Phi-3-mini-4k-instruct", "microsoft/Phi-3.5-mini-instruct", "differ in name")),
        (OWN, {"vision_config": {"patch_size": 16}}, ("vision encoder", "patch size 16", "siglip-so400m-patch14-384")),
        (OWN, {"template": "llama_3"}, ("template", "llama_3", "phi_3")),
        (PUBLISHED, {"mm_vision_tower": "google/siglip2-giant-opt-patch16-384"},
         ("vision encoder", "siglip2-giant-opt-patch16-384", "siglip-so400m-patch14-384")),
        (PUBLISHED, {"model_type": "fusion_llama"}, ("base LLM", "type llama", "type phi3")),
        (OWN, {"model_type": "llava"}, ("config.json", "'llava'")),
    ],
)  # fmt: skip
def test_other_base_models_are_refused_and_both_are_named(
    config: dict[str, Any], changes: dict[str, Any], words: tuple[str, ...], settings: Settings, tmp_path: Path
) -> None:
    folder = parent(tmp_path / "stage1", config, **changes)
    with pytest.raises(ZooError) as caught:
        check_parent(folder, settings.variant("fusion-phi35-3b"), "stage1_5")
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_small_published_tower_is_compared_by_its_description(settings: Settings, tmp_path: Path) -> None:
    tower = {"hidden_size": 64, "num_hidden_layers": 5, "image_size": 32, "patch_size": 8}
    described = {**PUBLISHED, "mm_vision_tower": "towers/small", "mm_vision_config": tower}
    identity = checkpoint_identity(parent(tmp_path / "stage1", described))
    assert identity.tower.shape == {"width": 64, "layers": 5, "image size": 32, "patch size": 8}
    with pytest.raises(ZooError, match="patch size"):
        small = {**described, "mm_vision_config": {"patch_size": 16}, "mm_vision_tower": None}
        check_parent(parent(tmp_path / "stage1_5", small), settings.variant("fusion-phi35-3b"), "stage2")


def test_a_later_stage_or_another_tokenizer_is_refused(settings: Settings, tmp_path: Path) -> None:
    variant = settings.variant("tiny")
    config = {
        "model_type": "fusion", "template": "phi_3", "text_config": variant.base.llm.config,
        "vision_config": variant.base.tower.config,
    }  # fmt: skip
    late = parent(tmp_path / "somewhere", config, fusion_stage="stage1_5")
    with pytest.raises(ZooError, match=r"somewhere is a stage1_5 checkpoint, and stage1 continues one of base"):
        check_parent(late, variant, "stage1", ROOT)
    check_parent(parent(tmp_path / "new", config, fusion_stage="base"), variant, "stage1", ROOT)
    check_parent(parent(tmp_path / "older", config), variant, "stage1", ROOT)
    tokenizer = json.loads((ROOT / variant.base.tokenizer / "tokenizer.json").read_text())  # type: ignore[operator]
    (late / "tokenizer.json").write_text(json.dumps(tokenizer))
    check_parent(late, variant, "stage2", ROOT)
    words = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {word: (number + 1) % len(words) for word, number in words.items()}
    (late / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ZooError, match="its tokenizer is another"):
        check_parent(late, variant, "stage2", ROOT)


def test_a_parent_that_is_not_there_is_named(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"config\.json is missing"):
        check_parent(tmp_path / "nowhere", settings.variant("tiny"), "stage1", ROOT)
