"""A project folder for one test: its own catalog, sources in the published layout, and the real settings."""

import io
import json
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml
from PIL import Image

from fusion.data.catalog import Catalog, load_catalog
from fusion.data.curate import curate_dataset
from fusion.data.ingest import ingest_source
from fusion.data.sharding.shards import shard_source
from fusion.settings import Settings, load_settings

DATASET = "shapes"
TOKENIZER = {"tiny": {"name": "data/tokenizers/tiny", "template": "phi_3"}}
LICENCE = {"declared": "MIT", "verified": "MIT"}


def picture(seed: int = 0, size: tuple[int, int] = (48, 40), form: str = "PNG") -> bytes:
    """A picture of seeded large patches, so that different seeds look different."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(patches).resize(size, Image.Resampling.NEAREST).save(file, form)
    return file.getvalue()


def talk(*texts: str, image: bool = False) -> list[dict[str, str]]:
    """A conversation of alternating human and gpt messages, with the image marker in the first."""
    values = [f"<image>\n{texts[0]}", *texts[1:]] if image else list(texts)
    return [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]


def sample(number: int, answer: str | None = None, **more: Any) -> dict[str, Any]:
    """A sound record with picture `<number>.png`."""
    conversations = talk("what is this?", answer or f"object number {number}", image=True)
    return {"id": f"s{number}", "image": f"{number}.png", "conversations": conversations, **more}


class Workshop:
    """`folder` is the project, `published` the place of the sources in the published layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.published = folder / "published"
        self.published.mkdir(parents=True)
        self.sources: dict[str, dict[str, Any]] = {}
        self.benchmarks: dict[str, Any] = {}
        self.contamination: list[str] = []
        self.expect: dict[str, Any] = {}
        self._loaded: tuple[str, Catalog] | None = None
        real = load_settings()
        data = real.data.model_copy(update={"roots": {DATASET: str(self.published)}, "workers": 1})
        self.settings: Settings = real.model_copy(update={"data": data})

    def add(
        self,
        name: str,
        records: Iterable[Any] | bytes,
        images: dict[str, bytes] | None = None,
        *,
        lines: bool = False,
        container: str = "folder",
        **entry: Any,
    ) -> None:
        """Adds a source: its annotation file (a JSON array, JSON lines or raw bytes) and its pictures."""
        file = self.published / f"{name}.json"
        if isinstance(records, bytes):
            file.write_bytes(records)
        else:
            items = [json.dumps(record) for record in records]
            file.write_text("\n".join(items) if lines else f"[{','.join(items)}]", encoding="utf-8")
        origin: dict[str, Any] = {"kind": "published", "revision": None, "file": file.name}
        if images:
            origin["images"] = [self._write_images(name, images, container)]
        facts = {"sampling": "all", "category": "captions", "profile": "web", "licence": LICENCE}
        self.sources[name] = {"origin": origin, **facts, **entry}

    def embed(self, name: str, origin: dict[str, Any], **entry: Any) -> None:
        """Adds a source of another kind of origin."""
        facts = {"sampling": "all", "category": "captions", "profile": "rendered", "licence": LICENCE}
        self.sources[name] = {"origin": origin, **facts, **entry}

    def _write_images(self, name: str, images: dict[str, bytes], container: str) -> str:
        if container == "folder":
            for path, data in images.items():
                (self.published / f"{name}-images" / path).parent.mkdir(parents=True, exist_ok=True)
                (self.published / f"{name}-images" / path).write_bytes(data)
            return f"{name}-images"
        if container == "tar":
            with tarfile.open(self.published / f"{name}.tar", "w") as tar:
                for path, data in images.items():
                    info = tarfile.TarInfo(f"./{path}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        else:
            with zipfile.ZipFile(self.published / f"{name}.zip", "w") as archive:
                for path, data in images.items():
                    archive.writestr(f"images/{path}", data)
        return f"{name}.{container}"

    @property
    def catalog(self) -> Catalog:
        """The catalog as the stages read it: written to YAML and loaded."""
        dataset = {
            "title": "a test",
            "for_stage": "stage1",
            "tokenizers": TOKENIZER,
            "contamination": self.contamination,
            "expect": self.expect,
            "sources": self.sources,
        }
        folder = self.folder / "data/catalog"
        folder.mkdir(parents=True, exist_ok=True)
        document = {"datasets": {DATASET: dataset}, "benchmarks": self.benchmarks}
        if self._loaded is None or self._loaded[0] != repr(document):
            (folder / "test.yaml").write_text(yaml.safe_dump(document), encoding="utf-8")
            self._loaded = (repr(document), load_catalog(folder))
        return self._loaded[1]

    def ingest(self, name: str) -> pl.DataFrame:
        """Ingests a source; returns its samples."""
        ingest_source(self.settings, self.catalog, dataset=DATASET, source=name, root=self.folder)
        return pl.read_parquet(self.folder / "data/raw" / DATASET / name / "samples.parquet")

    def shard(self, name: str) -> pl.DataFrame:
        """Ingests and shards a source; returns its index."""
        self.ingest(name)
        return self.shard_only(name)

    def shard_only(self, name: str) -> pl.DataFrame:
        """Shards what is ingested of a source; returns its index."""
        shard_source(self.settings, self.catalog, dataset=DATASET, source=name, root=self.folder)
        return pl.read_parquet(self.folder / "data/index" / DATASET / name / "index.parquet")

    def rejects(self, name: str, stage: str) -> dict[int, str]:
        """Row and reason of what `stage` (raw or index) rejected of a source."""
        table = pl.read_parquet(self.folder / "data" / stage / DATASET / name / "rejects.parquet")
        assert table["evidence"].null_count() == 0
        return {int(key.rsplit("/", 1)[1]): reason for key, reason in table.select("sample_id", "reason").iter_rows()}

    def curate(self) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
        """Takes all sources through curation; returns manifest, ledger and summary."""
        for name in self.sources:
            self.shard(name)
        return self.curate_only()

    def curate_only(self) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, Any]]:
        """Curates what is sharded."""
        curate_dataset(self.settings, self.catalog, dataset=DATASET, root=self.folder)
        folder = self.folder / "data/manifests" / DATASET
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return pl.read_parquet(folder / "manifest.parquet"), pl.read_parquet(folder / "ledger.parquet"), summary

    def reasons(self, name: str) -> dict[int, str]:
        """Row and block/reason of all that the ledger holds of a source, after `curate`."""
        ledger = pl.read_parquet(self.folder / "data/manifests" / DATASET / "ledger.parquet")
        rows = ledger.filter(pl.col("source") == name).select("sample_id", "block", "reason").iter_rows()
        return {int(key.rsplit("/", 1)[1]): f"{block}/{reason}" for key, block, reason in rows}
