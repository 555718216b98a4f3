"""A table of pictures and texts as a source: one entry of the catalog, from CSV to the manifest."""

import datetime
import io
import json
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.data.catalog import CatalogError
from fusion.data.errors import IngestError
from fusion.data.ingest import csv_rows
from fusion.data.ingest.csv_rows import read_cells
from fusion.data.ingest.origin import parse_origin
from fusion.data.ingest.record import Reject
from fusion.data.origins import table
from fusion.settings import load_settings
from tests.data.workshop import DATASET, Workshop, picture

CAPTIONS = ["a red thing", 'she said "no",\nthen left', "naïve ünïcode", "four"]
FRAME = pl.DataFrame({"pic": [f"{n}.png" for n in range(4)], "said": CAPTIONS, "n": [1, 2, 3, 4]})
COLUMNS = {"image": "pic", "text": "said", "id": "n"}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SCRATCH", tmp_path / "scratch")


def write(frame: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".csv":
        frame.write_csv(path)
    elif path.suffix == ".tsv":
        frame.write_csv(path, separator="\t")
    elif path.suffix == ".parquet":
        frame.write_parquet(path)
    else:
        rows = [json.dumps(row) for row in frame.to_dicts()]
        path.write_text("\n".join(rows) if path.suffix == ".jsonl" else f"[{','.join(rows)}]", encoding="utf-8")


def add(workshop: Workshop, file: str, container: str = "folder", **origin) -> None:
    workshop.add("own", b"", {f"{n}.png": picture(n) for n in range(4)}, container=container)
    images = workshop.sources["own"]["origin"]["images"]
    workshop.sources["own"]["origin"] = {"kind": "table", "file": file, "images": images, **origin}


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "json"])
@pytest.mark.parametrize("container", ["folder", "tar", "zip"])
def test_every_form_gives_the_same_samples(workshop: Workshop, ending: str, container: str):
    quote = {"quote": '"'} if ending == "tsv" else {}
    add(workshop, f"own.{ending}", container, **COLUMNS, **quote, prompts=["What is it?", "Describe it."])
    write(FRAME, workshop.published / f"own.{ending}")
    index = workshop.shard("own")
    assert index["row"].to_list() == [0, 1, 2, 3] and index["image_sha256"].null_count() == 0
    samples = pl.read_parquet(workshop.folder / "data/raw" / DATASET / "own/samples.parquet")
    assert samples["key"].to_list() == ["1", "2", "3", "4"]
    for number, conversation in enumerate(samples["conversations"].to_list()):
        prompt = ("What is it?", "Describe it.")[number % 2]
        assert conversation == [
            {"from": "human", "value": f"<image>\n{prompt}"},
            {"from": "gpt", "value": CAPTIONS[number]},
        ]


def test_questions_and_answers_and_no_pictures(workshop: Workshop):
    frame = pl.DataFrame({"q": ["one?", "two <image>?"], "a": [1.0, 2.5], "pic": ["0.png", "1.png"]})
    write(frame, workshop.published / "own.csv")
    add(workshop, "own.csv", question="q", answer="a", image="pic")
    texts = [[message["value"] for message in talk] for talk in workshop.ingest("own")["conversations"].to_list()]
    assert texts == [["<image>\none?", "1.0"], ["two <image>?", "2.5"]]
    workshop.sources["own"]["origin"] = {
        "kind": "table",
        "file": "own.csv",
        "question": "q",
        "answer": "a",
        "image": None,
    }
    assert workshop.ingest("own")["image"].null_count() == 2
    assert workshop.shard("own")["structure"].to_list()[0] is None


def test_rows_that_cannot_be_used_are_in_the_ledger(workshop: Workshop):
    rows = ["image,caption", "0.png,right", "1.png,", ",no picture", "9.png,lost", "../x.png,out", "2.png,right too"]
    (workshop.published / "own.csv").write_text("\n".join(rows) + "\n")
    add(workshop, "own.csv", text="caption")
    workshop.curate()
    assert workshop.reasons("own") == {
        1: "ingest/bad-message",
        2: "schema/image-marker-without-image",
        3: "shard/missing-image",
        4: "ingest/path-outside",
    }


