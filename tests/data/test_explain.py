"""What is told about a decision, against what was decided: by the real blocks, on samples of every kind."""

import io
import json
import re
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from fusion.cli import app
from fusion.data.benchmarks import build_benchmark
from fusion.data.curate.blocks.text import Text
from fusion.data.curate.samples import Samples
from fusion.data.errors import DataError
from fusion.data.explain.border import Border
from fusion.data.explain.outputs import Outputs
from fusion.data.explain.page import write_examples
from fusion.data.explain.rules import RULES, rules_of, text_measures
from fusion.data.explain.story import explain_sample
from fusion.data.explain.tell import tell
from fusion.data.store.workers import Workers
from fusion.files import write_json
from fusion.hashing import file_sha256
from fusion.settings import load_settings
from tests.data.workshop import DATASET, Workshop, picture, sample, talk

BENCHMARK = "held-out"
LONG = "a red boat lies on the calm blue lake behind the old stone house of the fisher family in the north"
EVIL = '<script>alert("x")</script> \u202e end'
RECORDS: list[Any] = [
    sample(0, "a first object on a table"),
    sample(1, "<img src=x onerror=alert(1)> one more thing"),
    sample(0, "a first object on a table"),
    {**sample(3, "tiny"), "image": "small.png"},
    {**sample(4, "a long one"), "image": "long.png"},
    sample(5, " "),
    sample(6, "write to someone@example.org about it"),
    {**sample(7, "broken"), "image": "broken.png"},
    {**sample(8, "two"), "image": ["0.png", "1.png"]},
    sample(9, LONG),
    sample(10, LONG + " today"),
    sample(11, "go go go go go go go go"),
    sample(12, EVIL),
    {**sample(13, "the same but darker"), "image": "darker.png"},
    {**sample(14, "the same with some loss"), "image": "again.jpg"},
]


