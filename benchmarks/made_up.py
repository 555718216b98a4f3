"""Annotations and indexes of made-up samples: as many as wanted, with the sources and shares of the published sets.

Texts are random words of a Zipf-distributed vocabulary, as long as those of their category; questions come from few per
source. A known number of samples have a defect each, so that it can be told whether all were found. What sharding would
measure of the pictures is random too; no picture exists. Everything follows from the seed.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fusion.data.catalog import Catalog, Source, load_catalog
from fusion.data.sharding.shards import index_schema
from fusion.data.store.ledger import write_ledger
from fusion.data.store.sample import SourceInfo
from fusion.settings import CurationProfile, Settings

DATASET = "made-up"
PICTURES = "images.tar"
SEED = 20250414
_BLOCK = 5000
_VOCABULARY = 40_000
_LENGTHS = {
    # category: turns from and to, mean words of an answer, spread of its logarithm
    "short captions": (1, 1, 12, 0.4),
    "long captions": (1, 1, 110, 0.5),
    "captions": (1, 1, 110, 0.5),
    "language": (1, 2, 120, 0.7),
    "science": (1, 1, 60, 0.8),
    "maths": (1, 1, 60, 0.8),
    "synthetic QA": (1, 4, 30, 0.8),
    "general": (1, 4, 20, 1.0),
    "OCR": (1, 3, 6, 1.0),
    "counting": (1, 2, 3, 0.5),
    "code": (1, 1, 40, 0.5),
}
_SHARES = {
    "ingest/several-images": 0.0005,
    "schema/empty-answer": 0.0005,
    "image/too-small": 0.001,
    "text/control-characters": 0.0005,
    "text/repetition": 0.001,
    "text/pii-email": 0.001,
    "text/shared-text": 0.003,
    "exact-duplicates": 0.01,
    "near-duplicates/similar-picture": 0.01,
    "near-duplicates/similar-text": 0.02,
}
"""How many samples get each defect, where their source's profile looks for it."""
_ALIKE_WORDS = 60
"""A text of so many words with one changed has a similarity of 0.9 at least."""


@dataclass
class Made:
    """One sample. `picture` is None for a text alone; `pdq` belongs to the picture."""

    row: int
    picture: str | None
    pdq: bytes
    questions: list[str]
    answers: list[str]
    defect: str | None = None


@dataclass(frozen=True)
class Plan:
    """What is made: `rows` samples of the `largest` sources of the published sets, with their shares.

    `catalog`: the folder of the catalog that describes these sets. `benchmarks`: those that the set is kept clear of.
    """

    catalog: Path
    rows: int
    largest: int = 79
    benchmarks: tuple[str, ...] = ("easy-vqa-test", "scenes-test")

    def sources(self) -> dict[str, tuple[Source, int]]:
        """The sources by a name that tells stages apart, and how many samples of each."""
        sets = [entry for name, entry in self._published().datasets.items() if name.startswith("fusion-")]
        found = {f"{entry.for_stage}-{name}": source for entry in sets for name, source in entry.sources.items()}
        chosen = sorted(found, key=lambda name: -(found[name].count or 0))[: self.largest]
        counts = [found[name].count or 0 for name in found if name in chosen]
        edges = np.round(np.cumsum([0, *counts]) / sum(counts) * self.rows).astype(int)
        named = zip((name for name in found if name in chosen), np.diff(edges).tolist(), strict=True)
        return {name: (found[name], count) for name, count in named if count}

    def made_catalog(self) -> Catalog:
        """One data set of these sources."""
        return _catalog(self.sources(), self._published(), self.benchmarks)

    def _published(self) -> Catalog:
        return load_catalog(self.catalog)


def _catalog(wanted: dict[str, tuple[Source, int]], published: Catalog, benchmarks: tuple[str, ...]) -> Catalog:
    sources: dict[str, Any] = {}
    for label, (source, count) in wanted.items():
        facts = source.model_dump(include={"category", "profile", "weight"})
        origin = {"kind": "published", "revision": None, "file": f"{label}.json", "images": [PICTURES]}
        sources[label] = {**facts, "sampling": "all", "origin": origin, "licence": {"declared": None}}
        # In thousands: of few samples it cannot be told.
        sources[label]["count"] = round(count / 1000) or None
    dataset = {
        "file": "benchmarks/made_up.py",
        "title": "made up",
        "for_stage": "stage1",
        "tokenizers": {"tiny": {"name": "data/tokenizers/tiny", "template": "phi_3"}},
        "contamination": list(benchmarks),
        "sources": sources,
    }
    return Catalog.model_validate(
        {"datasets": {DATASET: dataset}, "benchmarks": {name: published.benchmark(name) for name in benchmarks}}
    )


