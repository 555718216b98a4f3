"""Packs on their way from a plan to a batch: read, decoded and encoded, in this process or in worker processes.

A batch of a worker crosses in shared memory, and is copied to page-locked memory where an accelerator waits for it.
Packs come in the order of their plans, whatever worker is first; each worker holds a few at most.
"""

import multiprocessing
import os
import re
import select
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import forkserver
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from fusion.data.stream.errors import LoaderError, UnreadableSample
from fusion.data.stream.loader import Remote, ShardReader
from fusion.data.stream.manifest import Place
from fusion.model.batch import EncodedSample, FusionBatch
from fusion.model.images import NUM_VIEWS
from fusion.model.processing import FusionProcessor
from fusion.model.template import SampleError
from fusion.train.recipe import Recipe

_MOST_WORKERS = 4
"""Of those that are started unasked: each takes the memory of its imports."""
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
"""Of an object in memory, as decoders tell it: another one in every run."""


@dataclass(frozen=True)
class Plan:
    """One pack of a step: `indices` are manifest rows, `places` where they lie."""

    step: int
    indices: list[int]
    places: list[Place]


@dataclass(frozen=True)
class Unread:
    """A sample that could not be read: its manifest row, its shard, and why."""

    index: int
    place: Place
    reason: str
    evidence: str


@dataclass(frozen=True)
class Pack:
    """A plan's batch (None without samples), what could not be read of it, or a fault that ends the run."""

    step: int
    batch: FusionBatch | None
    indices: list[int]
    """Manifest rows of the batch's samples."""
    unread: list[Unread]
    fault: LoaderError | None = None

    def pin_memory(self, *args: Any) -> "Pack":
        """The batch in page-locked memory."""
        return self if self.batch is None else replace(self, batch=self.batch.pin_memory())


class PackReader(Dataset[Pack]):
    """Makes a pack of a plan."""

    def __init__(self, recipe: Recipe, processor: FusionProcessor) -> None:
        self._processor = processor
        self._max_length = recipe.settings.max_length
        loading = recipe.loading
        self._remote = Remote(loading.shards, recipe.root / loading.cache, round(loading.cache_gb * 2**30))
        self._root = recipe.root
        self._reader: ShardReader | None = None

    def __getitem__(self, plan: Plan) -> Pack:
        try:
            return self._read(plan)
        except LoaderError as fault:
            # A worker's exception would arrive as the text of its traceback.
            return Pack(plan.step, None, [], [], fault)

    def _read(self, plan: Plan) -> Pack:
        if self._reader is None:
            self._reader = ShardReader(self._root, self._remote)
        samples: list[EncodedSample] = []
        indices: list[int] = []
        unread: list[Unread] = []
        # Room for as many pictures as there may be; what is not filled takes no memory.
        size = self._processor.image_size
        rooms, pictures = np.empty((len(plan.indices), NUM_VIEWS, 3, size, size), dtype=np.uint8), 0
        for index, place in zip(plan.indices, plan.places, strict=True):
            try:
                record = self._reader.read(place)
                encoded = self._processor.encode(
                    record.conversations, record.image, max_length=self._max_length, room=rooms[pictures]
                )
                pictures += encoded.pixels is not None
                samples.append(encoded)
                indices.append(index)
            except UnreadableSample as error:
                unread.append(Unread(index, place, error.reason, error.evidence))
            except SampleError as error:
                unread.append(Unread(index, place, error.reason, _ADDRESS.sub("", error.message)))
        return Pack(plan.step, self._processor.collate(samples) if samples else None, indices, unread)


def start_workers_early(recipe: Recipe) -> None:
    """Lets the process that workers are forked from import what they need while this one is busy with other things."""
    if number_of_workers(recipe):
        _fork_server()
        forkserver.ensure_running()


def _fork_server() -> Any:
    # It has no threads whose locks a fork could inherit, and imports this module once for all workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def read_packs(recipe: Recipe, processor: FusionProcessor, plans: Iterable[Plan]) -> Iterator[Pack]:
    """The packs of `plans`, in their order, by `data.loading.workers` processes."""
    workers = number_of_workers(recipe)
    options: dict[str, Any] = {}
    if workers:
        options = {
            "multiprocessing_context": _fork_server(),
            "prefetch_factor": recipe.loading.ahead,
            "worker_init_fn": partial(_end_with, os.getpid()),
        }
    loader = DataLoader(
        PackReader(recipe, processor),
        batch_size=None,
        sampler=plans,
        num_workers=workers,
        collate_fn=_as_it_is,
        pin_memory=recipe.hardware.device == "cuda",
        **options,
    )
    yield from loader


def _end_with(rank: int, worker: int) -> None:
    """Ends this worker when its rank is gone (Linux).

    The process that it was forked from does not tell: that one stays as long as it has workers.
    """
    if not hasattr(os, "pidfd_open"):
        return
    descriptor = os.pidfd_open(rank)

    def end() -> None:
        select.select([descriptor], [], [])
        os._exit(1)

    threading.Thread(target=end, daemon=True, name="rank").start()


def _as_it_is(pack: Any) -> Any:
    return pack


def number_of_workers(recipe: Recipe) -> int:
    """As set; else the cores that are left to this rank, up to a few: none on a machine whose ranks take all."""
    if recipe.loading.workers is not None:
        return recipe.loading.workers
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", recipe.hardware.ranks))
    own = len(os.sched_getaffinity(0)) // ranks
    busy = recipe.hardware.threads_per_rank if recipe.hardware.device == "cpu" else 1
    least = 0 if recipe.hardware.device == "cpu" else 1
    return max(least, min(_MOST_WORKERS, own - busy))
