"""Output folders that appear whole or not at all, and files in them that are equal for equal content."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from fusion.data.errors import DataError, NoSpaceError

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def output_folder(target: Path) -> Iterator[Path]:
    """Gives the folder `.<name>.partial` beside `target` to write into and renames it to `target` at the end.

    An older `target` is replaced as a whole; a failure leaves it untouched and removes what was written.
    A full disk raises `NoSpaceError` with the folder's name.
    """
    with output_folders(target) as folders:
        yield folders[0]


@contextmanager
def output_folders(*targets: Path) -> Iterator[list[Path]]:
    """`output_folder` for several that belong together: none of them is renamed before all are written."""
    partials = [target.with_name(f".{target.name}.partial") for target in targets]
    try:
        with full_disk_named(*targets):
            for partial in partials:
                if partial.exists():
                    shutil.rmtree(partial)
                partial.mkdir(parents=True)
            yield partials
            for partial, target in zip(partials, targets, strict=True):
                if target.is_dir():
                    shutil.rmtree(target)
                partial.rename(target)
    except BaseException:
        for partial in partials:
            shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def full_disk_named(*folders: Path) -> Iterator[None]:
    """Turns "no space left" from any layer below into `NoSpaceError`, naming the one of `folders` with least room."""
    try:
        yield
    except NoSpaceError:
        raise
    except Exception as error:
        # Some writers (the parquet writer among them) wrap the operating system's error in one of their own.
        if getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC).lower() in str(error).lower():
            folder = min(folders, key=_room)
            raise NoSpaceError(f"no space left on the disk that holds {folder}: free some and run again") from error
        raise


def _room(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def write_parquet(frame: pl.DataFrame, path: Path) -> None:
    """Writes `frame` with the fixed settings of all tables here: the same rows give the same bytes."""
    frame.write_parquet(path, **_TABLE)


def write_parquet_parts(parts: Iterator[pl.DataFrame], schema: pl.Schema, path: Path) -> None:
    """Writes the rows of all `parts`, which have the columns of `schema`: the bytes that `write_parquet` would write.

    Memory holds a few parts at a time.
    """

    def rows(
        columns: list[str] | None, predicate: pl.Expr | None, count: int | None, batch: int | None
    ) -> Iterator[pl.DataFrame]:
        yield from parts

    register_io_source(rows, schema=schema).sink_parquet(path, maintain_order=True, **_TABLE)


_TABLE: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "statistics": True,
    "row_group_size": 100_000,
}


def read_json(path: Path, made_by: str) -> Any:
    """The JSON file at `path`; raises `DataError` naming the command `made_by` that writes it when it is not there."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run `{made_by}` first") from None
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON ({error}): run `{made_by}` again") from error


def read_parquet(path: Path, made_by: str, columns: list[str] | None = None) -> pl.DataFrame:
    """The table at `path`, all of it or `columns`.

    Raises:
        DataError: it is missing or damaged; the message names the command `made_by` that writes it.
    """
    with readable(path, made_by):
        return pl.read_parquet(path, columns=columns)


def parquet_file(path: Path, made_by: str) -> pq.ParquetFile:
    """The table at `path` opened to be read in batches; errors as of `read_parquet`."""
    with readable(path, made_by):
        return pq.ParquetFile(path)


@contextmanager
def readable(path: Path, made_by: str) -> Iterator[None]:
    """Turns what goes wrong in reading the table at `path` into the error that `read_parquet` raises."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run `{made_by}` first") from None
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, pa.ArrowException) as error:
        raise DataError(f"{path} cannot be read ({str(error)[:300]}): run `{made_by}` again") from error