def write_all(root: Path, plan: Plan, settings: Settings, workers: int) -> Counter[str]:
    """Writes annotations to `root`/published and indexes to `root`/data; returns what curation has to find."""
    (root / "published").mkdir(parents=True)
    # Ingest wants a place where pictures can lie; these have none.
    tarfile.open(root / "published" / PICTURES, "w").close()
    found: Counter[str] = Counter()
    sources = sorted(plan.sources().items(), key=lambda item: -item[1][1])
    jobs = [(root, plan, settings, name, count) for name, (_, count) in sources]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for part in pool.map(_write_source, *zip(*jobs, strict=True)):
            found += part
    return found


def _write_source(root: Path, plan: Plan, settings: Settings, name: str, count: int) -> Counter[str]:
    catalog = plan.made_catalog()
    source = catalog.source(DATASET, name)
    profile = settings.curation.profiles[source.profile]
    index = root / "data/index" / DATASET / name
    index.mkdir(parents=True)
    schema = index_schema(sorted(catalog.dataset(DATASET).tokenizers))
    found: Counter[str] = Counter()
    shared: Counter[str] = Counter()
    with (
        (root / "published" / f"{name}.json").open("w", encoding="ascii") as file,
        pq.ParquetWriter(index / "index.parquet", schema, compression="zstd", store_schema=False) as writer,
    ):
        file.write("[")
        for start in range(0, count, _BLOCK):
            block = list(_block(name, source, profile, start, min(_BLOCK, count - start)))
            conversations = [_conversations(made) for made in block]
            for made, talk in zip(block, conversations, strict=True):
                file.write((",\n" if made.row else "\n") + _record(made, talk))
            rows_kept = [
                _index_row(made, talk, name, source)
                for made, talk in zip(block, conversations, strict=True)
                if made.defect != "ingest/several-images"
            ]
            writer.write_table(pa.Table.from_pylist(rows_kept, schema=schema))
            found.update(made.defect for made in block if made.defect)
            shared.update(made.answers[0].split(" things ")[0] for made in block if made.defect == "text/shared-text")
        file.write("\n]\n")
    write_ledger([], name, index / "rejects.parquet")
    found["text/shared-text"] = sum(size for size in shared.values() if size > (profile.max_same_text or 0))
    return +found


