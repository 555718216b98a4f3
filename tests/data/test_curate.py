"""Curation: every reason is provoked and told apart; numbers always add up; clean sources lose nothing."""

import io
import json
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fusion.data.benchmarks import build_benchmark
from fusion.data.curate import near_pictures
from fusion.data.curate.base import load_blocks
from fusion.data.errors import DataError
from fusion.hashing import file_sha256
from tests.data.workshop import DATASET, Workshop, picture, sample, talk

LONG = "a small brown dog runs over the wide green field towards its old red house near the blue lake"


def _blank() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "white").save(file, "PNG")
    return file.getvalue()


def _of(workshop: Workshop, defects: list[tuple[dict[str, Any], bytes | None]], profile: str = "web") -> dict[int, str]:
    """Reasons for a source of the given records and pictures, one sound sample before them all."""
    records, images = [sample(0)], {"0.png": picture(0)}
    for number, (record, data) in enumerate(defects, 1):
        if data is not None:
            images[f"{number}.png"] = data
            record = {**record, "image": f"{number}.png"}
        records.append(record)
    workshop.add("s", records, images, profile=profile)
    manifest, ledger, _ = workshop.curate()
    assert len(manifest) + len(ledger) == len(records)
    assert f"{DATASET}/s/00000000" in manifest["sample_id"].to_list()
    return workshop.reasons("s")


def _conversation(*texts: str, image: bool = False) -> dict[str, Any]:
    return {"conversations": talk(*texts, image=image)}


def test_schema_reasons(workshop: Workshop):
    roles = {"conversations": talk("a question", "an answer")[::-1]}
    system = {"conversations": [{"from": "system", "value": "be kind"}, *talk("a question", "an answer")]}
    marked_answer = {"conversations": talk("a question", "an <image> answer")}
    reasons = _of(
        workshop,
        [
            (roles, None),
            (system, None),
            (_conversation("a question"), None),
            ({"conversations": []}, None),
            (_conversation("a question", "   "), None),
            (_conversation(" \n", "an answer", image=True), picture(6)),
            (_conversation("a question", "an answer"), picture(7)),
            (_conversation("a question", "an answer", image=True), None),
            (_conversation("two <image>?", "an answer", image=True), picture(9)),
            (_conversation("first", "one", "<image> second", "two"), picture(10)),
            (marked_answer, None),
            (_conversation("a question", "the end<|end|>"), None),
        ],
    )
    assert reasons == {
        1: "schema/wrong-roles",
        2: "schema/wrong-roles",
        3: "schema/wrong-roles",
        4: "schema/no-turns",
        5: "schema/empty-answer",
        6: "schema/empty-question",
        7: "schema/image-without-marker",
        8: "schema/image-marker-without-image",
        9: "schema/too-many-images",
        10: "schema/image-not-in-first-turn",
        11: "schema/control-token-in-text",
        12: "schema/control-token-in-text",
    }


def test_image_reasons(workshop: Workshop):
    reasons = _of(
        workshop,
        [
            (sample(1), picture(1, (60, 8))),
            (sample(2), picture(2, (400, 40))),
            (sample(3), _blank()),
            (sample(4), picture(4, (16, 128))),
        ],
    )
    assert reasons == {1: "image/too-small", 2: "image/too-long", 3: "image/blank"}


def test_text_reasons(workshop: Workshop):
    defects = [
        "no\x07 bell",
        "un\ufffdreadable",
        "x" * 20_001,
        "ha ha ha ha ha ha",
        "write to jane.doe@example.org today",
        "my card is 1234-5678-9012-3456 in all",
        "call +49 30 1234 5678 for more",
        "yo",
        "IMG_0042.JPG",
        "glace_05",
        "Untitled 3",
        "12.5 / 7!",
    ]
    reasons = _of(workshop, [(sample(n, text), picture(n)) for n, text in enumerate(defects, 1)], "captions")
    assert reasons == {
        1: "text/control-characters",
        2: "text/control-characters",
        3: "text/answer-too-long",
        4: "text/repetition",
        5: "text/pii-email",
        6: "text/pii-card",
        7: "text/pii-phone",
        8: "text/answer-too-short",
        9: "text/useless-text",
        10: "text/useless-text",
        11: "text/useless-text",
        12: "text/useless-text",
    }


def test_useful_captions_are_not_called_useless(workshop: Workshop):
    good = [
        "2 dead frogs",
        "M1 Abrams main battle tank",
        "icon of a house",
        "saxophone",
        "arrow-left-green",
        "Été à Nice",
    ]
    assert _of(workshop, [(sample(n, text), picture(n)) for n, text in enumerate(good, 1)], "captions") == {}


