"""JSON files: equal bytes for equal content, whole or not at all."""

import json
from pathlib import Path

import pytest

from fusion.errors import FusionError
from fusion.files import write_json


def test_equal_content_gives_equal_bytes_in_folders_that_need_not_be_there(tmp_path: Path):
    for name, value in (("a/b.json", {"b": [1.5, "ü"], "a": None}), ("c.json", {"a": None, "b": [1.5, "ü"]})):
        write_json(value, tmp_path / name)
    written = (tmp_path / "a/b.json").read_bytes()
    assert written == (tmp_path / "c.json").read_bytes() and written.endswith(b"\n}\n")
    assert json.loads(written) == {"b": [1.5, "ü"], "a": None}


def test_a_number_that_is_none_is_refused_and_the_old_file_stays(tmp_path: Path):
    path = tmp_path / "a.json"
    write_json({"loss": 1.0}, path)
    with pytest.raises(FusionError, match=r"a\.json cannot be written"):
        write_json({"loss": float("nan")}, path)
    assert json.loads(path.read_text()) == {"loss": 1.0}
    assert [item.name for item in tmp_path.iterdir()] == ["a.json"]
