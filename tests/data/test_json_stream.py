"""Annotation files: any JSON comes through as it is; a broken one says where."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.data.errors import IngestError
from fusion.data.ingest import json_stream
from fusion.data.ingest.record import Reject

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
SAME_FOLDER = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 7 bytes, so that every kind of value is cut somewhere."""
    monkeypatch.setattr(json_stream, "_CHUNK", 7)


@SAME_FOLDER
@given(values=st.lists(VALUES, max_size=5), ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
def test_an_array_comes_through(tmp_path: Path, small_chunks: None, values: list, ascii_only: bool, indent: int | None):
    file = tmp_path / "a.json"
    text = json.dumps(values, ensure_ascii=ascii_only, indent=indent)
    file.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert list(json_stream.read_records(file)) == values


@SAME_FOLDER
@given(values=st.lists(st.dictionaries(st.text(), VALUES, max_size=3), min_size=1, max_size=5))
def test_lines_come_through(tmp_path: Path, small_chunks: None, values: list):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(json.dumps(value) for value in values) + "\n")
    assert list(json_stream.read_records(file)) == values


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b'[{"a": 1},\n{"a": 2', "line 2, byte 18"),
        (b'[{"a": 1},\n{"a" 2}]', "line 2, byte 16"),
        (b'[{"a": 1}\n{"a": 2}]', "expected `,` or `]`, line 2, byte 10"),
        (b'[{"a": 1}', "not closed, line 1, byte 9"),
        (b'[{"a": 1}] x', "after the end of the array, line 1, byte 11"),
        (b'{"a": 1} {"a": 2}', "one JSON value a line, line 1, byte 9"),
        (b'{"a": 1}\n{"a": "x', "line 2, byte 15"),
        (b'[{"a": "\xff"}]', "not UTF-8 at byte 8"),
        (b"[" * 3000, "nested too deeply"),
        (b'[{"id": ' + b"1" * 5000, "more than 4300 digits, line 1, byte 1"),
    ],
)
def test_a_broken_file_says_where(tmp_path: Path, data: bytes, where: str):
    file = tmp_path / "broken.json"
    file.write_bytes(data)
    with pytest.raises(IngestError) as caught:
        list(json_stream.read_records(file))
    assert where in str(caught.value)
    assert "broken.json" in str(caught.value)


def test_a_fault_deep_in_a_large_file_is_found_where_it_is(tmp_path: Path, small_chunks: None):
    file = tmp_path / "large.json"
    sound = b"[" + b",\n".join(b'{"n": %d}' % number for number in range(2000))
    file.write_bytes(sound + b",\n{'n': 1}]")
    with pytest.raises(IngestError, match=rf"line 2001, byte {len(sound) + 3} "):
        list(json_stream.read_records(file))


def test_a_mark_at_the_start_is_no_fault(tmp_path: Path):
    (tmp_path / "bom.json").write_bytes(b'\xef\xbb\xbf [{"a": 1}]')
    assert list(json_stream.read_records(tmp_path / "bom.json")) == [{"a": 1}]
    (tmp_path / "empty.json").write_bytes(b"[]")
    assert list(json_stream.read_records(tmp_path / "empty.json")) == []


LIMIT = 40


@SAME_FOLDER
@given(values=st.lists(VALUES, min_size=1, max_size=6), lines=st.booleans(), chunk=st.sampled_from([7, 64, 1000]))
def test_what_is_too_long_is_passed_over_and_nothing_else(tmp_path: Path, values: list, lines: bool, chunk: int):
    if lines:
        values = [[value] for value in values]  # a file of lines may not begin with a text or number
    texts = [json.dumps(value) for value in values]
    file = tmp_path / "a.json"
    file.write_text("\n".join(["{}", *texts]) if lines else f"[{{}},{','.join(texts)}]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_stream, "_CHUNK", chunk)
        patch.setattr(json_stream, "_LONGEST_RECORD", LIMIT)
        found = list(json_stream.read_records(file))
    assert found[0] == {} and len(found) == len(values) + 1
    for value, text, read in zip(values, texts, found[1:], strict=True):
        if len(text) > LIMIT:
            assert isinstance(read, Reject) and read.reason == "record-too-long"
        else:
            assert read == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [("[" * 5000 + '"]\\""' + "]" * 5000, "nested-too-deeply"), ('{"id": ' + "1" * 5000 + "}", "number-too-long"),
     ("1" * 5000, "number-too-long")],
)  # fmt: skip
@pytest.mark.parametrize("form", ["[0, {}, 1]", "0\n{}\n1"])
def test_a_value_that_cannot_be_read_costs_itself_alone(
    tmp_path: Path, small_chunks: None, value: str, reason: str, form: str
):
    (tmp_path / "a.json").write_text(form.format(value))
    before, rejected, after = json_stream.read_records(tmp_path / "a.json")
    assert (before, after) == (0, 1)
    assert isinstance(rejected, Reject) and rejected.reason == reason