def test_an_answer_that_many_pictures_share_says_nothing(workshop: Workshop):
    shared = [f"Flat Icons (Wed Aug {day} 2004)" for day in range(10, 16)]
    few = [f"sunset {number}" for number in range(5)]
    reasons = _of(workshop, [(sample(n, text), picture(n)) for n, text in enumerate(shared + few, 1)], "captions")
    assert reasons == dict.fromkeys(range(1, 7), "text/shared-text")


def test_scripts(workshop: Workshop):
    profiles = workshop.settings.curation.profiles
    latin = profiles["web"].model_copy(update={"scripts": ["latin"]})
    curation = workshop.settings.curation.model_copy(update={"profiles": {**profiles, "web": latin}})
    workshop.settings = workshop.settings.model_copy(update={"curation": curation})
    texts = ["ein grüner Baum", "зелёное дерево", "42", "un arbre vert 緑"]
    reasons = _of(workshop, [(sample(n, text), picture(n)) for n, text in enumerate(texts, 1)])
    assert reasons == {2: "text/foreign-script"}


def test_duplicates(workshop: Workshop):
    darker = Image.open(io.BytesIO(picture(5, (96, 80)))).point(lambda value: int(value * 0.97))
    file = io.BytesIO()
    darker.save(file, "PNG")
    other = f"{LONG} today"
    reasons = _of(
        workshop,
        [
            (sample(1, "first"), picture(1)),
            (sample(1, "first"), picture(1)),
            (sample(1, "the same picture, other words"), picture(1)),
            (sample(2, "fourth"), picture(5, (96, 80))),
            (sample(2, "a copy in other bytes"), file.getvalue()),
            (sample(3, LONG), picture(6)),
            (sample(4, other), picture(7)),
            (_conversation("a question", "words alone"), None),
            (_conversation("a question", "words alone"), None),
        ],
    )
    assert reasons == {
        2: "exact-duplicates/same-sample",
        5: "near-duplicates/similar-picture",
        7: "near-duplicates/similar-text",
        9: "exact-duplicates/same-text",
    }


def test_a_cluster_is_decided_the_same_however_few_pairs_are_held(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    """Two pictures in several shades, taken in turn: of each the first stays."""
    records: list[tuple[dict[str, Any], bytes | None]] = []
    for number, share in enumerate([1.0, 0.97, 0.98, 0.96, 0.99, 0.95, 0.94]):
        file = io.BytesIO()
        levels = [int(value * share) for value in range(256)] * 3
        Image.open(io.BytesIO(picture(5 + number % 2, (96, 80)))).point(levels).save(file, "PNG")
        records.append((sample(number + 1, f"words {number}"), file.getvalue()))
    reasons = _of(workshop, records)
    assert reasons == dict.fromkeys(range(3, 8), "near-duplicates/similar-picture")
    before = workshop.curate()[1]
    monkeypatch.setattr(near_pictures, "MOST_PAIRS", 0)
    assert workshop.curate()[1].equals(before)


def test_pictures_of_another_colour_are_no_duplicates(workshop: Workshop):
    def striped(colours: list[str]) -> bytes:
        image = Image.new("RGB", (90, 60))
        for number, colour in enumerate(colours):
            image.paste(colour, (number * 30, 0, number * 30 + 30, 60))
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    # Of nearly one brightness, so that the hashes agree.
    flags = [striped(["#4c4c4c", "white", "black"]), striped(["red", "white", "black"])]
    assert _of(workshop, [(sample(1, "first flag"), flags[0]), (sample(2, "second flag"), flags[1])]) == {}


def test_contamination_names_the_benchmark(workshop: Workshop):
    exam = {"kind": "scenes", "pictures": 10, "seed": 5, "categories": ["scene"]}
    workshop.benchmarks["exam"] = {"title": "exam", "origin": exam, "licence": {"declared": None}}
    workshop.contamination = ["exam"]
    workshop.embed("same", {**exam, "pictures": 4})
    workshop.embed("other", {**exam, "seed": 6, "pictures": 4})
    build_benchmark(workshop.settings, workshop.catalog, "exam", workshop.folder)
    _, ledger, summary = workshop.curate()
    assert workshop.reasons("same") == dict.fromkeys(range(4), "contamination/benchmark-picture")
    assert workshop.reasons("other") == {}
    assert ledger["evidence"].str.contains("of benchmark exam").all()
    assert summary["blocks"][-2]["reasons"] == {"benchmark-picture": 4}


def test_contamination_by_near_pictures_and_by_words(workshop: Workshop):
    exam = {"kind": "scenes", "pictures": 3, "seed": 5, "categories": ["scene"]}
    workshop.benchmarks["exam"] = {"title": "exam", "origin": exam, "licence": {"declared": None}}
    workshop.contamination = ["exam"]
    workshop.add("s", [sample(0)])
    folder = build_benchmark(workshop.settings, workshop.catalog, "exam", workshop.folder)
    questions = pl.read_parquet(folder / "questions.parquet")
    questions.with_columns(question=pl.lit(LONG)).write_parquet(folder / "questions.parquet")
    row = questions.row(0, named=True)
    data = (folder / "images.tar").read_bytes()[row["image_offset"] : row["image_offset"] + row["image_size"]]
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).resize((96, 96)).save(file, "PNG")
    run = "they say that " + " ".join(LONG.split()[3:17]) + " and so on"
    short = "they say that " + " ".join(LONG.split()[3:12]) + " and so on"
    defects = [(sample(1, "near"), file.getvalue()), (sample(2, run), picture(2)), (sample(3, short), picture(3))]
    assert _of(workshop, defects) == {
        1: "contamination/near-benchmark-picture",
        2: "contamination/benchmark-text",
    }


