"""Records: what they hold, when they are written, and when they are left alone."""

import json
from pathlib import Path

import pytest

from fusion.lineage.errors import LineageError
from fusion.lineage.files import sha256_path
from fusion.lineage.record import record_stage
from fusion.lineage.records import read_records


def test_a_record_tells_what_went_in_and_out(project):
    project.run("words", "count@vowels")
    (record,) = read_records("count@vowels", project.root)
    assert record.path.startswith("records/count-vowels/")
    assert record.inputs == {
        "fusion/count.py": sha256_path(project.root / "fusion/count.py"),
        "made/words": sha256_path(project.root / "made/words"),
    }
    assert record.outputs == {"counts/vowels.txt": sha256_path(project.root / "counts/vowels.txt")}
    assert record.document["params"] == {"params.yaml": {"count": {"limit": 3}, "run.seed": 7}}
    assert record.document["command"] == "python stage.py count@vowels"
    assert record.document["parents"] == {"words": read_records("words", project.root)[0].digest}
    run = record.document["run"]
    assert run["seed"] == 7 and run["seconds"] >= 0 and run["peak_memory_bytes"] > 1_000_000
    assert run["git"]["commit"] is None and run["git"]["reason"]
    assert run["environment"]["requirements_sha256"] == sha256_path(project.root / "requirements.txt")
    assert run["hardware"]["cores"] >= 1 and run["changed_during_run"] == []


def test_running_again_leaves_every_record_byte_for_byte(project):
    project.run_all()
    before = project.records()
    project.run_all()
    assert project.records() == before
    lines = [json.loads(line) for line in (project.root / "runs/stages.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == ["words", "count@vowels", "count@others", "package@tiny"] * 2
    assert {line["record"] for line in lines} == set(before)


def test_the_same_output_from_other_code_keeps_both_records(project):
    project.run_all()
    before = project.records()
    (project.root / "fusion/words.py").write_text("# lower case, always\n")
    project.run_all()
    after = project.records()
    assert before.items() <= after.items()
    (new,) = after.keys() - before.keys()
    assert new.startswith("records/words/")


def test_a_changed_parameter_or_output_makes_another_record(project):
    project.run("words", "count@vowels")
    (project.root / "params.yaml").write_text("run: {seed: 8}\ncount: {limit: 3}\n")
    project.run("count@vowels")
    (project.root / "source.txt").write_text("Other words\n")
    project.run("words", "count@vowels")
    assert len(read_records("count@vowels", project.root)) == 3
    assert len(read_records("words", project.root)) == 2


def test_git_commit_and_dirtiness(project):
    project.git("init", "-q")
    project.git("add", ".")
    project.git("commit", "-qm", "start")
    head = project.git("rev-parse", "HEAD").strip()
    project.run("words")
    (record,) = read_records("words", project.root)
    assert record.document["run"]["git"] == {"commit": head, "dirty": False, "changed": [], "reason": None}
    (project.root / "fusion/count.py").write_text("# counts more\n")
    (project.root / "fusion/new file.py").write_text("")
    (project.root / "dvc.lock").write_text("schema: '2.0'\n")
    project.run("count@vowels")
    (record,) = read_records("count@vowels", project.root)
    assert record.document["run"]["git"]["changed"] == ["fusion/count.py", "fusion/new file.py"]
    assert record.document["run"]["git"]["dirty"] is True


def test_a_failing_stage_leaves_no_record_but_is_logged(project, monkeypatch):
    monkeypatch.chdir(project.root)
    with pytest.raises(ValueError, match="no words"), record_stage("words"):
        raise ValueError("no words\nat all")
    assert project.records() == {}
    (line,) = (project.root / "runs/stages.jsonl").read_text().splitlines()
    assert json.loads(line)["failure"] == "no words" and "record" not in json.loads(line)


def test_missing_input_output_or_stage_is_named(project, monkeypatch):
    monkeypatch.chdir(project.root)
    with pytest.raises(LineageError, match="made/words"), record_stage("count@vowels"):
        pass
    with pytest.raises(LineageError, match="without writing made/words"), record_stage("words"):
        pass
    with pytest.raises(LineageError, match="no stage `nothing`"), record_stage("nothing"):
        pass


def test_an_edited_record_is_found(project):
    project.run("words")
    (path,) = project.root.glob("records/words/*.json")
    path.write_text(path.read_text().replace('"python stage.py words"', '"python stage.py werds"'))
    with pytest.raises(LineageError, match="was edited"):
        read_records("words", project.root)
    path.write_text("{")
    with pytest.raises(LineageError, match="not a run record"):
        read_records("words", project.root)


def test_a_missing_parent_record_is_completed_later(project):
    project.run("words")
    for path in project.root.glob("records/words/*.json"):
        path.unlink()
    project.run("count@vowels")
    assert read_records("count@vowels", project.root)[0].document["parents"] == {"words": None}
    project.run("words", "count@vowels")
    (record,) = read_records("count@vowels", project.root)
    assert record.document["parents"] == {"words": read_records("words", project.root)[0].digest}


def test_a_source_edited_during_the_run_is_named(project, monkeypatch):
    project.run("words")
    monkeypatch.chdir(project.root)
    with record_stage("count@vowels"):
        Path("counts").mkdir()
        Path("counts/vowels.txt").write_text("2")
        Path("fusion/count.py").write_text("# changed meanwhile\n")
    (record,) = read_records("count@vowels", project.root)
    assert record.document["run"]["changed_during_run"] == ["fusion/count.py"]


def test_processes_of_the_stage_do_not_record_again(project, monkeypatch):
    monkeypatch.chdir(project.root)
    with record_stage("words"):
        with record_stage("words"):
            Path("made/words").mkdir(parents=True)
            Path("made/words/all.txt").write_text("abc")
        assert project.records() == {}
    assert len(project.records()) == 1


def test_folder_hash_skips_byte_code_and_follows_names(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.py").write_text("x")
    before = sha256_path(tmp_path)
    (tmp_path / "a/__pycache__").mkdir()
    (tmp_path / "a/__pycache__/x.pyc").write_bytes(b"1")
    assert sha256_path(tmp_path) == before
    (tmp_path / "a/x.py").rename(tmp_path / "a/y.py")
    assert sha256_path(tmp_path) != before
