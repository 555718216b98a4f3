"""What ranks get: every sample once, the same on any number of ranks, from any step on, also after a kill."""

import hashlib
import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.data.stream.errors import LoaderError
from fusion.data.stream.manifest import Manifest
from fusion.model.checkpoints import build_from_base
from fusion.model.processing import FusionProcessor, load_tokenizer
from fusion.settings import load_settings
from fusion.train.batches import RankBatches, StepBatches, unread_samples
from fusion.train.recipe import Recipe, make_recipe
from tests.data.workshop import DATASET, Workshop, picture, sample, talk
from tests.model.tiny import text_config, vision_config

ROOT = Path(__file__).parents[2]
SAMPLES, PICTURES, BATCH, IMAGE_TOKENS = 46, 30, 10, 16


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """A data set of samples with and without a picture."""
    made = Workshop(tmp_path_factory.mktemp("shop"))
    pictures = [sample(number, f"number {number}" + " and so on" * (number % 9)) for number in range(PICTURES)]
    texts = [
        {"id": f"t{number}", "conversations": talk(f"how is text {number}?", f"number {number}")}
        for number in range(PICTURES, SAMPLES)
    ]
    files = {f"{number}.png": picture(number) for number in range(PICTURES)}
    made.add("pictures", pictures, files, profile="rendered")
    made.add("texts", texts, profile="rendered")
    manifest, _, _ = made.curate()
    assert len(manifest) == SAMPLES
    return made


@pytest.fixture(scope="module")
def processor() -> FusionProcessor:
    return build_from_base(
        text_config("phi_3"),
        vision_config(),
        load_tokenizer(ROOT / "data/tokenizers/tiny"),
        template="phi_3",
        seed=0,
        num_of_vision_sampler_layers=1,
        interaction_heads=4,
    )[1]


def recipe(root: Path, ranks: int, *, workers: int = 0, bad: str = "stop", **loading: Any) -> Recipe:
    """Stage 1 of micro over the data set, two epochs in steps of ten samples."""
    made = make_recipe(load_settings(ROOT / "params.yaml"), "micro", "stage1", root)
    changed = {"global_batch": BATCH, "epochs": 2, "on_bad_sample": bad}
    return replace(
        made,
        dataset=DATASET,
        settings=made.settings.model_copy(update=changed),
        hardware=made.hardware.model_copy(update={"ranks": ranks, "micro_batch": 3}),
        loading=made.loading.model_copy(update={"workers": workers, **loading}),
    )


def numbers(processor: FusionProcessor, step: StepBatches) -> list[int]:
    """Which samples a rank's batches hold, read from their tokens."""
    rows = [row for batch in step.batches if batch is not None for row in batch["input_ids"]]
    return [int(found) for row in rows for found in re.findall(r"number (\d+)", processor.decode(row.tolist()))]


def steps(recipe: Recipe, processor: FusionProcessor, rank: int, first: int, notes: Path) -> Iterator[StepBatches]:
    return RankBatches(recipe, processor, IMAGE_TOKENS, rank)(first, notes)


def all_steps(made: Recipe, processor: FusionProcessor, first: int, notes: Path) -> list[list[int]]:
    """The samples of each step from `first` on, of all ranks together."""
    ranks = [steps(made, processor, rank, first, notes) for rank in range(made.hardware.ranks)]
    found = []
    for parts in zip(*ranks, strict=True):
        assert len({(part.samples, part.tokens, len(part.batches)) for part in parts}) == 1
        for part in parts:
            assert [len(rows) for rows in part.rows] == [batch.size if batch else 0 for batch in part.batches]
        found.append(sorted(number for part in parts for number in numbers(processor, part)))
    return found


def test_each_step_has_the_same_samples_on_any_number_of_ranks(
    shop: Workshop, processor: FusionProcessor, tmp_path: Path
) -> None:
    one = all_steps(recipe(shop.folder, 1), processor, 0, tmp_path)
    assert len(one) == 10 and [len(step) for step in one] == [10] * 9 + [2]
    epoch = [number for step in one for number in step]
    assert sorted(epoch) == sorted([*range(SAMPLES)] * 2), "each sample twice in two epochs"
    for ranks in (2, 8, 32):
        assert all_steps(recipe(shop.folder, ranks), processor, 0, tmp_path) == one


@given(plan=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=5))
@settings(max_examples=8, deadline=None)
def test_resumed_on_any_ranks_at_any_step_exactly_the_rest_remains(
    shop: Workshop, processor: FusionProcessor, tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, int]]
) -> None:
    """Runs of so many ranks that each end after so many steps, and the next goes on there."""
    notes, seen, done = tmp_path_factory.mktemp("notes"), [], 0
    for ranks, count in plan:
        if done == 10:
            break
        streams = [steps(recipe(shop.folder, ranks), processor, rank, done, notes) for rank in range(ranks)]
        for _ in range(min(count, 10 - done)):
            seen += [number for stream in streams for number in numbers(processor, next(stream))]
            done += 1
    rest = all_steps(recipe(shop.folder, 2), processor, done, notes) if done < 10 else []
    assert sorted(seen + [number for step in rest for number in step]) == sorted([*range(SAMPLES)] * 2)


def digest(stream: Iterator[StepBatches]) -> str:
    found = hashlib.sha256()
    for step in stream:
        for batch in step.batches:
            for name in sorted(batch or ()):
                found.update(name.encode() + batch[name].numpy().tobytes())  # type: ignore[index]
    return found.hexdigest()