def darker(data: bytes) -> bytes:
    """A PNG of the picture in `data`, a little darker."""
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).point([value * 49 // 50 for value in range(256)] * 3).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A curated set of two sources, with rejects from every stage and a benchmark."""
    workshop = Workshop(tmp_path_factory.mktemp("explain"))
    images = {f"{number}.png": picture(number) for number in range(13)}
    images |= {"small.png": picture(50, (8, 8)), "long.png": picture(51, (400, 20)), "broken.png": b"no picture"}
    images |= {"darker.png": darker(picture(9)), "again.jpg": picture(9, form="JPEG")}
    workshop.add("a", RECORDS, images, weight=2)
    workshop.add("b", [{"id": "t/1", "conversations": talk("two and two?", "four")}], profile="text")
    origin = {"kind": "scenes", "pictures": 2, "seed": 5, "categories": ["colour"]}
    workshop.benchmarks = {BENCHMARK: {"title": "t", "origin": origin, "licence": {"declared": "MIT"}}}
    workshop.contamination = [BENCHMARK]
    build_benchmark(workshop.settings, workshop.catalog, BENCHMARK, workshop.folder)
    workshop.curate()
    return workshop


def story(shop: Workshop, name: str) -> dict[str, Any]:
    told = explain_sample(shop.settings, shop.catalog, DATASET, name, shop.folder)
    json.dumps(told, allow_nan=False)
    return told


def test_every_sample_is_told_as_it_was_decided(shop: Workshop):
    reasons = shop.reasons("a")
    expected = {
        2: "exact-duplicates/same-sample", 3: "image/too-small", 4: "image/too-long", 5: "schema/empty-answer",
        6: "text/pii-email", 7: "shard/unsupported-format", 8: "ingest/several-images",
        10: "near-duplicates/similar-text", 11: "text/repetition", 13: "near-duplicates/similar-picture",
    }  # fmt: skip
    assert reasons == expected
    for row in range(len(RECORDS)):
        told = story(shop, f"a/{row}")
        assert told["decision"] == ("dropped" if row in expected else "kept")
        assert told["notes"] == []
        outcomes = {step["block"]: step["outcome"] for step in told["steps"]}
        if row in expected:
            block, reason = expected[row].split("/")
            assert (told["block"], told["reason"], told["draws"]) == (block, reason, 0)
            after = list(outcomes)[list(outcomes).index(block) + 1 :]
            assert outcomes[block] == "dropped" and {outcomes[name] for name in after} <= {"not reached"}
        else:
            assert set(outcomes.values()) == {"passed"} and told["draws"] == 2
        assert tell(told).isprintable() or "\u202e" not in tell(told)


def test_a_threshold_stands_beside_the_measured_value(shop: Workshop):
    def check(row: int, reason: str) -> dict[str, Any]:
        return next(
            item for step in story(shop, f"a/{row}")["steps"] for item in step["checks"] if item["reason"] == reason
        )

    small = check(3, "too-small")
    assert (small["measured"], small["threshold"], small["setting"], small["outcome"]) == (8, 16, "min_side", "dropped")
    assert check(11, "repetition")["measured"] == 1.0
    assert check(0, "foreign-script")["outcome"] == "off"
    text = check(10, "similar-text")
    assert text["other"] == f"{DATASET}/a/00000009" and 0.85 <= text["measured"] < 1
    near = check(13, "similar-picture")
    assert near["other"] == f"{DATASET}/a/00000009" and near["measured"] <= 10 and near["colours"] <= 16
    apart = check(9, "similar-picture")
    assert apart["measured"] is None or apart["measured"] > 10
    loss = check(14, "similar-picture")
    assert loss["outcome"] == "passed" and 10 < loss["measured"] <= 16 and loss["other"] == near["other"]
    assert check(0, "benchmark-text")["measured"] == 0


def test_the_place_in_the_shard_is_where_the_record_lies(shop: Workshop):
    told = story(shop, "a/1")
    place = told["place"]
    data = (shop.folder / place["shard"]).read_bytes()
    record = json.loads(data[place["record_offset"] :][: place["record_size"]])
    assert record["id"] == told["sample_id"] and record["conversations"] == told["conversations"]
    assert data[place["image_offset"] :][: place["image_size"]] == picture(1)
    assert story(shop, "a/7")["place"] is None and story(shop, "a/8")["conversations"] is None


def test_a_validation_of_another_manifest_is_told_as_such(shop: Workshop):
    assert story(shop, "a/1")["validation"] == {"status": "not validated", "of_this_manifest": False}
    manifest = shop.folder / "data/manifests" / DATASET / "manifest.parquet"
    for sha256, same in ((file_sha256(manifest), True), ("0" * 64, False)):
        path = shop.folder / "data/validation" / DATASET / "validation.json"
        write_json({"status": "passed", "manifest_sha256": sha256}, path)
        told = story(shop, "a/1")
        path.unlink()
        assert told["validation"] == {"status": "passed", "of_this_manifest": same}
        assert ("of another manifest" in tell(told)) is not same


@pytest.mark.parametrize("name", ["b/t/1", f"{DATASET}/b/t/1", "b/0", "b/00000000", "b", f"{DATASET}/b/"])
def test_a_sample_is_found_by_any_of_its_names(shop: Workshop, name: str):
    assert story(shop, name)["sample_id"] == f"{DATASET}/b/00000000"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a/99", "the nearest: shapes/a/00000014, shapes/a/00000013"),
        ("b/t/2", "the nearest: b/t/1"),
        ("a/s0", "2 samples of a have the id `s0`: shapes/a/00000000, shapes/a/00000002"),
        ("a/", "is the start of 15 ids or more"),
        ("c/1", "it has no source `c`; known: a, b"),
    ],
)  # fmt: skip
def test_an_unknown_or_ambiguous_name_gives_the_nearest(shop: Workshop, name: str, told: str):
    with pytest.raises(DataError, match=re.escape(told)):
        story(shop, name)


def test_a_changed_threshold_is_noticed(shop: Workshop):
    profile = shop.settings.curation.profiles["web"].model_copy(update={"min_side": 45, "max_aspect": None})
    curation = shop.settings.curation
    curation = curation.model_copy(update={"profiles": {**curation.profiles, "web": profile}})
    changed = shop.settings.model_copy(update={"curation": curation})
    kept = explain_sample(changed, shop.catalog, DATASET, "a/0", shop.folder)
    gone = explain_sample(changed, shop.catalog, DATASET, "a/4", shop.folder)
    assert any("too-small would drop it" in note for note in kept["notes"])
    assert any("too-long lets it pass" in note for note in gone["notes"])


