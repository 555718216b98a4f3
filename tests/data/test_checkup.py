"""`fusion doctor --data`: each mistake is found before ingest, and told with what mends it."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusion.data.checkup import run_checkup
from fusion.data.errors import CatalogError
from fusion.data.origins import table
from tests.data.workshop import DATASET, Workshop, picture, sample, talk

PICTURES = {f"{number}.png": picture(number) for number in range(3)}


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "SCRATCH", tmp_path / "scratch")


def check(workshop: Workshop, capsys: pytest.CaptureFixture[str], name: str = f"{DATASET}/own") -> tuple[int, str]:
    capsys.readouterr()
    code = run_checkup(workshop.settings, workshop.catalog, name)
    return code, capsys.readouterr().out


def told(record: dict, **more) -> dict:
    return {**record, **more}


@pytest.mark.parametrize("container", ["folder", "tar", "zip"])
def test_sound_data_passes(workshop: Workshop, capsys, container: str):
    workshop.add("own", [sample(n) for n in range(3)], PICTURES, container=container)
    code, out = check(workshop, capsys, DATASET)
    assert code == 0 and "FAIL" not in out
    assert "3 samples: 3 with a picture, 0 text only" in out
    assert "3 of the 3 pictures" in out and f"next: fusion ingest {DATASET} own" in out


BAD_ROWS = [
    ({"image": "1.png", "caption": "a"}, "no-conversations", "image: image, text: caption"),
    ({"file_name": "1.png", "question": "q", "answer": "a"}, "no-conversations", "question: question, answer: answer"),
    ({"messages": [{"role": "user", "content": "x"}]}, "no-conversations", "call `messages` `conversations`"),
    (told(sample(1), conversations=[{"role": "user", "content": "x"}]), "bad-message", "not `role` and `content`"),
    (told(sample(1), conversations=[{"from": "user", "value": "x"}]), "wrong-roles", "rename or take out user"),
    (told(sample(1), image="/home/me/1.png"), "path-outside", "relative to the image folder"),
    (told(sample(1), image="C:\\pics\\1.png"), "path-outside", "relative to the image folder"),
    (told(sample(1), image="../1.png"), "path-outside", "no `..`"),
    (told(sample(1), image=["0.png", "1.png"]), "several-images", "one picture a sample"),
    ({"img": "1.png", "conversations": talk("q", "a", image=True)}, "image-marker-without-image", "`img`: call it"),
    (told(sample(1), conversations=talk("q", "a")), "image-without-marker", "put `<image>`"),
    (told(sample(1), conversations=talk("q", "", image=True)), "empty-answer", "write its answer"),
    (told(sample(1), conversations=talk("q", "a<|end|>", image=True)), "control-token-in-text", "prompt template"),
    (told(sample(1), image=None), "image-marker-without-image", "its `image` is empty"),
    ({"image": {"0": "1.png"}, "text": {"0": "a"}}, "no-conversations", 'orient="records"'),
    ([1], "not-an-object", "JSON object"),
]


@pytest.mark.parametrize(("record", "reason", "advice"), BAD_ROWS)
def test_a_bad_row_is_told_as_ingest_and_curation_will(workshop: Workshop, capsys, record, reason: str, advice: str):
    workshop.add("own", [sample(0), record, sample(2)], PICTURES, lines=True)
    code, out = check(workshop, capsys)
    assert code == 1
    assert f"{reason}: 1 of 3; first: row 1: " in out
    assert advice in out
    workshop.curate()
    assert {row: told.split("/")[1] for row, told in workshop.reasons("own").items()} == {1: reason}


BAD_FILES = [
    (json.dumps({"data": [sample(0), sample(1)]}).encode(), "under `data`: keep only that list"),
    (json.dumps({"data": [sample(0)], "x": float(1)}, indent=1)[:-1].encode(), "under `data`: keep only that list"),
    ("[]".encode("utf-16"), "iconv -f utf-16"),
    (json.dumps([sample(0, "café")], ensure_ascii=False).encode("latin-1"), "iconv -f latin1"),
    (str([sample(0)]).encode(), "double quotes"),
    (b"image,caption\n0.png,a thing\n", "kind `table`"),
    (b"", "one JSON object a sample"),
    (b"[]", "one JSON object a sample"),
    (json.dumps([sample(0)])[:-1].encode(), "mend the file at that place"),
]


@pytest.mark.parametrize(("content", "advice"), BAD_FILES)
def test_a_file_that_cannot_be_read_is_told_with_what_mends_it(workshop: Workshop, capsys, content: bytes, advice: str):
    workshop.add("own", content, PICTURES)
    code, out = check(workshop, capsys)
    assert code == 1 and advice in out


BAD_NAMES = [
    ("1.PNG", {"1.png": 1}, "`1.png` is there"),
    ("Photos/1.png", {"photos/1.png": 1}, "`photos/1.png` is there"),
    ("1.jpg", {"1.png": 1}, "another ending"),
    ("1", {"1.png": 1}, "no ending in the table"),
    ("a%20b.png", {"a b.png": 1}, "web address"),
    ("old/1.png", {"1.png": 1}, "a first folder too many"),
    ("own-images/1.png", {"1.png": 1}, "starts with the image folder itself: write `images: [.]`"),
    ("deep/old/1.png", {"1.png": 1}, "without its folders"),
    ("cafe\u0301.png", {"caf\u00e9.png": 1}, "Unicode form"),
    ("nowhere.png", {"1.png": 1}, "put the picture there"),
]


@pytest.mark.parametrize(("name", "files", "advice"), BAD_NAMES)
@pytest.mark.parametrize("container", ["folder", "zip"])
def test_a_missing_picture_is_told_with_what_is_there(
    workshop: Workshop, capsys, name: str, files: dict[str, int], advice: str, container: str
):
    if container == "zip" and name in ("Photos/1.png", "own-images/1.png"):
        pytest.skip("capital letters inside are compared in folders only, and a folder is none in an archive")
    pictures = {path: picture(seed) for path, seed in files.items()}
    workshop.add("own", [told(sample(1), image=name)], pictures, container=container)
    code, out = check(workshop, capsys)
    assert code == 1
    assert "missing-image: 1 of 1; first: row 0" in out
    assert advice in out


def test_pictures_are_decoded(workshop: Workshop, capsys):
    files = {
        "0.png": picture(0),
        "1.png": picture(1)[:300],
        "2.png": b"GIF89a",
        "3.png": b"",
        "4.png": picture(4, form="JPEG"),
    }
    workshop.add("own", [sample(n) for n in range(5)], files)
    code, out = check(workshop, capsys)
    assert code == 1
    for words in ("2 of the 5 pictures", "empty-image: 1 of 5", "truncated-image: 1 of 5", "corrupt-image: 1 of 5"):
        assert words in out
    assert "4.png is JPG" in out


def test_a_bomb_is_told_as_sharding_will_and_its_pixels_are_not_read(workshop: Workshop, capsys):
    data = workshop.settings.data.model_copy(update={"max_image_pixels": 1000})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    workshop.add("own", [sample(0)], {"0.png": picture(0)})
    code, out = check(workshop, capsys)
    assert code == 1 and "too-many-pixels: 1 of 1; first: row 0: 48 x 40 pixels, limit 1000" in out


def test_folders_and_files_of_other_names_are_suggested(workshop: Workshop, capsys):
    workshop.add("own", [sample(n) for n in range(3)], PICTURES)
    del workshop.sources["own"]["origin"]["images"]
    code, out = check(workshop, capsys)
    assert code == 1 and "own-images" in out and "`images: [...]`" in out
    workshop.sources["own"]["origin"]["file"] = "Own.json"
    code, out = check(workshop, capsys)
    assert code == 1 and "write `file: own.json`" in out
    roots = workshop.settings.data.model_copy(update={"roots": {}})
    workshop.settings = workshop.settings.model_copy(update={"data": roots})
    code, out = check(workshop, capsys)
    assert code == 1 and f"roots: {{{DATASET}: " in out


def test_archives_too_deep_in_an_image_folder_are_told(workshop: Workshop, capsys):
    workshop.add("own", [sample(n) for n in range(3)], {"deep/x.png": picture(0), **PICTURES})
    deep = workshop.published / "own-images/deep"
    for name in ("a.tar", "b.zip", "c.TGZ", "d.tar"):
        (deep / name).write_bytes(b"x")
    code, out = check(workshop, capsys)
    assert code == 0 and "a.tar" not in out  # no picture is missing
    (workshop.published / "own-images/2.png").unlink()
    code, out = check(workshop, capsys)
    listed = ", ".join(f"own-images/deep/{name}" for name in ("a.tar", "b.zip", "c.TGZ"))
    assert code == 1 and f"{listed} and 1 more: archives in a folder of an image folder are not read" in out


def test_what_costs_nothing_is_a_note(workshop: Workshop, capsys):
    records = [told(sample(1), id="s0"), told(sample(0), image=".\\0.png"), sample(2, "cafÃ© bar")]
    workshop.add("own", records, PICTURES, licence={"declared": None})
    code, out = check(workshop, capsys)
    assert code == 0
    for words in ("'s0' in rows 0 and 1", "read as /", "decoded wrongly", "no licence is declared"):
        assert words in out


def test_a_table_is_looked_at_through_its_columns(workshop: Workshop, capsys):
    workshop.add("own", b"", PICTURES)
    (workshop.published / "own.csv").write_text("image,caption\n0.png,a thing\n1.png,\n,no picture\n")
    workshop.sources["own"]["origin"] = {
        "kind": "table",
        "file": "own.csv",
        "text": "caption",
        "images": ["own-images"],
    }
    code, out = check(workshop, capsys)
    assert code == 1
    assert "bad-message: 1 of 3; first: row 1" in out and "cell must not be empty" in out
    assert "image-marker-without-image: 1 of 3; first: row 2" in out
    workshop.sources["own"]["origin"]["text"] = "captions"
    code, out = check(workshop, capsys)
    assert code == 1 and "did you mean `caption`?" in out


def test_unknown_names_are_named(workshop: Workshop, capsys):
    workshop.add("own", [sample(0)], PICTURES)
    for name in ("shape", f"{DATASET}/owns"):
        with pytest.raises(CatalogError, match="did you mean"):
            check(workshop, capsys, name)


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=8) | st.sampled_from(["<image>", "gpt", "0.png"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["id", "image", "conversations", "from", "value", "caption"]), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@given(records=st.lists(values, min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_is_counted_once(workshop: Workshop, capsys, records):
    workshop.add("own", json.dumps(records).encode(), PICTURES)
    code, out = check(workshop, capsys)
    assert f" {len(records)} samples: " in out
    assert (code == 0) == (f"{len(records)} of {len(records)} have sound" in out and "missing-image" not in out)


SIGNS = [
    ("csv", 'image,caption\n0.png,"Big Joe\n1.png,he is 5"\n2.png,two\n', "1 of 2: texts with separators behind"),
    ("tsv", 'image\tcaption\n0.png\tzero\n1.png\t"one"\n2.png\ta 2" nail\n', "1 of 3: texts in double quotes"),
    ("csv", 'image,caption\n0.png,"zero, or ""none"""\n1.png,"one\nline"\n2.png,two\n', None),
]


@pytest.mark.parametrize(("ending", "content", "told"), SIGNS)
def test_texts_that_look_like_wrong_quoting_are_noted(
    workshop: Workshop, capsys, ending: str, content: str, told: str | None
):
    workshop.add("own", b"", PICTURES)
    images = workshop.sources["own"]["origin"]["images"]
    (workshop.published / f"own.{ending}").write_text(content)
    workshop.sources["own"]["origin"] = {
        "kind": "table",
        "file": f"own.{ending}",
        "images": images,
        "text": "caption",
        "prompts": ["Red, green or blue?"],
    }
    code, out = check(workshop, capsys)
    assert code == 0
    assert told in out if told else "texts" not in out.replace("sound roles, texts", "")
