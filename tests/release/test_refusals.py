"""What `fusion publish` refuses, each reason by itself: what, where, what to do; and nothing is written then."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from fusion.release.errors import RefusedError
from tests.adopted import FOLDER, adopt
from tests.release.published import PublishedProject


def failed_gate(project: PublishedProject) -> None:
    path = project.root / "results/tiny/evaluation/scores.json"
    scores = json.loads(path.read_text())
    (margin,) = (row for row in scores["benchmarks"]["scenes-test"]["margins"] if row["group"] == "all")
    margin |= {"margin": -0.01, "low": -0.04, "high": 0.02}
    path.write_text(json.dumps(scores))


def unknown_licence(project: PublishedProject) -> None:
    path = project.root / "data/catalog/tiny.yaml"
    path.write_text(path.read_text().replace("declared: CC-BY-4.0", "declared: null"))
    project.commit()


def illegal_name(project: PublishedProject) -> None:
    project.set("variants.tiny.publish_as", "FUSION--Tiny")
    project.commit()


def written_by(project: PublishedProject, model: str) -> None:
    path = project.root / "data/catalog/tiny.yaml"
    written = f"declared: MIT\n          evidence: texts with {model}\n"
    path.write_text(path.read_text().replace("declared: MIT\n", written))
    project.commit()


def name_against_a_licence(project: PublishedProject) -> None:
    written_by(project, "Llama-3.1")


def no_text_of_a_licence(project: PublishedProject) -> None:
    project.set("variants.tiny.publish_as", "Llama-FUSION-Tiny")
    written_by(project, "Llama-3.1")


def writer_of_an_unknown_version(project: PublishedProject) -> None:
    project.set("variants.tiny.publish_as", "Llama-FUSION-Tiny")
    written_by(project, "Llama-3.x")


def writer_whose_licence_forbids_it(project: PublishedProject) -> None:
    project.set("variants.tiny.publish_as", "Llama-3-FUSION-Tiny")
    written_by(project, "Llama-3.0")


def dirty_tree(project: PublishedProject) -> None:
    project.set("run.seed", 1)


def override_that_nobody_committed(project: PublishedProject) -> None:
    (project.root / "data/licence-overrides.yaml").write_text("'unknown:x/y': 'a decision of the legal department'\n")


def missing_record(project: PublishedProject) -> None:
    for path in (project.root / "records/train_stage1-tiny").iterdir():
        path.unlink()


def record_that_nobody_committed(project: PublishedProject) -> None:
    project.git("rm", "-q", "--cached", "-r", "records/train_stage1-tiny")
    project.git("commit", "-q", "-m", "without it")


def changed_package(project: PublishedProject) -> None:
    path = project.root / "packages/tiny/README.md"
    path.write_text(path.read_text() + "The best of all models.\n")


def changed_stage_checkpoint(project: PublishedProject) -> None:
    path = project.root / "checkpoints/tiny/stage1/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\0\0")


def no_package(project: PublishedProject) -> None:
    (project.root / "packages/tiny/lineage.json").unlink()


def unsigned(project: PublishedProject) -> None:
    project.set("publish.signing.required", True)
    project.commit()


def no_key_file(project: PublishedProject) -> None:
    project.set("publish.signing.key", "nowhere.pem")
    project.commit()


CASES: list[tuple[Callable[[PublishedProject], None], tuple[str, ...]]] = [
    (failed_gate, ("gate: `fusion gate tiny` does not pass it", "scenes-test", "FAIL")),
    (unknown_licence, ("tiny-stage1_5/text: its licence is not known", "data/licence-overrides.yaml")),
    (illegal_name, ("name: fusion/FUSION--Tiny-Stage1 cannot be the name", "change variants.tiny.publish_as")),
    (name_against_a_licence, ("name:Llama: Llama 3.1 Community License Agreement", "begins with `Llama`")),
    (no_text_of_a_licence, ("Llama 3.1 Community License Agreement: its texts", "publish/licences/llama3.1.md")),
    (writer_of_an_unknown_version, ("which version of Llama wrote its texts is not known", "A person has to find out")),
    (writer_whose_licence_forbids_it, ("llama-3.0:tiny-stage2/easy-vqa", "section 1.b.v", "any other large language")),
    (dirty_tree, ("tree: the tree differs from the commit in params.yaml: commit it",)),
    (override_that_nobody_committed, ("tree: data/licence-overrides.yaml is not committed as it is", "git add")),
    (missing_record, ("records/train_stage1-tiny/ has no record", "git checkout -- records")),
    (record_that_nobody_committed, ("commit: records/train_stage1-tiny/", "git add dvc.lock records")),
    (changed_package, ("packages/tiny is not what a record of `package@tiny`", "`dvc repro package@tiny`")),
    (changed_stage_checkpoint, ("checkpoints/tiny/stage1 is not what a record", "dvc checkout")),
    (no_package, ("packages/tiny is not there: run `dvc repro package@tiny`",)),
    (unsigned, ("publish.signing.required is set in params.yaml, and there is no key", "--key")),
    (no_key_file, ("nowhere.pem is not there: it is the file with the private key",)),
]


@pytest.mark.parametrize(("change", "words"), CASES, ids=[change.__name__ for change, _ in CASES])
def test_it_is_refused(project: PublishedProject, change: Callable[[PublishedProject], None], words: tuple[str, ...]):
    change(project)
    with pytest.raises(RefusedError) as caught:
        project.publish()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (project.root / "published").exists() and not project.git("tag", "--list")


def test_a_token_that_is_absent_is_refused_when_it_is_needed(
    project: PublishedProject, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for how in ({"push": True}, {"hub": True}):
        with pytest.raises(RefusedError, match="the environment has no HF_TOKEN: make a token with write access"):
            project.publish(**how)
    assert not (project.root / "published").exists()


def test_a_hub_that_is_not_there_is_told_without_the_token(project: PublishedProject, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_TOKEN", "hf_aTokenThatMayBeShownNowhere")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RefusedError, match="run the same command again") as caught:
        project.publish(push=True)
    assert "hf_aToken" not in str(caught.value)


def test_all_reasons_are_told_at_once(project: PublishedProject):
    failed_gate(project)
    unsigned(project)
    dirty_tree(project)
    with pytest.raises(RefusedError, match="4 things stand against it") as caught:
        project.publish()
    reasons = [line.split(":")[0] for line in str(caught.value).splitlines() if line.startswith("- ")]
    assert reasons == ["- tree", "- gate", "- record", "- signature"]


def test_a_run_from_a_dirty_tree_counts_only_where_its_code_is_that_of_the_commit(project: PublishedProject):
    """A record that says `dirty`: fine as long as what it read is what the commit has."""
    for path in (project.root / "records").rglob("curate-tiny-stage1/*.json"):
        document = json.loads(path.read_text())
        document["run"]["git"] |= {"dirty": True, "changed": ["code.py"]}
        path.write_text(json.dumps(document))
    project.commit()
    project.publish()
    (project.root / "code.py").write_text("# another\n")
    project.commit()
    with pytest.raises(RefusedError, match=r"curate@tiny-stage1 ran from a tree that differed .* in code\.py"):
        project.publish()


def test_an_adopted_checkpoint_stands_in_no_way_though_its_tree_was_dirty(tmp_path: Path):
    project = PublishedProject(tmp_path / "project").build(adopted=True)
    (record,) = (project.root / "records/adopt-tiny-stage1_5").glob("*.json")
    assert json.loads(record.read_text())["run"]["git"]["dirty"], "as params.yaml was edited before"
    # Another was tried in between, and git and DVC brought the first one back.
    adopt(project.root, b"others", FOLDER, started="2026-02-01T00:00:00.000+00:00")
    project.commit()
    adopt(project.root, b"weights")
    project.commit()
    project.publish()
    assert (project.root / "published").is_dir()


@pytest.mark.parametrize("what", ["records/adopt-tiny-stage1_5", "checkpoints/tiny/stage1_5.dvc"])
def test_record_and_hash_of_an_adoption_have_to_be_committed(tmp_path: Path, what: str):
    project = PublishedProject(tmp_path / "project").build(adopted=True)
    project.git("rm", "-q", "--cached", "-r", what)
    project.git("commit", "-q", "-m", "without it")
    with pytest.raises(RefusedError, match=f"commit: {what}"):
        project.publish()


def test_a_key_that_cannot_sign_is_refused(project: PublishedProject, tmp_path: Path):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    (tmp_path / "no.pem").write_text("no key\n")
    with pytest.raises(RefusedError, match="cannot sign"):
        project.publish(key=tmp_path / "no.pem")
