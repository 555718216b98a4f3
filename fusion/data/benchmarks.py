"""Benchmarks that come with the project: held-out questions and their pictures, with what contamination is checked by.

`data/benchmarks/<name>/`: questions.parquet, images.tar, images.parquet (hashes, one row a picture), benchmark.json.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from fusion.data.errors import DataError
from fusion.data.ingest.origin import BenchmarkOrigin
from fusion.data.ingest.record import Reject
from fusion.data.store.folders import output_folder, read_json, read_parquet, write_parquet
from fusion.data.store.pixels import measure
from fusion.data.store.tars import TarWriter
from fusion.files import write_json

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog
    from fusion.settings import Settings

FOLDER = Path("data/benchmarks")
_QUESTIONS = {
    "question_id": pl.String(),
    "image_id": pl.String(),
    "question": pl.String(),
    "answer": pl.String(),
    "kind": pl.String(),
    "category": pl.String(),
    "image_offset": pl.Int64(),
    "image_size": pl.Int64(),
}
_IMAGES = {
    "image_id": pl.String(),
    "sha256": pl.String(),
    "pdq": pl.Binary(),
    "pdq_quality": pl.Int32(),
    "width": pl.Int32(),
    "height": pl.Int32(),
    "colours": pl.Binary(),
}


def build_benchmark(settings: Settings, catalog: Catalog, name: str, root: Path = Path(".")) -> Path:
    """Writes one benchmark; returns its folder.

    Raises:
        CatalogError: the catalog has no such benchmark.
        DataError: its origin makes no questions, or a picture that cannot be read.
    """
    entry = catalog.benchmark(name)
    if not isinstance(entry.origin, BenchmarkOrigin):
        raise DataError(f"benchmark {name}: an origin of kind `{entry.origin.kind}` makes no questions")
    target = root / FOLDER / name
    questions: list[tuple[Any, ...]] = []
    images: dict[str, tuple[Any, ...]] = {}
    places: dict[str, tuple[int, int]] = {}
    with output_folder(target) as folder:
        with TarWriter(folder / "images.tar") as tar:
            for item in entry.origin.questions(root):
                if item.picture is not None:
                    measured = measure(item.picture, settings.data.max_image_pixels)
                    if isinstance(measured, Reject):
                        raise DataError(f"benchmark {name}: {item.image}: {measured.reason}: {measured.evidence}")
                    places[item.image] = (tar.add(item.image, item.picture), len(item.picture))
                    size = (measured.width, measured.height)
                    hashes = (measured.sha256, measured.pdq, measured.pdq_quality, *size, measured.colours)
                    images[item.image] = (item.image, *hashes)
                place = places[item.image]
                questions.append((item.id, item.image, item.question, item.answer, item.kind, item.category, *place))
        table = pl.DataFrame(questions, schema=_QUESTIONS, orient="row")
        write_parquet(table, folder / "questions.parquet")
        write_parquet(pl.DataFrame(list(images.values()), schema=_IMAGES, orient="row"), folder / "images.parquet")
        write_json(
            {
                "categories": _counts(table, "category"),
                "images": len(images),
                "kinds": _counts(table, "kind"),
                "licence": entry.licence.model_dump(),
                "name": name,
                "questions": len(table),
                "title": entry.title,
            },
            folder / "benchmark.json",
        )
    return target


def _counts(table: pl.DataFrame, column: str) -> dict[str, int]:
    return dict(table.group_by(column).len().sort(column).iter_rows())


def read_benchmark(name: str, root: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Questions and pictures (hashes) of a built benchmark; raises `DataError` when it was not built."""
    folder = root / FOLDER / name
    made_by = f"fusion benchmark {name}"
    read_json(folder / "benchmark.json", made_by)
    return read_parquet(folder / "questions.parquet", made_by), read_parquet(folder / "images.parquet", made_by)
