"""The curated data through the webdataset library: only what is kept, as often as drawn; the page's examples run."""

import re
from pathlib import Path

import polars as pl
import pytest

from fusion.data.benchmarks import build_benchmark
from fusion.data.errors import DataError
from fusion.data.stream.loader import LoaderError
from fusion.data.wds import open_webdataset
from tests.data.workshop import DATASET, Workshop, picture, sample, talk

BENCHMARK = "easy-vqa-test"


@pytest.fixture
def manifest(workshop: Workshop) -> Path:
    """A curated set: a source drawn twice with a duplicate in it, one of text, shards of one or two samples."""
    images = {f"{number}.png": picture(number) for number in range(4)}
    workshop.add("a", [*(sample(number) for number in range(4)), sample(1)], images, weight=2)
    workshop.add("b", [{"conversations": talk("two and two?", "four")}])
    data = workshop.settings.data.model_copy(update={"shard_size_mb": 0.004})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    workshop.curate()
    return workshop.folder / "data/manifests" / DATASET / "manifest.parquet"


def test_the_library_reads_what_is_kept_as_often_as_it_is_drawn(workshop: Workshop, manifest: Path):
    samples = list(open_webdataset(manifest, workshop.folder).decode("rgb8"))
    table = pl.read_parquet(manifest)
    assert len(table) == 5 and table["shard"].n_unique() > 2
    expected = [name for name, draws in table.select("sample_id", "draws").iter_rows() for _ in range(draws)]
    assert [item["json"]["id"] for item in samples] == expected
    assert samples[0]["png"].shape == (40, 48, 3)
    assert "png" not in samples[-1]
    assert all(one is not two for one, two in zip(samples[::2], samples[1::2], strict=False))


def test_what_is_missing_or_damaged_is_named(workshop: Workshop, manifest: Path):
    shard = pl.read_parquet(manifest)["shard"][0]
    (workshop.folder / shard).unlink()
    with pytest.raises(LoaderError, match=f"shard {shard} is missing: restore it"):
        open_webdataset(manifest, workshop.folder)
    manifest.write_bytes(b"x")
    with pytest.raises(DataError, match="cannot be read"):
        open_webdataset(manifest, workshop.folder)


def test_the_examples_of_the_page_run(workshop: Workshop, manifest: Path, monkeypatch: pytest.MonkeyPatch):
    origin = {"kind": "easy_vqa", "split": "test", "first": 3}
    workshop.benchmarks = {BENCHMARK: {"title": "t", "origin": origin, "licence": {"declared": "MIT"}}}
    build_benchmark(workshop.settings, workshop.catalog, BENCHMARK, workshop.folder)
    blocks = re.findall(r"```python\n(.*?)```", Path("docs/webdataset.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(workshop.folder)
    seen: list[dict[str, object]] = []
    for block in blocks:
        space: dict[str, object] = {"seen": seen}
        code = block.replace("tiny-stage2", DATASET).replace("...  #", "seen.append(dict(globals()))  #")
        exec(code.replace("num_workers=1", "num_workers=0"), space)
    trained = [item for item in seen if "conversations" in item]
    asked = [item["question"] for item in seen if "question" in item]
    assert len(trained) == 9
    assert sum(item["picture"] is None for item in trained) == 1
    questions = pl.read_parquet(f"data/benchmarks/{BENCHMARK}/questions.parquet")
    assert [item["question_id"] for item in asked] == questions["question_id"].to_list()
