"""The gate fails closed: whatever goes wrong with a column, no number of it lets anything pass."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from fusion.cli import app
from fusion.evaluate.columns.entries import ColumnError
from fusion.evaluate.gate import GateError, judge_variant
from fusion.evaluate.verdict import Status, Verdict
from fusion.settings import SettingsError
from tests.evaluate.judge_server import judging
from tests.evaluate.project import BENCHMARK, Project, mmvp
from tests.evaluate.scorers import made


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "project")


def verdicts(project: Project) -> dict[str, Verdict]:
    return {verdict.column: verdict for verdict in judge_variant(project.settings, "tiny", project.root)}


def gate(project: Project, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[int, str]:
    monkeypatch.chdir(project.root)
    result = CliRunner().invoke(app, ["gate", "tiny", *options])
    return result.exit_code, result.output


def blocked(project: Project, monkeypatch: pytest.MonkeyPatch, name: str) -> Verdict:
    """The verdict over a column for which the command has ended with exit code 1, and that blocks."""
    code, output = gate(project, monkeypatch, "--json")
    assert code == 1
    found = {facts["column"]: Verdict(**facts | {"status": Status(facts["status"])}) for facts in json.loads(output)}
    assert found[name].blocks
    return found[name]


def test_all_is_well(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.evaluate(mmvp(240))  # 80.0, published 76.0
    found = verdicts(project)
    assert found["MMVP"].status is Status.PASS and found[BENCHMARK].status is Status.PASS
    assert found["POPE"] == Verdict("POPE", Status.NOT_RUN, False, "not among the columns that were run")
    assert len(found) == 24 and not any(verdict.blocks for verdict in found.values())
    code, output = gate(project, monkeypatch)
    assert code == 0 and "tiny: passes" in output and "80.0 (" in output and "76.0 - 3.0" in output
    assert len(json.loads(gate(project, monkeypatch, "--json")[1])) == 24


@pytest.mark.parametrize(("right", "status"), [(219, Status.PASS), (218, Status.FAIL), (0, Status.FAIL)])
def test_a_margin_is_kept_to_the_question(project: Project, right: int, status: Status) -> None:
    project.evaluate(mmvp(right))  # 73.0 is the least
    assert verdicts(project)["MMVP"].status is status


def test_a_model_that_is_no_better_than_blind(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.evaluate(mmvp(240), margin=0.06)  # the lower bound is 0.04, and 0.05 is asked for
    found = verdicts(project)[BENCHMARK]
    assert found.status is Status.FAIL and "+6.0% over grey picture" in found.reason
    code, output = gate(project, monkeypatch)
    assert code == 1 and f"does not pass: {BENCHMARK}" in output


def rows_changed(project: Project) -> None:
    path = project.root / "data/benchmarks" / BENCHMARK / "questions.parquet"
    pl.read_parquet(path).with_columns(answer=pl.lit("no")).write_parquet(path)


def picture_changed(project: Project) -> None:
    path = project.root / "data/benchmarks" / BENCHMARK / "images.tar"
    data = bytearray(path.read_bytes())
    data[560] ^= 1
    path.write_bytes(bytes(data))


def benchmark_gone(project: Project) -> None:
    shutil.rmtree(project.root / "data/benchmarks" / BENCHMARK)


def weights_changed(project: Project) -> None:
    (project.root / "checkpoints/tiny/stage2/model.safetensors").write_bytes(b"weightz")


def weights_gone(project: Project) -> None:
    (project.root / "checkpoints/tiny/stage2/model.safetensors").unlink()


def record_lost(project: Project) -> None:
    path = project.folder / "records.parquet"
    pl.read_parquet(path).slice(1).write_parquet(path)


def records_edited(project: Project) -> None:
    path = project.folder / "records.parquet"
    pl.read_parquet(path).with_columns(score=pl.lit(1.0)).write_parquet(path)


def edited(name: str, key: str, value: Any) -> Callable[[Project], None]:
    def change(project: Project) -> None:
        def put(document: dict[str, Any]) -> None:
            if value is None:
                del document["columns"][name][key]
            else:
                document["columns"][name][key] = value

        project.edit(put)

    return change


@pytest.mark.parametrize(
    ("damage", "name", "status", "reason"),
    [
        (rows_changed, BENCHMARK, Status.INVALID, "not those that were asked"),
        (picture_changed, BENCHMARK, Status.INVALID, "not those that were asked"),
        (benchmark_gone, BENCHMARK, Status.INVALID, "is not in"),
        (weights_changed, "MMVP", Status.INVALID, "weights on the disk"),
        (weights_changed, BENCHMARK, Status.INVALID, "weights on the disk"),
        (weights_gone, "MMVP", Status.INVALID, "weights on the disk"),
        (record_lost, "MMVP", Status.INVALID, "299 of its 300"),
        (records_edited, "MMVP", Status.INVALID, "records give 100.0"),
        (edited("MMVP", "value", 99.0), "MMVP", Status.INVALID, "columns.json says 99.0"),
        (edited("MMVP", "value", None), "MMVP", Status.INVALID, "cannot be read: KeyError('value')"),
        (edited("MMVP", "value", "99"), "MMVP", Status.INVALID, "cannot be read"),
        (edited("MMVP", "unparsed", None), "MMVP", Status.INVALID, "cannot be read"),
        (edited("MMVP", "unparsed", 0.06), "MMVP", Status.INVALID, "6.0% of the answers name nothing"),
        (edited("MMVP", "questions", 299), "MMVP", Status.INVALID, "299 questions, and there must be 300"),
        (edited("MMVP", "scorer", "mmvq"), "MMVP", Status.INVALID, "did you mean `mmvp`"),
        (edited("MMVP", "value_name", "pair"), "MMVP", Status.INVALID, "that of the column is `single`"),
        (edited("MMVP", "status", "FINE"), "MMVP", Status.INVALID, ""),
        (lambda project: project.edit(lambda d: d["columns"].pop("MMVP")), "MMVP", Status.NOT_RUN, "not among"),
    ],
)
def test_damage(
    project: Project, monkeypatch: pytest.MonkeyPatch, damage: Any, name: str, status: Status, reason: str
) -> None:
    project.evaluate(mmvp(240))
    damage(project)
    found = blocked(project, monkeypatch, name)
    assert found.status is status and reason in found.reason


@pytest.mark.parametrize("name", ["columns.json", "records.parquet", "scores.json"])
def test_a_file_that_is_missing_or_broken(project: Project, name: str) -> None:
    project.evaluate(mmvp(240))
    (project.folder / name).write_bytes(b"{}")
    with pytest.raises(GateError, match="dvc repro evaluate@tiny"):
        judge_variant(project.settings, "tiny", project.root)
    (project.folder / name).unlink()
    with pytest.raises(GateError, match="holds no evaluation"):
        judge_variant(project.settings, "tiny", project.root)


def test_answers_that_name_nothing_are_no_low_number_but_none(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.evaluate(lambda ask: "I am a language model")
    found = blocked(project, monkeypatch, "MMVP")
    assert found.status is Status.INVALID and "100.0% of the answers name nothing" in found.reason


def test_data_that_is_not_there_or_not_whole(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.params(["MMVP"], ["MMVP"], roots={"MMVP": "nowhere"})
    project.evaluate(mmvp(240))
    found = blocked(project, monkeypatch, "MMVP")
    assert found.status is Status.INVALID and "nowhere is not there: it must hold Questions.csv" in found.reason
    project.params(["MMVP"], ["MMVP"], roots={"POPE": "pope"})
    project.evaluate(mmvp(240))
    assert "names no folder for MMVP" in verdicts(project)["MMVP"].reason
    project.params(["MMVP"], ["MMVP"])
    made.make_mmvp(project.root / "mmvp", 149)
    system = project.evaluate(mmvp(240))
    found = blocked(project, monkeypatch, "MMVP")
    assert found.status is Status.INVALID and "298 questions" in found.reason
    assert system.asked == [], "nothing is asked of a benchmark that is not whole"
    made.make_mmvp(project.root / "mmvp", 150)
    (project.root / "mmvp/MMVP Images/7.jpg").unlink()
    project.evaluate(mmvp(240))
    assert "7.jpg cannot be read" in verdicts(project)["MMVP"].reason


def test_a_column_that_there_is_not(project: Project) -> None:
    project.params(["MMPV"], [])
    with pytest.raises(ColumnError, match="did you mean `MMVP`"):
        project.evaluate(mmvp(240))


def test_a_gate_that_asks_for_what_is_not_run_is_a_wrong_setting(project: Project) -> None:
    project.params(["MMVP"], ["POPE"])
    with pytest.raises(SettingsError, match=r"variants.tiny.evaluation.gate.columns: POPE is not in"):
        _ = project.settings


def test_what_cannot_be_compared_does_not_pass(project: Project) -> None:
    made.make_llava_wild(project.root / "wild", 60)
    with judging(lambda body: "8 8") as server:
        project.params(["LLaVA_W"], ["LLaVA_W"], judge=server.address)
        project.evaluate(lambda ask: "A square.")
        once = project.document["columns"]["LLaVA_W"]
        project.evaluate(lambda ask: "A square.")
        assert len(server.requests) == 60 and project.document["columns"]["LLaVA_W"] == once
    assert once["judge"] == {"model": "j", "failed": False, "verdicts": 60, "calls": 60, "failures": 0}
    found = verdicts(project)["LLaVA_W"]
    assert found.status is Status.INCOMPARABLE and found.score.startswith("100.0 (") and found.blocks


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (lambda body: "8 8", "refused"),
        (lambda body: 500, "HTTP 500"),
        (lambda body: [b" "] * 40, "no answer in time"),
        (lambda body: "Both are fine answers!", "cannot be read"),
        # One failure among many good words is enough.
        (lambda body: "-1 -1" if "What is 59?" in body["messages"][0]["content"] else "8 8", "cannot be read"),
    ],
)
def test_a_judge_that_fails_makes_no_number(
    project: Project, monkeypatch: pytest.MonkeyPatch, behaviour: Any, reason: str
) -> None:
    """Down, in error, slow, babbling."""
    made.make_llava_wild(project.root / "wild", 60)
    with judging(behaviour) as server:
        if reason == "refused":
            server.close()
        project.params(["LLaVA_W"], ["LLaVA_W"], judge=server.address)
        project.evaluate(lambda ask: "A square.")
    facts = project.document["columns"]["LLaVA_W"]
    assert facts["status"] == "INVALID" and "value" not in facts
    assert facts["judge"]["failed"] and facts["judge"]["failures"] == 1
    assert facts["judge"]["calls"] == facts["judge"]["verdicts"] + 1
    found = blocked(project, monkeypatch, "LLaVA_W")
    assert found.status is Status.INVALID and reason in found.reason and found.score == ""


def test_no_judge_at_all(project: Project) -> None:
    made.make_llava_wild(project.root / "wild", 60)
    project.params(["LLaVA_W"], ["LLaVA_W"])
    project.evaluate(lambda ask: "A square.")
    assert "no judge is set" in verdicts(project)["LLaVA_W"].reason


def test_the_next_checkpoint_is_held_to_the_accepted_one(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.evaluate(mmvp(270))  # 90.0
    assert gate(project, monkeypatch, "--accept")[0] == 0
    assert gate(project, monkeypatch)[0] == 0, "it passes beside itself"
    project.evaluate(mmvp(265))  # 1.7 less: within two percent of the scale
    found = verdicts(project)["MMVP"]
    assert found.status is Status.PASS and "-1.7 (" in found.reason
    project.evaluate(mmvp(240))  # above the zoo's number, and ten points below the accepted one
    found = verdicts(project)["MMVP"]
    assert found.status is Status.FAIL and "-10.0 (" in found.reason and found.blocks
    kept = "".join(str(row) for row in pl.read_parquet(project.root / "data/accepted/tiny/scores.parquet").rows())
    assert "Is the door open" not in kept, "no word of a benchmark goes into git"


def test_an_accepted_checkpoint_of_other_rows_or_broken(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.evaluate(mmvp(240))
    assert gate(project, monkeypatch, "--accept")[0] == 0
    rows_changed(project)
    project.evaluate(mmvp(240))
    found = verdicts(project)[BENCHMARK]
    assert found.status is Status.INVALID and "those of the accepted checkpoint" in found.reason
    (project.root / "data/accepted/tiny/scores.parquet").unlink()
    with pytest.raises(Exception, match="restore it from git"):
        judge_variant(project.settings, "tiny", project.root)


def test_nothing_is_accepted_that_does_not_pass(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.evaluate(mmvp(10))
    code, output = gate(project, monkeypatch, "--accept")
    assert code == 1 and "does not pass: MMVP" in output and not (project.root / "data/accepted").exists()
