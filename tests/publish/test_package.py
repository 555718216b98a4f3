"""The package: complete, deterministic, loadable, and refused when a part is missing or does not belong."""

import json
import random
import re
from dataclasses import replace

import pytest
import yaml

from fusion.errors import FusionError
from fusion.lineage.ancestry import lineage_digest
from fusion.lineage.files import sha256_path
from fusion.publish.card import model_card
from fusion.publish.errors import PublishError
from fusion.publish.facts import collect_facts
from fusion.publish.licence import weights_licence
from fusion.publish.package import build_package
from tests.publish.finished_run import picture, record_again


def test_a_package_holds_everything_and_is_equal_the_second_time(run):
    settings, catalog, root = run
    build_package(settings, catalog, "tiny", root)
    folder = root / "packages/tiny"
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "LICENSE", "lineage.json"} <= names
    document = json.loads((folder / "lineage.json").read_text())
    assert document["digest"] == lineage_digest("tiny", root)
    assert set(document["stages"]) == {
        "curate@tiny-stage1", "curate@tiny-stage1_5", "curate@tiny-stage2", "train_stage2@tiny", "evaluate@tiny",
    }  # fmt: skip
    assert document["digest"] in (folder / "README.md").read_text()
    before = sha256_path(folder)
    build_package(settings, catalog, "tiny", root)
    assert sha256_path(folder) == before
    assert not list((root / "packages").glob(".*"))


def test_the_card_has_what_the_hub_reads_and_the_scores_beside_the_baselines(run):
    settings, catalog, root = run
    build_package(settings, catalog, "tiny", root)
    card = (root / "packages/tiny/README.md").read_text()
    matter = yaml.safe_load(card.split("---")[1])
    assert matter["license"] == "apache-2.0" and matter["library_name"] == "transformers"
    assert matter["pipeline_tag"] == "image-text-to-text" and "base_model" not in matter
    assert matter["datasets"] == ["tiny-stage1", "tiny-stage1_5", "tiny-stage2"]
    assert matter["model-index"][0]["results"][0]["metrics"][0] == {
        "type": "accuracy", "name": "All questions", "value": 85.4,
    }  # fmt: skip
    assert "| all questions | 2,000 | **85.4 (83.4\N{EN DASH}87.2)** | 66.0" in card
    assert "| clipart-captions | short captions | 16 | 8 | CC0-1.0 | CC0-1.0 |" in card
    assert "| text | language | 16 | 8 | CC-BY-4.0 | not yet |" in card
    stage2 = settings.stage("tiny", "stage2")
    epochs, batch, rate = stage2.epochs, stage2.global_batch, stage2.learning_rate
    assert f"| Stage 2 | tiny-stage2 | 5,000 | {epochs} | 300 | {batch} | {rate} |" in card


def test_the_card_of_a_stage_checkpoint_warns_and_that_of_a_finished_model_does_not(run):
    settings, catalog, root = run
    facts = collect_facts(settings, catalog, "tiny", root)
    licence = weights_licence(settings.variant("tiny"))
    for stages, warned in ((1, True), (2, True), (3, False)):
        card = model_card(replace(facts, stages=facts.stages[:stages]), catalog, licence, "digest")
        assert ("> This is a stage checkpoint: not recommended for downstream tasks" in card) is warned


def test_the_usage_code_of_the_card_runs(run, capsys):
    settings, catalog, root = run
    build_package(settings, catalog, "tiny", root)
    (root / "PICTURE").write_bytes(picture(random.Random(1))[0])
    codes = re.findall(r"```python\n(.*?)```", (root / "packages/tiny/README.md").read_text(), re.DOTALL)
    assert len(codes) == 2, "through this project's own functions, and through Transformers"
    said = []
    for code in codes:
        capsys.readouterr()
        exec(code.replace('"FOLDER"', '"packages/tiny"'), {})
        said.append(capsys.readouterr().out.strip())
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("results/tiny/evaluation/scores.json", "scores.json is missing: run `dvc repro evaluate@tiny`"),
        ("results/tiny/stage1/summary.json", "run `dvc repro train_stage1@tiny`"),
        ("data/manifests/tiny-stage2/summary.json", "run `dvc repro curate@tiny-stage2`"),
        ("LICENSE", "LICENSE is missing"),
    ],
)
def test_a_missing_part_is_named(run, path, words):
    settings, catalog, root = run
    (root / path).unlink()
    with pytest.raises(FusionError) as caught:
        build_package(settings, catalog, "tiny", root)
    assert words in str(caught.value)
    assert not (root / "packages/tiny").exists()


