"""A curated data set as a `webdataset` pipeline, for training code other than this project's.

The shards hold every sample that could be read, those that curation rejected too: opened by their names alone they
would train on benchmark pictures and duplicates. docs/webdataset.md has examples.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import webdataset

from fusion.data.store.folders import read_parquet
from fusion.data.stream.errors import LoaderError
from fusion.data.stream.order import Rows


def open_webdataset(manifest: Path, root: Path = Path("."), **options: Any) -> webdataset.WebDataset:
    """The kept samples of a data set, each as often as the manifest's `draws` says, in the order of their shards.

    Args:
        manifest: `data/manifests/<dataset>/manifest.parquet`.
        root: the project's folder, in which the shards lie.
        options: of `webdataset.WebDataset`: `shardshuffle` (False here if left out), `nodesplitter`, `seed`.

    Returns:
        A pipeline of samples: `__key__`, `json` (bytes of the record: conversations and where they come from), and the
        picture's bytes under the extension of its format (jpg, png, webp, gif, bmp, tiff) where there is one.

    Raises:
        DataError: the manifest is missing or damaged.
        LoaderError: a shard is missing, or nothing was kept.
    """
    frame = read_parquet(manifest, "dvc repro", ["shard", "row", "draws"]).sort("shard", "row")
    kept: dict[str, tuple[Rows, Rows]] = {}
    for (shard,), rows in frame.group_by("shard", maintain_order=True):
        if not (root / str(shard)).is_file():
            raise LoaderError(f"shard {shard} is missing: restore it with `dvc checkout` or `dvc repro`")
        kept[str(root / str(shard))] = (rows["row"].to_numpy(), rows["draws"].to_numpy())
    if not kept:
        raise LoaderError(f"{manifest} keeps no sample: see the ledger beside it for the reasons")
    options.setdefault("shardshuffle", False)
    return webdataset.WebDataset(list(kept), **options).compose(_Kept(kept))


class _Kept:
    """The stage of the pipeline that lets the kept samples through; `kept`: shard -> (sorted rows, their draws)."""

    def __init__(self, kept: dict[str, tuple[Rows, Rows]]) -> None:
        self._kept = kept

    def __call__(self, samples: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for sample in samples:
            rows, draws = self._kept[sample["__url__"]]
            row = int(sample["__key__"])
            at = int(np.searchsorted(rows, row))
            if at < len(rows) and rows[at] == row:
                for _ in range(int(draws[at])):
                    yield dict(sample)