BROKEN_ROWS = {
    "a quote that is not closed": ('0.png,"zero\n1.png,one\n2.png,two', {0}),
    "one that is closed within another row": ('0.png,zero\n1.png,"Big Joe\n2.png,a "small" thing', {1}),
    "one that is closed at the end of a cell": ('0.png,"zero\n1.png,one",1\n2.png,two', {0, 1}),
    "text behind a quoted cell": ('0.png,zero\n1.png,"one" and more\n2.png,two', {1}),
    "a comma too many": ("0.png,zero\n1.png,one, and more\n2.png,two", {1}),
    "a cell too few": ("0.png,zero\n1.png\n2.png,two", {1}),
    "a line end without quotes": ("0.png,zero\n1.png,one\nand more\n2.png,two", {2}),
    "quotes that are never closed": ('0.png,"zero\n1.png,"one\n2.png,"two', {0, 1, 2}),
}


@pytest.mark.parametrize(("rows", "broken"), BROKEN_ROWS.values(), ids=BROKEN_ROWS)
def test_a_broken_row_costs_itself_alone(workshop: Workshop, rows: str, broken: set[int]):
    (workshop.published / "own.csv").write_text(f"image,caption\n{rows}\n3.png,three\n")
    add(workshop, "own.csv", text="caption")
    samples = workshop.ingest("own")
    assert set(workshop.rejects("own", "raw").items()) == {(row, "unreadable-row") for row in broken}
    count = rows.count("\n") + 2
    assert samples["row"].to_list() == [row for row in range(count) if row not in broken]
    assert samples["conversations"].to_list()[-1][1]["value"] == "three"
    evidence = pl.read_parquet(workshop.folder / "data/raw" / DATASET / "own/rejects.parquet")["evidence"][0]
    assert evidence.startswith(f"line {min(broken) + 2}: ")


@given(cells=st.lists(st.text('ab",\n', max_size=6), min_size=1, max_size=30))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_line_is_lost_or_read_twice(tmp_path: Path, cells: list[str]):
    """Every line of a table with quotes anywhere is in one row, or in one reject."""
    path = tmp_path / "own.csv"
    path.write_text("number,caption\n" + "".join(f"{number},{cell}\n" for number, cell in enumerate(cells)))
    text = path.read_text()
    with path.open(newline="") as file:
        rows = list(read_cells(file, ",", '"'))[1:]
    lines = text.split("\n")[1:-1]
    at = 0
    for row in rows:
        while at < len(lines) and not lines[at]:
            at += 1
        if isinstance(row, Reject):
            assert row.evidence.startswith(f"line {at + 2}: ")
            at += 1
        else:
            assert len(row) == 2
            at += 1 + row[0].count("\n") + row[1].count("\n")
    assert not any(lines[at:])


def test_many_quotes_that_are_not_closed_cost_little_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "own.csv"
    path.write_text("a,b\n" + 'x","y\n' * 3000)
    monkeypatch.setattr(csv_rows, "_AGAIN", 100_000)
    with path.open(newline="") as file, pytest.raises(IngestError, match=r"own\.csv cannot be read: line \d+: "):
        list(read_cells(file, ",", '"'))


def test_a_tsv_has_no_quotes_unless_its_entry_says_so(workshop: Workshop):
    (workshop.published / "own.tsv").write_text('image\tcaption\n0.png\t"Big Joe\n1.png\ta 5" nail\n2.png\t"two"\n')
    add(workshop, "own.tsv", text="caption")
    assert [talk[1]["value"] for talk in workshop.ingest("own")["conversations"].to_list()] == [
        '"Big Joe',
        'a 5" nail',
        '"two"',
    ]
    workshop.sources["own"]["origin"]["quote"] = '"'
    assert [talk[1]["value"] for talk in workshop.ingest("own")["conversations"].to_list()] == ['a 5" nail', "two"]
    assert workshop.rejects("own", "raw") == {0: "unreadable-row"}