def test_the_command_needs_outputs_and_says_which(shop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = Path.cwd()
    for name in ("params.yaml", "data/catalog", "data/tokenizers"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(root / name)
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["curate", "micro-stage1", "--explain", "clipart/1"])
    assert "run `fusion curate micro-stage1` first" in str(found.exception)
    for wrong in (["out.html"], ["--json"], ["--examples", "--explain", "x"], ["--explain", "x", "out.html"]):
        found = CliRunner().invoke(app, ["curate", "micro-stage1", *wrong])
        assert "use `fusion curate DATASET --explain" in str(found.exception)
    assert not (tmp_path / "data/manifests").exists()


WORDS = st.sampled_from(
    ["boat", "boat", "tree", "a", "12", "x@y.org", "+49 30 1234567", "image.png", "\x07", "деревья"]
)
TEXTS = st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30)
LIMITS = {"max_repetition": 0.4, "min_answer_chars": 3, "max_answer_chars": 40, "useless_texts": True}
WEB = load_settings().curation.profiles["web"].model_copy(update=LIMITS)


@settings(max_examples=40, deadline=None)
@given(messages=st.lists(TEXTS, min_size=2, max_size=4), scripts=st.sampled_from([None, ["latin"]]))
def test_what_is_measured_agrees_with_the_text_block(
    messages: list[str], scripts: list[str] | None, tmp_path_factory: pytest.TempPathFactory
):
    profile = WEB.model_copy(update={"scripts": scripts})
    root = tmp_path_factory.mktemp("raw")
    folder = root / "data/raw/d/s"
    folder.mkdir(parents=True)
    raw = pl.DataFrame(
        {"row": [0], "conversations": [talk(*(text.encode("utf-8", "replace").decode() for text in messages))]}
    )
    raw.write_parquet(folder / "samples.parquet")
    index = root / "data/index/d/s"
    index.mkdir(parents=True)
    raw.select("row").write_parquet(index / "index.parquet")
    block = Text().rejects(Samples(root, "d", {"s": profile}, {}, [], Workers("d", 1), root))
    exploded = raw.explode("conversations").unnest("conversations").rename({"from": "role"})
    measured = text_measures(exploded, "row", scripts).to_dicts()[0]
    broken = {
        rule.reason
        for rule in rules_of("text")
        if rule.reason != "shared-text" and rule.breaks(measured[rule.reason], rule.threshold(profile))
    }
    assert bool(len(block)) == bool(broken)
    assert set(block["reason"]) <= broken


def test_every_reason_of_a_measured_block_has_its_rule():
    known = {(rule.block, rule.reason) for rule in RULES}
    for path in Path("fusion/data/curate/blocks").glob("*.py"):
        code = path.read_text(encoding="utf-8")
        name = re.search(r'name: ClassVar\[str\] = "([\w-]+)"', code)
        if name and rules_of(name.group(1)):
            used = set(re.findall(r'^\s+\(?\(?"([a-z]+-[a-z-]+|blank|repetition)",', code, re.MULTILINE))
            assert used <= {reason for block, reason in known if block == name.group(1)}, path


def test_the_page_shows_both_sides_and_nothing_from_the_network(shop: Workshop):
    page = write_examples(shop.settings, shop.catalog, DATASET, shop.folder / "x/page.html", 3, shop.folder)
    html = page.read_text(encoding="utf-8")
    for reason in set(shop.reasons("a").values()):
        assert f">{reason.split('/')[1]} <small>" in html
    assert "Kept, nearest to the threshold first" in html and "the one beside it" in html
    assert "<script" not in html and "onerror=alert" not in html.replace("&lt;img src=x onerror=alert", "")
    assert "&lt;script&gt;" in html and "\u202e" not in html
    assert set(re.findall(r'(?:src|href)="([^"#]{1,11})', html)) == {"data:image/"}
    assert "http" not in re.sub(r"http-equiv|base64,[^\"]*", "", html)
    assert html == write_examples(shop.settings, shop.catalog, DATASET, page, 3, shop.folder).read_text(
        encoding="utf-8"
    )


def test_kept_samples_come_nearest_first(shop: Workshop):
    outputs = Outputs(shop.folder, DATASET, shop.catalog.dataset(DATASET))
    nearest = Border(shop.settings, outputs, 4).nearest()
    kept = set(pl.read_parquet(outputs.manifest_path)["sample_id"])
    assert nearest["blank"] and nearest["answer-too-short"][0].measured == 4
    assert [(close.sample_id[-2:], close.measured) for close in nearest["similar-picture"]] == [("14", 12)]
    for found in nearest.values():
        assert len(found) <= 4 and {close.sample_id for close in found} <= kept
        assert [close.excess for close in found] == sorted(close.excess for close in found)