def test_weights_become_draws(workshop: Workshop):
    for name, weight in (("once", 1), ("thrice", 3)):
        origin = {"kind": "text", "topic": "code", "conversations": 5, "seed": weight}
        workshop.embed(name, origin, profile="text", weight=weight, category=name)
    manifest, _, summary = workshop.curate()
    assert manifest.group_by("source").agg(pl.col("draws").sum()).sort("source").rows() == [("once", 5), ("thrice", 15)]
    assert summary["draws"] == 20 and summary["categories"]["thrice"] == {"draws": 15, "kept": 5, "share": 0.75}


@pytest.mark.parametrize(
    ("origin", "profile"),
    [
        ({"kind": "easy_vqa", "split": "train", "first": 60}, "rendered"),
        (
            {
                "kind": "scenes",
                "pictures": 300,
                "seed": 9,
                "categories": ["colour", "count", "spatial", "scene", "text", "maths"],
            },
            "rendered",
        ),
        ({"kind": "text", "topic": "language", "conversations": 150}, "text"),
        ({"kind": "text", "topic": "code", "conversations": 150}, "text"),
        ({"kind": "text", "topic": "arithmetic", "conversations": 150}, "text"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.get("topic", value["kind"]),
)
def test_clean_sources_lose_next_to_nothing(workshop: Workshop, origin: dict[str, Any], profile: str):
    workshop.embed("s", origin, profile=profile)
    manifest, ledger, _ = workshop.curate()
    assert len(ledger) <= 0.01 * (len(manifest) + len(ledger)), ledger


DEFECTS: dict[str, tuple[Any, bytes | None]] = {
    "sound": (sample(0), picture(0)),
    "text": (_conversation("q", "an answer of its own"), None),
    "no object": ([], None),
    "two pictures": (sample(0, image=["a.png", "b.png"]), None),
    "no picture": (sample(99), None),
    "corrupt": (sample(0), b"x"),
    "roles": ({"conversations": talk("a", "b")[::-1]}, None),
    "blank": (sample(0), _blank()),
    "address": (sample(0, "me@example.org"), picture(1)),
}


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.lists(st.sampled_from(sorted(DEFECTS)), min_size=1, max_size=12), min_size=1, max_size=3))
def test_kept_and_rejected_are_all_that_was_ingested(tmp_path_factory: pytest.TempPathFactory, chosen: list[list[str]]):
    workshop = Workshop(tmp_path_factory.mktemp("ledger"))
    for number, names in enumerate(chosen):
        records, images = [], {"unused.png": picture(3)}
        for position, name in enumerate(names):
            record, data = DEFECTS[name]
            if data is not None:
                images[f"{position}.png"] = data
                record = {**record, "image": f"{position}.png"}
            records.append(record)
        workshop.add(f"s{number}", records, images)
    manifest, ledger, summary = workshop.curate()
    ids = [f"{DATASET}/s{number}/{row:08d}" for number, names in enumerate(chosen) for row in range(len(names))]
    assert sorted(manifest["sample_id"].to_list() + ledger["sample_id"].to_list()) == ids
    assert summary["ingested"] == len(ids) == summary["kept"] + summary["rejected"]
    assert sum(block["dropped"] for block in summary["blocks"]) == len(ledger)
    for facts in summary["sources"].values():
        assert facts["kept"] + sum(facts["reasons"].values()) == facts["ingested"]
    assert ledger.null_count().sum_horizontal().item() == 0


