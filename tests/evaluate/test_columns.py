"""The zoo's columns as data: all there, checked, and what the command tells."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusion.cli import app
from fusion.evaluate.columns.entries import ColumnError, column, load_columns, read_column
from fusion.evaluate.scorers.base import Record
from fusion.evaluate.scorers.known import scorers_by_name
from fusion.zoo.entries import load_zoo
from tests.evaluate.scorers import made

FOLDER = Path("fusion/evaluate/columns")


def test_every_column_of_the_zoo_has_one_entry_in_order() -> None:
    names = [entry.name for entry in load_zoo().columns]
    assert list(load_columns()) == names and len(names) == 23
    assert {entry.scorer for entry in load_columns().values()} == set(scorers_by_name()) - {"embedded"}


def test_published_scores_come_from_the_zoo() -> None:
    assert column("POPE").published("FUSION-Phi3.5-3B") == 88.9
    with pytest.raises(ColumnError, match="did you mean"):
        column("POPE").published("FUSION-Phi3.5-3")
    assert not any("88.9" in path.read_text() for path in FOLDER.glob("*.yaml")), "numbers of the zoo are not repeated"


def test_what_cannot_be_compared_is_never_called_the_same() -> None:
    for entry in load_columns().values():
        assert not (entry.judge and entry.comparability.status == "same"), entry.column
        assert entry.data.revision is None or entry.comparability.why


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("scorer: popes", "did you mean `pope`"),
        ("cluster: house", "cluster"),
        ("questions: 0", "questions"),
        ("judge: {model: null, version: null, why: x}", "judge"),
        ("surprise: 1", "unknown key"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, change: str, message: str) -> None:
    key = change.split(":")[0]
    kept = [line for line in (FOLDER / "pope.yaml").read_text().splitlines() if not line.startswith(f"{key}:")]
    path = tmp_path / "pope.yaml"
    path.write_text("\n".join([*kept, change]) + "\n")
    with pytest.raises(ColumnError, match=message):
        read_column(path)


def test_the_command_lists_tells_and_gives_json() -> None:
    runner = CliRunner()
    listed = runner.invoke(app, ["columns"])
    assert listed.exit_code == 0 and max(map(len, listed.output.splitlines())) <= 100
    assert all(name in listed.output for name in load_columns())
    told = runner.invoke(app, ["columns", "POPE"]).output
    assert "Mean of the F1s" in told and "FUSION-Phi3.5-3B 88.9" in told and "coco_pope_random.json" in told
    document = json.loads(runner.invoke(app, ["columns", "--json"]).output)
    assert len(document) == 23 and document[3]["published"]["FUSION-Phi3.5-3B"] == 88.9
    with pytest.raises(ColumnError, match="did you mean `POPE`"):
        runner.invoke(app, ["columns", "POPPE"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("names", "make"),
    [
        (["POPE"], made.make_pope), (["MME-P", "MME-C"], made.make_mme), (["MMB_EN", "MMB_CN"], made.make_mmbench),
        (["CV-Bench"], made.make_cv_bench), (["MMVP"], made.make_mmvp), (["SQA"], made.make_science_qa),
        (["MMMU"], made.make_mmmu), (["HallB"], made.make_hallusion),
    ],
)  # fmt: skip
def test_the_numbers_that_a_column_names_are_made_by_its_scorer(tmp_path: Path, names: list[str], make: object) -> None:
    folder = make(tmp_path)  # type: ignore[operator]
    for name in names:
        entry = column(name)
        scorer = entry.scores_with
        questions = scorer.read(folder, entry.instruction)
        records = [Record(question, "A", scorer.grade(question, "A")) for question in questions]
        values = scorer.values(records)
        assert {entry.value, *entry.also} <= set(values)
        assert 0.0 <= values[entry.value].point <= entry.zoo.maximum