@cache
def vocabulary() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Words by frequency, and the sums of their shares."""
    generator = np.random.default_rng(SEED)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    words: dict[str, None] = {}
    while len(words) < _VOCABULARY:
        words["".join(generator.choice(syllables, generator.integers(1, 5)))] = None
    shares = 1 / (np.arange(_VOCABULARY) + 2.7)
    return np.array(list(words), dtype=object), np.cumsum(shares / shares.sum())


def texts(generator: np.random.Generator, lengths: np.ndarray[Any, Any]) -> list[str]:
    """Random texts of so many words each."""
    words, sums = vocabulary()
    drawn = words[np.searchsorted(sums, generator.random(int(lengths.sum()))).clip(max=_VOCABULARY - 1)].tolist()
    ends = np.cumsum(lengths).tolist()
    return [" ".join(drawn[end - size : end]) for end, size in zip(ends, lengths.tolist(), strict=True)]


def _block(name: str, source: Source, profile: CurationProfile, start: int, count: int) -> Iterator[Made]:
    generator = np.random.default_rng([SEED, int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big"), start])
    low, high, mean, spread = _LENGTHS[source.category]
    turns = generator.integers(low, high + 1, count)
    lengths = generator.lognormal(np.log(mean) - spread**2 / 2, spread, int(turns.sum())).round().clip(1, 2000)
    answers = texts(generator, lengths.astype(int))
    asked = texts(np.random.default_rng([SEED, len(name)]), np.random.default_rng(len(name)).integers(6, 16, 300))
    chosen = generator.integers(0, len(asked), len(answers)).tolist()
    defects = _defects(generator, profile, source, count)
    clean: list[Made] = []
    at = 0
    for number, size in enumerate(turns.tolist()):
        row = start + number
        picture = None if profile.min_side is None else f"{name}/{row:08d}.jpg"
        made = Made(
            row,
            picture,
            hashlib.sha256((picture or "").encode()).digest(),
            [asked[place] for place in chosen[at : at + size]],
            answers[at : at + size],
        )
        at += size
        earlier = clean[int(generator.integers(len(clean)))] if clean else None
        if defects[number] is not None:
            _spoil(made, str(defects[number]), earlier, generator)
        if made.defect is None:
            clean.append(made)
        yield made


def _defects(generator: np.random.Generator, profile: CurationProfile, source: Source, count: int) -> list[str | None]:
    off = set()
    if profile.min_side is None:
        off |= {"ingest/several-images", "image/too-small"}
    if profile.max_repetition is None:
        off.add("text/repetition")
    if not profile.pii:
        off.add("text/pii-email")
    if profile.max_same_text is None:
        off.add("text/shared-text")
    if profile.image_distance is None:
        off.add("near-duplicates/similar-picture")
    if profile.text_similarity is None:
        off.add("near-duplicates/similar-text")
    names = [None if name in off else name for name in _SHARES]
    edges = np.cumsum(list(_SHARES.values()))
    drawn = np.searchsorted(edges, generator.random(count), "right")
    return [names[place] if place < len(names) else None for place in drawn.tolist()]


def _spoil(made: Made, defect: str, earlier: Made | None, generator: np.random.Generator) -> None:
    """Gives a sample a defect, unless that needs an earlier sample and there is none that fits."""
    if defect in ("exact-duplicates", "near-duplicates/similar-picture", "near-duplicates/similar-text"):
        if earlier is None:
            return
        if defect == "exact-duplicates":
            made.picture, made.pdq = earlier.picture, earlier.pdq
            made.questions, made.answers = earlier.questions, earlier.answers
            defect += "/same-text" if made.picture is None else "/same-sample"
        elif defect == "near-duplicates/similar-picture":
            bits = np.unpackbits(np.frombuffer(earlier.pdq, np.uint8))
            bits[generator.choice(256, 6, replace=False)] ^= 1
            made.pdq = np.packbits(bits).tobytes()
            made.picture = f"{made.picture}#{earlier.picture}"
        else:
            words = earlier.answers[0].split(" ")
            if sum(len(answer.split(" ")) for answer in earlier.answers) < _ALIKE_WORDS:
                return
            words[int(generator.integers(len(words)))] = f"row{made.row}"
            made.questions, made.answers = list(earlier.questions), [" ".join(words), *earlier.answers[1:]]
    elif defect == "schema/empty-answer":
        made.answers = [*made.answers[:-1], ""]
    elif defect == "text/control-characters":
        made.answers = [f"a \\u0007 {made.answers[0]}", *made.answers[1:]]
    elif defect == "text/repetition":
        made.answers = [" ".join(["again"] * 12), *made.answers[1:]]
    elif defect == "text/pii-email":
        made.answers = [f"{made.answers[0]} write to row{made.row}@example.org", *made.answers[1:]]
    elif defect == "text/shared-text":
        made.answers = [f"from the collection of {['red', 'blue', 'green'][made.row % 3]} things {made.row}"]
        made.questions = made.questions[:1]
    made.defect = defect


def _conversations(made: Made) -> str:
    """The conversation as JSON; the words need no escapes."""
    messages = []
    for turn, (question, answer) in enumerate(zip(made.questions, made.answers, strict=True)):
        marker = "<image>\\n" if made.picture is not None and turn == 0 else ""
        messages.append(f'{{"from":"human","value":"{marker}{question}"}},{{"from":"gpt","value":"{answer}"}}')
    return f"[{','.join(messages)}]"


def _record(made: Made, conversations: str) -> str:
    image = "" if made.picture is None else f'"image":"{made.picture}",'
    if made.defect == "ingest/several-images":
        image = f'"image":["{made.picture}","other.jpg"],'
    return f'{{"id":"{made.row}",{image}"conversations":{conversations}}}'


def _index_row(made: Made, conversations: str, name: str, source: Source) -> dict[str, Any]:
    text = hashlib.sha256(conversations.encode())
    sample = SourceInfo(DATASET, name, f"{name}.json", made.row)
    words = sum(answer.count(" ") + 1 for answer in made.answers)
    row: dict[str, Any] = {
        "sample_id": sample.sample_id,
        "dataset": DATASET,
        "source": name,
        "file": sample.file,
        "row": made.row,
        "shard": f"data/shards/{DATASET}/{name}/{made.row // 20_000:06d}.tar",
        "record_offset": 512 + 50_000 * (made.row % 20_000),
        "record_size": len(conversations) + 200,
        "sha256": hashlib.sha256(f"{sample.sample_id} {text.hexdigest()}".encode()).hexdigest(),
        "text_sha256": text.hexdigest(),
        "turns": len(made.answers),
        "text_tokens_tiny": 40 + 4 * words // 3,
        "instruct_tokens_tiny": 10 + sum(question.count(" ") for question in made.questions),
        "answer_chars": max(1, sum(map(len, made.answers))),
        "category": source.category,
        "licence_declared": None,
        "licence_verified": None,
        "structure": "empty-answer: turn 0" if made.defect == "schema/empty-answer" else None,
    }
    if made.picture is not None:
        # Pictures that look alike have the same colours.
        look = hashlib.sha256(made.picture.split("#")[-1].encode()).digest()
        row |= {
            "image_offset": row["record_offset"] + 2048,
            "image_size": 40_000,
            "image_path": made.picture,
            "image_sha256": hashlib.sha256(made.picture.encode()).hexdigest(),
            "pdq": made.pdq,
            "pdq_quality": 100,
            "width": 8 if made.defect == "image/too-small" else 640,
            "height": 480 if made.defect != "image/too-small" else 32,
            "contrast": 20.0 + look[0] / 8,
            "colours": look + look[:16],
        }
    return row
