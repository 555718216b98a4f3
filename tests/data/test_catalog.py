"""The catalog: what is in it, and that mistakes in it are named."""

from pathlib import Path

import pytest

from fusion.data.catalog import CatalogError, load_catalog

SOUND = """
datasets:
  one:
    title: t
    for_stage: stage1
    tokenizers: {tiny: {name: data/tokenizers/tiny, template: phi_3}}
    sources:
      s:
        origin: {kind: text, topic: code, conversations: 3}
        sampling: all
        category: code
        profile: text
        licence: {declared: MIT}
"""


def test_the_published_sets_are_whole():
    catalog = load_catalog()
    counts = {name: sum(s.count or 0 for s in entry.sources.values()) for name, entry in catalog.datasets.items()}
    published = {name: count for name, count in counts.items() if count}
    assert published == {"fusion-pretrain-10m": 9676, "fusion-5m-stage1_5": 4547, "fusion-7m-stage2": 6864}
    assert sum(len(catalog.dataset(name).sources) for name in published) == 79


@pytest.mark.parametrize(
    ("old", "new", "key", "why"),
    [
        ("category: code", "categry: code", "datasets.one.sources.s.categry", "unknown key"),
        ("        profile: text\n", "", "datasets.one.sources.s.profile", "missing"),
        ("conversations: 3", "conversations: 0", "datasets.one.sources.s.origin", "conversations"),
        ("conversations: 3", "conversation: 3", "datasets.one.sources.s.origin", "conversation"),
        ("kind: text", "kind: novel", "datasets.one.sources.s.origin", "clipart"),
        ("sampling: all", "sampling: last:3", "datasets.one.sources.s.sampling", "random:N"),
        ("sampling: all", "sampling: 120%", "datasets.one.sources.s.sampling", "N%"),
        ("for_stage: stage1", "for_stage: stage3", "datasets.one.for_stage", "stage1_5"),
        ("title: t", "title: t\n    contamination: [exam]", "contamination", "no benchmark `exam`"),
        ("    title: t\n", "    title: t\n    title: u\n", "datasets.one.title", "stands twice, in lines 4 and 5"),
        ("    title: t\n", "    title: t\n\tx: 1\n", "line 5", "tab"),
        ("categ", "catag", "datasets.one.sources.s.catagory", "did you mean `category`?"),
        ("datasets:\n  one:", "datasets:\n  two: 3\n  one:", "datasets.two", "must be a mapping"),
        ("  one:", "  one.two:", "one.two", "pattern"),
        ("datasets:", "data:", "data", "unknown key"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(tmp_path: Path, old: str, new: str, key: str, why: str):
    assert old in SOUND
    (tmp_path / "wrong.yaml").write_text(SOUND.replace(old, new, 1))
    with pytest.raises(CatalogError) as caught:
        load_catalog(tmp_path)
    assert key in str(caught.value)
    assert why in str(caught.value)
    assert "wrong.yaml" in str(caught.value) or why.startswith("no benchmark")


def test_all_mistakes_are_named_at_once(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(SOUND.replace("category", "catgory"))
    (tmp_path / "b.yaml").write_text(SOUND.replace("one:", "two:").replace("title", "titel") + "benchmark: {}\n")
    with pytest.raises(CatalogError, match="5 wrong entries") as caught:
        load_catalog(tmp_path)
    for words in ("a.yaml: datasets.one.sources.s.catgory", "b.yaml: datasets.two.titel", "did you mean `benchmarks`?"):
        assert words in str(caught.value)


def test_what_is_not_utf_8_is_named(tmp_path: Path):
    (tmp_path / "a.yaml").write_bytes(SOUND.encode() + b"# \xff\n")
    with pytest.raises(CatalogError, match=r"a\.yaml: line \d+: the byte 0xff is not UTF-8"):
        load_catalog(tmp_path)


def test_a_name_in_two_files_is_an_error(tmp_path: Path):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text(SOUND)
    with pytest.raises(CatalogError, match=r"b\.yaml: datasets\.one stands in .*a\.yaml"):
        load_catalog(tmp_path)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(CatalogError, match=r"no data set named `tiny`; known: .*tiny-stage1"):
        load_catalog().dataset("tiny")
    with pytest.raises(CatalogError, match="no source of `tiny-stage1` named `x`"):
        load_catalog().source("tiny-stage1", "x")