def test_two_runs_give_equal_bytes(workshop: Workshop):
    workshop.embed("s", {"kind": "scenes", "pictures": 20, "seed": 1, "categories": ["colour"]})
    workshop.curate()
    folder = workshop.folder / "data/manifests" / DATASET
    first = {path.name: file_sha256(path) for path in folder.iterdir()}
    workshop.curate()
    assert {path.name: file_sha256(path) for path in folder.iterdir()} == first
    assert set(first) == {"manifest.parquet", "ledger.parquet", "summary.json"}


def mixed(workshop: Workshop) -> None:
    """Sources in which every block finds something, with duplicates across them and in their far ends."""
    texts = [f"{LONG} {number} {'a b c d e'[number % 9 :]}" for number in range(30)]
    for name in ("b", "a-b", "a"):
        records = [sample(number, texts[number % 20] if number % 3 else f"{name} {number}") for number in range(30)]
        records[7], records[29] = records[3], sample(29, "write to me@example.org")
        images = {f"{number}.png": picture(number % 12) for number in range(30)}
        workshop.add(name, records, images, profile="captions" if name == "a" else "web")
    workshop.add("talk", [_conversation("a question", LONG.upper()), _conversation("q", "x")] * 3, profile="text")


@pytest.mark.parametrize("processes", [False, True], ids=["one process", "two processes"])
def test_parts_and_processes_change_no_byte(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, processes: bool):
    mixed(workshop)
    manifest, ledger, _ = workshop.curate()
    assert set(ledger["block"]) >= {"text", "exact-duplicates", "near-duplicates"} and len(manifest) > 10
    folder = workshop.folder / "data/manifests" / DATASET
    whole = {path.name: file_sha256(path) for path in folder.iterdir()}
    monkeypatch.setattr("fusion.data.curate.samples.PART_ROWS", 7)
    if processes:
        monkeypatch.setattr("fusion.data.store.workers.WORTH_PROCESSES", 0)
        data = workshop.settings.data.model_copy(update={"workers": 2})
        workshop.settings = workshop.settings.model_copy(update={"data": data})
    workshop.curate_only()
    assert {path.name: file_sha256(path) for path in folder.iterdir()} == whole
    assert ledger["sample_id"].is_sorted()


def test_unknown_blocks_and_profiles_are_named(workshop: Workshop):
    with pytest.raises(
        DataError, match=r"curation\.blocks: there is no block `magic`; known: contamination, exact-dup"
    ):
        load_blocks(["schema", "magic"])
    workshop.add("s", [_conversation("q", "a")], profile="magic")
    with pytest.raises(DataError, match=r"sources\.s\.profile: params\.yaml has no profile `magic`; known: web"):
        workshop.curate()


def test_what_was_not_made_yet_is_named_with_its_command(workshop: Workshop):
    workshop.add("s", [_conversation("q", "a")])
    with pytest.raises(DataError, match=f"run `fusion shard {DATASET} s` first"):
        workshop.curate_only()
    workshop.benchmarks["exam"] = {
        "title": "e",
        "origin": {"kind": "easy_vqa", "split": "test"},
        "licence": {"declared": None},
    }
    workshop.contamination = ["exam"]
    with pytest.raises(DataError, match="run `fusion benchmark exam` first"):
        workshop.curate()


def test_a_source_that_was_not_sharded_whole_is_refused(workshop: Workshop):
    """Rows that neither the index nor its rejects have would be in no ledger."""
    workshop.add("s", [sample(n) for n in range(4)], {f"{n}.png": picture(n) for n in range(3)})
    workshop.curate()
    workshop.add("s", [sample(n) for n in range(7)], {f"{n}.png": picture(n) for n in range(3)})
    workshop.ingest("s")
    told = rf"{DATASET}/s: 3 samples in the index \+ 1 rejected .* not the 7 .*`fusion shard {DATASET} s`"
    with pytest.raises(DataError, match=told):
        workshop.curate_only()
    workshop.shard_only("s")
    assert workshop.curate_only()[2]["ingested"] == 7


def test_the_ledger_shows_evidence(workshop: Workshop):
    workshop.add("s", [sample(0), sample(1)], {"0.png": picture(0), "1.png": b"x"})
    _, ledger, _ = workshop.curate()
    assert json.loads(json.dumps(ledger.row(0, named=True)))["evidence"].startswith("1 bytes starting b'x'")