def test_workers_and_remote_shards_give_the_same_bytes(
    shop: Workshop, processor: FusionProcessor, tmp_path: Path
) -> None:
    own = digest(steps(recipe(shop.folder, 2), processor, 1, 0, tmp_path))
    assert digest(steps(recipe(shop.folder, 2, workers=2), processor, 1, 0, tmp_path)) == own
    shards = {DATASET: f"file://{shop.folder}/data/shards/{DATASET}"}
    made = recipe(shop.folder, 2, shards=shards, cache=str(tmp_path / "cache"), cache_gb=0.01)
    assert digest(steps(made, processor, 1, 0, tmp_path)) == own
    assert list((tmp_path / "cache/pieces").iterdir())


@pytest.fixture
def broken(shop: Workshop, tmp_path: Path) -> Path:
    """A copy of the project; the picture of sample 4 and the record of the fourth text are overwritten."""
    shutil.copytree(shop.folder / "data", tmp_path / "project/data")
    made = recipe(tmp_path / "project", 1)
    manifest = Manifest(made.manifest, made.tokenizer, tmp_path / "scratch")
    places = [place for rows in manifest.pieces() for place in manifest.places(rows)]
    for place in places:
        for name, part in (("pictures/00000004", place.image), ("texts/00000003", place.record)):
            if part is not None and place.sample_id == f"{DATASET}/{name}":
                with (tmp_path / "project" / place.shard).open("r+b") as file:
                    file.seek(part[0])
                    file.write(b"x" * part[1])
    return tmp_path / "project"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_sample_stops_the_run_and_is_named(
    broken: Path, processor: FusionProcessor, tmp_path: Path, workers: int
) -> None:
    told = r"shapes/(pictures/00000004 \(row 4 of pictures\.json\)|texts/00000003 .*) cannot be read: .*on_bad_sample"
    with pytest.raises(LoaderError, match=told):
        all_steps(recipe(broken, 1, workers=workers), processor, 0, tmp_path)


def test_bad_samples_are_counted_with_their_origin_and_never_replaced(
    broken: Path, processor: FusionProcessor, tmp_path: Path
) -> None:
    made = recipe(broken, 2, bad="count")
    found = all_steps(made, processor, 0, tmp_path)
    left = [number for number in range(SAMPLES) if number not in (4, PICTURES + 3)]
    assert sorted(number for step in found for number in step) == sorted(left * 2)
    ledger = unread_samples(tmp_path)
    names = [(row["sample_id"], row["reason"], row["file"], row["row"]) for row in ledger]
    assert sorted(names) == sorted(
        2
        * [
            ("shapes/pictures/00000004", "image_unreadable", "pictures.json", 4),
            ("shapes/texts/00000003", "corrupt-record", "texts.json", 3),
        ]
    )
    with (tmp_path / "unread-0.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"half a li')
    assert all_steps(made, processor, 3, tmp_path) == found[3:]
    assert unread_samples(tmp_path) == ledger, "steps that are done again count once"


def test_a_missing_shard_stops_the_run_whatever_is_set(
    broken: Path, processor: FusionProcessor, tmp_path: Path
) -> None:
    for shard in broken.glob("data/shards/**/*.tar"):
        shard.unlink()
    with pytest.raises(LoaderError, match=r"shard .* is missing: restore it"):
        all_steps(recipe(broken, 1, bad="count"), processor, 0, tmp_path)


def _stream(made: Recipe, processor: FusionProcessor, out: Path) -> None:
    """Goes on behind the last whole line of `out`; a line for each step."""
    text = out.read_text(encoding="utf-8") if out.exists() else ""
    whole = text[: text.rfind("\n") + 1]
    out.write_text(whole, encoding="utf-8")
    with out.open("a", encoding="utf-8") as file:
        for step in steps(made, processor, 1, whole.count("\n"), out.parent):
            file.write(digest(iter([step])) + "\n")
            file.flush()
            time.sleep(0.004)


def _read_a_step(made: Recipe, processor: FusionProcessor, notes: Path) -> None:
    stream = steps(made, processor, 0, 0, notes)
    next(stream)
    (notes / "reading").touch()
    time.sleep(60)


def test_workers_end_with_their_rank(shop: Workshop, processor: FusionProcessor, tmp_path: Path) -> None:
    """However it ends: they would hold memory, and whatever waits for the end of its messages."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_read_a_step, args=(recipe(shop.folder, 1, workers=2), processor, tmp_path))
    process.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "reading").exists():
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) >= 2
    process.kill()
    process.join()
    _, alive = psutil.wait_procs(family, timeout=15)
    assert not alive


def test_killed_at_any_moment_it_continues_to_the_same_bytes(
    shop: Workshop, processor: FusionProcessor, tmp_path: Path
) -> None:
    """Also while the table of the manifest and the cache of shards are being written."""
    shutil.copytree(shop.folder / "data", tmp_path / "project/data")
    shards = {DATASET: f"file://{shop.folder}/data/shards/{DATASET}"}
    made = recipe(tmp_path / "project", 2, shards=shards, cache="scratch/shards", cache_gb=0.01)
    start = time.monotonic()
    _stream(made, processor, tmp_path / "undisturbed")
    seconds = time.monotonic() - start
    context = multiprocessing.get_context("fork")
    kills, out = 0, tmp_path / "killed"
    for attempt in range(12):
        if attempt % 3 == 0:
            shutil.rmtree(tmp_path / "project/scratch", ignore_errors=True)
        process = context.Process(target=_stream, args=(made, processor, out))
        process.start()
        process.join(seconds * (attempt % 5) / 8)
        if process.exitcode is None:
            os.kill(process.pid or 0, signal.SIGKILL)
            kills += 1
        process.join()
    _stream(made, processor, out)
    assert kills >= 3
    assert out.read_bytes() == (tmp_path / "undisturbed").read_bytes()