def test_a_missing_record_is_named(run):
    settings, catalog, root = run
    for path in (root / "records/evaluate-tiny").iterdir():
        path.unlink()
    with pytest.raises(FusionError, match="records/evaluate-tiny/ has no record"):
        build_package(settings, catalog, "tiny", root)


def test_only_the_evaluated_weights_are_packaged(run):
    settings, catalog, root = run
    path = root / "results/tiny/evaluation/scores.json"
    scores = json.loads(path.read_text())
    scores["checkpoints"]["stage2"] = {"model.safetensors": "0" * 64}
    path.write_text(json.dumps(scores))
    record_again(root)
    with pytest.raises(PublishError, match=r"not those that were evaluated .* `dvc repro evaluate@tiny`"):
        build_package(settings, catalog, "tiny", root)


def test_a_model_that_does_not_pass_the_gate_is_not_packaged(run):
    settings, catalog, root = run
    path = root / "results/tiny/evaluation/scores.json"
    scores = json.loads(path.read_text())
    (margin,) = (row for row in scores["benchmarks"]["scenes-test"]["margins"] if row["group"] == "all")
    margin |= {"margin": -0.01, "low": -0.04, "high": 0.02}
    path.write_text(json.dumps(scores))
    record_again(root)
    with pytest.raises(PublishError, match=r"does not pass the gate: scenes-test \(FAIL\)\n.*\n.*-1.0% over"):
        build_package(settings, catalog, "tiny", root)
    assert not (root / "packages/tiny").exists()


def test_weights_that_do_not_load_back_are_refused(run):
    settings, catalog, root = run
    path = root / "checkpoints/tiny/stage2/config.json"
    config = json.loads(path.read_text())
    config["text_config"]["num_hidden_layers"] += 1
    path.write_text(json.dumps(config))
    record_again(root)
    with pytest.raises(PublishError, match="cannot be loaded back"):
        build_package(settings, catalog, "tiny", root)
    assert list((root / "packages").iterdir()) == []


def test_a_pickle_is_refused(run):
    settings, catalog, root = run
    (root / "checkpoints/tiny/stage2/optimizer.pt").write_bytes(b"x")
    record_again(root)
    with pytest.raises(PublishError, match=r"optimizer\.pt cannot be published"):
        build_package(settings, catalog, "tiny", root)


def test_licences_follow_the_base_models(run):
    settings, _, _ = run
    assert weights_licence(settings.variant("tiny")).id == "apache-2.0"
    phi = weights_licence(settings.variant("fusion-phi35-3b"))
    assert phi.id == "mit" and phi.text is not None and "Microsoft" in phi.text
    assert phi.bases == ("microsoft/Phi-3.5-mini-instruct", "google/siglip-so400m-patch14-384")
    with pytest.raises(PublishError, match=r"text of the Llama 3.1 .* fusion/publish/licences/llama3.1.md"):
        weights_licence(settings.variant("fusion-llama31-8b"))
    renamed = settings.variant("fusion-llama31-8b").model_copy(update={"publish_as": "FUSION-Llama3.1-8B"})
    with pytest.raises(PublishError, match="must begin with `Llama`"):
        weights_licence(renamed)
    base = settings.variant("fusion-phi35-3b").base
    other = base.model_copy(update={"llm": base.llm.model_copy(update={"name": "somebody/model"})})
    with pytest.raises(PublishError, match="somebody/model is not known"):
        weights_licence(settings.variant("fusion-phi35-3b").model_copy(update={"base": other}))