def test_a_csv_may_have_no_quotes(workshop: Workshop):
    (workshop.published / "own.csv").write_text('image,caption\n0.png,"Big Joe\n')
    add(workshop, "own.csv", text="caption", quote="")
    assert workshop.ingest("own")["conversations"].to_list()[0][1]["value"] == '"Big Joe'


def test_a_question_without_a_picture_is_a_text_only_sample(workshop: Workshop):
    rows = ["image,q,a", "0.png,what is it?,a thing", ",two and two?,four it is", ",<image> of what?,a thing lost"]
    (workshop.published / "own.csv").write_text("\n".join(rows) + "\n")
    add(workshop, "own.csv", question="q", answer="a")
    workshop.curate()
    assert workshop.reasons("own") == {2: "schema/image-marker-without-image"}
    samples = pl.read_parquet(workshop.folder / "data/raw" / DATASET / "own/samples.parquet")
    assert [talk[0]["value"] for talk in samples["conversations"].to_list()] == [
        "<image>\nwhat is it?",
        "two and two?",
        "<image> of what?",
    ]


NAN = float("nan")


@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_nan_is_a_missing_cell(workshop: Workshop, ending: str):
    """What pandas writes for a missing value, as text a word like any other."""
    columns = {
        "image": [0.5, NAN, NAN, 0.5],
        "q": ["a?", "b?", "c?", "d?"],
        "a": [1.5, NAN, 2.5, 3.5],
        "n": [1, 2, NAN, 4],
    }
    frame = pl.DataFrame(columns, schema_overrides={"n": pl.Float64})
    add(workshop, f"own.{ending}", question="q", answer="a", id="n")
    if ending == "parquet":
        frame.write_parquet(workshop.published / "own.parquet")
    else:
        (workshop.published / "own.json").write_text(json.dumps(frame.to_dicts()))
    samples = workshop.ingest("own")
    assert workshop.rejects("own", "raw") == {1: "bad-message"}
    assert samples["image"].to_list() == ["0.5", None, "0.5"] and samples["key"].to_list() == ["1.0", None, "4.0"]
    assert samples["conversations"].to_list()[1][0]["value"] == "c?"


def test_a_table_by_columns_is_told_what_to_write(workshop: Workshop):
    columns = {"image": {"0": "0.png", "1": "1.png"}, "caption": {"0": "zero", "1": "one"}}
    add(workshop, "own.json", text="caption")
    (workshop.published / "own.json").write_text(json.dumps(columns))
    with pytest.raises(IngestError, match=r'column by column.*orient="records"'):
        workshop.ingest("own")


def test_cells_of_any_type_are_texts_or_rejected(workshop: Workshop):
    days = [datetime.date(2020, 1, day) for day in (1, 2)]
    frame = pl.DataFrame({"image": ["0.png", "1.png"], "day": days, "sure": [True, False]})
    frame.write_parquet(workshop.published / "own.parquet")
    add(workshop, "own.parquet", text="day", id="day")
    assert [talk[1]["value"] for talk in workshop.ingest("own")["conversations"].to_list()] == [
        "2020-01-01",
        "2020-01-02",
    ]
    workshop.sources["own"]["origin"]["text"] = "sure"
    workshop.ingest("own")
    assert workshop.rejects("own", "raw") == {0: "bad-message", 1: "bad-message"}


def test_pictures_may_lie_beside_the_table(workshop: Workshop):
    folder = workshop.published / "flat"
    folder.mkdir()
    (folder / "0.png").write_bytes(picture(0))
    (folder / "metadata.csv").write_text("file_name;text\n0.png;a, b\n")
    origin = {"kind": "table", "file": "flat/metadata.csv", "image": "file_name", "text": "text", "separator": ";"}
    workshop.embed("own", {**origin, "images": ["flat"]})
    assert len(workshop.shard("own")) == 1


