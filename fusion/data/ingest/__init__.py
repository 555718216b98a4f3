"""Ingest: one source, from wherever it is published, to `data/raw/<dataset>/<source>/`.

samples.parquet holds the rows that can be used so far, rejects.parquet the others with their reasons; the pictures stay
where they are, listed in images.lock.json. Source: design "From source to batch", item 1.

A killed ingest continues: its state lies in `scratch/ingest/<dataset>/<source>/` until the output is there.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from fusion.data.errors import IngestError
from fusion.data.ingest.embedded import write_published_layout
from fusion.data.ingest.json_stream import read_records
from fusion.data.ingest.lock import LOCK, lock_images
from fusion.data.ingest.origin import EmbeddedOrigin, Layout, Origin, PublishedOrigin
from fusion.data.ingest.places import check_places
from fusion.data.ingest.rows import REJECTS as GROWN_REJECTS
from fusion.data.ingest.rows import ROWS, SCHEMA, grow_rows
from fusion.data.ingest.sampling import chosen_rows, needs_count, thinned
from fusion.data.store.folders import output_folder
from fusion.data.store.growing import write_row_groups
from fusion.data.store.ledger import write_grown_ledger
from fusion.data.store.resume import Resumable, code_sha256, sole_process
from fusion.files import write_json
from fusion.hashing import file_sha256
from fusion.progress import Progress

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog
    from fusion.settings import Settings

_BATCH = 20_000
SAMPLES = "samples.parquet"
REJECTS = "rejects.parquet"
_CODE = ("data/ingest", "data/store", "files.py", "hashing.py")
_PACKAGES = ("polars", "pyarrow")


def ingest_source(
    settings: Settings,
    catalog: Catalog,
    dataset: str,
    source: str,
    root: Path = Path("."),
) -> Path:
    """Ingests one source; returns its folder.

    Args:
        settings, catalog: what params.yaml and data/catalog/ say.
        dataset, source: which source.
        root: the project's folder.

    Raises:
        IngestError: the source is not there, its annotation file is not valid JSON, it names pictures and no place is
            there that could hold them, or nothing is left of it.
        CatalogError: the catalog has no such source.
    """
    entry = catalog.source(dataset, source)
    whole = catalog.dataset(dataset)
    name = f"{dataset}/{source}"
    target = root / "data/raw" / dataset / source
    place = root / "scratch/ingest" / dataset / source
    with sole_process(place) as lock:
        with output_folder(target) as folder:
            if isinstance(entry.origin, EmbeddedOrigin):
                layout = write_published_layout(entry.origin, folder, root)
            elif isinstance(entry.origin, PublishedOrigin):
                layout = entry.origin.layout(whole.folder(settings.data.roots, dataset, source))
            else:
                raise IngestError(f"{name}: an origin of kind `{entry.origin.kind}` cannot be ingested")
            nowhere = _check_places(catalog, layout, entry.origin, whole.members.get(source, name))
            sampling = thinned(entry.sampling, settings.run.pilot)
            inputs = {
                "annotations": file_sha256(layout.folder / layout.annotations),
                "code": code_sha256(_CODE, {package: version(package) for package in _PACKAGES}),
                "name": name,
                "sampling": sampling,
                "seed": settings.run.seed,
            }
            with Resumable(place, inputs, settings.data.save_seconds, lock) as work:
                count = work.remember("rows", lambda: _count(layout, name)) if needs_count(sampling) else None
                chosen = chosen_rows(sampling, count, settings.run.seed, whole.members.get(source, name))
                grow_rows(layout, chosen, dataset, source, work, nowhere)
                write_row_groups(work.path(ROWS), folder / SAMPLES, SCHEMA)
                write_grown_ledger(work.path(GROWN_REJECTS), folder / REJECTS)
                write_json(lock_images(layout, lambda: _used_images(folder), work), folder / LOCK)
        work.delete()
    return target


def _check_places(catalog: Catalog, layout: Layout, origin: Origin, member: str) -> str | None:
    """See `check_places`; `member` is the data set and source that has the entry."""
    if not isinstance(origin, PublishedOrigin):
        return None
    dataset, _, source = member.partition("/")
    key = f"{catalog.dataset(dataset).file}: datasets.{dataset}.sources.{source}.origin.images"
    return check_places(layout, getattr(origin, "images", layout.images), key)


def _count(layout: Layout, name: str) -> int:
    rows = 0
    with Progress(f"count the rows of {name}", "rows", None) as progress:
        for _ in read_records(layout.folder / layout.annotations):
            rows += 1
            if not rows % 1000:
                progress.advance(1000)
    return rows


def _used_images(folder: Path) -> Iterator[str]:
    """The pictures of all rows, in their order; one that several rows share comes several times."""
    for batch in pq.ParquetFile(folder / SAMPLES).iter_batches(batch_size=_BATCH, columns=["image"]):
        yield from (name for name in batch.column(0).to_pylist() if name is not None)
