"""Two checkpoints on the same questions, and the evidence that makes it possible."""

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from fusion.cli import app
from fusion.evaluate.compare import CompareError, compare, read_side
from fusion.hashing import file_sha256
from tests.evaluate.project import BENCHMARK, Project, mmvp
from tests.evaluate.scorers import made


def sides(tmp_path: Path, first: int, second: int) -> tuple[Project, Project]:
    """The same project twice, with so many right answers of 300."""
    a, b = Project(tmp_path / "a"), Project(tmp_path / "b")
    a.evaluate(mmvp(first))
    b.evaluate(mmvp(second))
    return a, b


def test_a_difference_is_found_and_another_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = sides(tmp_path, 240, 276)
    rows = {
        row.column: row for row in compare(a.settings, read_side(str(a.folder)), read_side(str(b.folder)), smallest=1.0)
    }
    found = rows["MMVP"].found
    assert found is not None and found.value == pytest.approx(12.0) and found.low > 0
    assert found.p < found.adjusted <= 0.05, "two columns: the smaller p counts twice"
    same = rows[BENCHMARK].found
    assert same is not None and (same.value, same.adjusted) == (0.0, 1.0)
    needed = rows["MMVP"].needed
    assert needed is not None and needed > 150, "one point of a hundred needs more than these pairs"
    monkeypatch.chdir(a.root)
    told = CliRunner().invoke(app, ["compare", "tiny", str(b.folder)])
    assert told.exit_code == 0 and "B is better" in told.output and "no difference shown" in told.output
    document = json.loads(CliRunner().invoke(app, ["compare", "tiny", str(b.folder), "--json"]).output)
    assert {row["column"] for row in document} == {"MMVP", BENCHMARK}


def test_other_rows_are_not_compared(tmp_path: Path) -> None:
    a, b = sides(tmp_path, 240, 240)
    made.picture(b.root / "mmvp/MMVP Images/1.jpg", "blue")
    b.evaluate(mmvp(240))
    rows = {row.column: row for row in compare(a.settings, read_side(str(a.folder)), read_side(str(b.folder)), 1.0)}
    assert rows["MMVP"].reason == "the rows are not the same" and rows["MMVP"].found is None
    assert rows[BENCHMARK].found is not None


def test_nothing_to_compare(tmp_path: Path) -> None:
    a, _ = sides(tmp_path, 240, 240)
    with pytest.raises(CompareError, match=r"has no evaluation: looked for columns.json in"):
        read_side("nobody", a.root)
    a.edit(lambda document: [facts.update(status="INVALID", reason="x") for facts in document["columns"].values()])
    side = read_side(str(a.folder))
    with pytest.raises(CompareError, match="share no column"):
        compare(a.settings, side, side, 1.0)


def test_records_are_the_evidence_of_every_number(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.evaluate(mmvp(240))
    table = pl.read_parquet(project.folder / "records.parquet")
    assert len(table) == 360
    row = table.filter((pl.col("column") == "MMVP") & (pl.col("question_id") == "241")).to_dicts()[0]
    assert row["question"].startswith("Is the door open?\nA. Open\nB. Closed\nAnswer with the option's letter")
    assert (row["picture"], row["raw"], row["parsed"], row["expected"], row["score"], row["cluster"]) == (
        "241.jpg", "B", "B", '["A"]', 0.0, "120",
    )  # fmt: skip
    facts = project.document["columns"]["MMVP"]
    assert facts["value"] == 80.0 and facts["others"] == {"pair": 80.0} and facts["clusters"] == 150
    assert all(len(facts["evidence"][key]) == 64 for key in ("rows", "prompts", "scorer"))
    weights = file_sha256(project.root / "checkpoints/tiny/stage2/model.safetensors")
    assert project.document["weights"] == {"model.safetensors": weights}


def test_the_same_answers_give_the_same_bytes(tmp_path: Path) -> None:
    a, b = sides(tmp_path, 240, 240)
    for name in ("columns.json", "records.parquet", "submissions.zip"):
        assert (a.folder / name).read_bytes() == (b.folder / name).read_bytes(), name


@pytest.mark.parametrize("what", ["instruction", "rows", "picture"])
def test_evidence_changes_with_what_it_is_of(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fusion.evaluate.column_run import evidence
    from fusion.evaluate.columns.entries import column

    folder = made.make_mmvp(tmp_path)
    entry = column("MMVP")
    scorer = entry.scores_with
    before = evidence(scorer, scorer.read(folder, "x"), lambda question: question.prompt, 16)
    if what == "rows":
        text = (folder / "Questions.csv").read_text().replace("Open (b) Closed,(a)", "Open (b) Closed,(b)", 1)
        (folder / "Questions.csv").write_text(text)
    elif what == "picture":
        made.picture(folder / "MMVP Images/1.jpg", "blue")
    instruction = "y" if what == "instruction" else "x"
    after = evidence(scorer, scorer.read(folder, instruction), lambda question: question.prompt, 16)
    changed = {key for key in before if before[key] != after[key]}
    assert changed == ({"prompts"} if what == "instruction" else {"rows"})