def test_a_changed_table_is_read_again(workshop: Workshop):
    write(FRAME, workshop.published / "own.csv")
    add(workshop, "own.csv", **COLUMNS)
    assert len(workshop.ingest("own")) == 4
    write(FRAME.head(2), workshop.published / "own.csv")
    assert len(workshop.ingest("own")) == 2
    assert len(list(table.SCRATCH.rglob("*.jsonl"))) == 1


def test_a_copy_of_other_code_is_not_used(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    write(FRAME, workshop.published / "own.csv")
    add(workshop, "own.csv", **COLUMNS)
    workshop.ingest("own")
    (older,) = table.SCRATCH.rglob("*.jsonl")
    monkeypatch.setattr(table, "code_sha256", lambda parts, packages: "0" * 64)
    workshop.ingest("own")
    (made,) = table.SCRATCH.rglob("*.jsonl")
    assert made != older


BROKEN = [
    ("own.csv", b"image,caption\na.png,caf\xe9\n", "iconv"),
    ("own.csv", b'image,"caption\na.png,one\n', "line 1: .*double quotes"),
    ("own.csv", b"", "empty"),
    ("own.csv", b"image,captions\na.png,x\n", "did you mean `captions`"),
    ("own.jsonl", b'{"image": "a.png", "captions": "x"}', "did you mean `captions`"),
    ("own.jsonl", b'{"image": "a.png", ', "not valid JSON"),
    ("own.parquet", b"PAR1 no", "cannot be read"),
    ("none.csv", None, "missing"),
]


@pytest.mark.parametrize(("file", "content", "told"), BROKEN)
def test_a_broken_table_is_told_with_what_mends_it(workshop: Workshop, file: str, content: bytes | None, told: str):
    if content is not None:
        (workshop.published / file).write_bytes(content)
    add(workshop, file, text="caption")
    with pytest.raises(IngestError, match=told) as caught:
        workshop.ingest("own")
    assert file in str(caught.value)
    assert not list(table.SCRATCH.rglob("*.jsonl"))


def test_pictures_inside_a_parquet_file_are_told(workshop: Workshop):
    frame = pl.DataFrame({"image": [{"bytes": b"x", "path": "a"}], "caption": ["x"]})
    frame.write_parquet(workshop.published / "own.parquet")
    add(workshop, "own.parquet", text="caption")
    with pytest.raises(IngestError, match="write pictures out as files"):
        workshop.ingest("own")


@pytest.mark.parametrize(
    ("origin", "why"),
    [({}, "column `text`"), ({"text": "a", "answer": "b"}, "column `text`"), ({"question": "a"}, "column `text`")],
)
def test_an_entry_names_one_form(workshop: Workshop, origin: dict[str, str], why: str):
    add(workshop, "own.csv", **origin)
    with pytest.raises(CatalogError, match=why):
        workshop.catalog  # noqa: B018


def test_only_its_own_file_is_code_of_the_kind():
    origin = parse_origin({"kind": "table", "file": "x.csv", "text": "t"})
    assert origin.code() == "fusion/data/origins/table.py"
    assert load_settings().data.roots == {}


cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('\n",;'), min_size=1, max_size=20)


@given(rows=st.lists(cells, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_texts_come_through_unchanged(workshop: Workshop, rows: list[str]):
    frame = pl.DataFrame({"image": [f"{n}.png" for n in range(len(rows))], "caption": rows})
    buffer = io.BytesIO()
    frame.write_csv(buffer)
    (workshop.published / "own.csv").write_bytes(buffer.getvalue())
    add(workshop, "own.csv", text="caption")
    assert [talk[1]["value"] for talk in workshop.ingest("own")["conversations"].to_list()] == rows


def test_what_a_killed_copy_leaves_is_removed(workshop: Workshop):
    write(FRAME, workshop.published / "own.csv")
    add(workshop, "own.csv", **COLUMNS)
    workshop.ingest("own")
    (made,) = table.SCRATCH.rglob("*.jsonl")
    left = made.with_name(".unfinished-x")
    made.rename(left)
    workshop.ingest("own")
    assert made.is_file() and not left.exists()
