"""Processes that work on the parts of a data set: results come in order, a bounded number of parts is in flight."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from types import TracebackType
from typing import Any, Literal, Protocol, TypeVar

from fusion.data.errors import DataError
from fusion.data.store.cluster import Cluster

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
WORTH_PROCESSES = 60_000
"""Samples. Below, starting processes takes longer than the work."""
_ON_A_CLUSTER = 64
"""Parts that are handed to a running cluster at a time, at least."""
_EVERY = 10.0
"""Seconds between two lines about progress."""


class Workers:
    """Up to `count` processes, started when there is enough to do; a context manager."""

    def __init__(
        self,
        name: str,
        count: int,
        runner: Literal["processes", "dask", "ray"] = "processes",
        address: str | None = None,
    ) -> None:
        """`name`: of the data set, for messages; `runner` and `address`: see data.runner and data.scheduler."""
        self._name = name
        self._count = count
        self._runner = runner
        self._address = address
        self._pool: ProcessPoolExecutor | Cluster | None = None

    def map(self, told: str, job: Callable[..., T], tasks: Iterable[tuple[Any, ...]], sizes: list[int]) -> Iterator[T]:
        """`job(*task)` for every task, in order.

        Args:
            told: what is done, for the lines about progress.
            job: a function that a process can import.
            tasks: its arguments.
            sizes: samples of each task.

        Raises:
            DataError: a process died.
        """
        progress = _Progress(f"{self._name}: {told}", sum(sizes))
        alone = self._count == 1 and self._runner == "processes"
        if alone or (self._pool is None and sum(sizes) < WORTH_PROCESSES):
            for task, size in zip(tasks, sizes, strict=True):
                yield job(*task)
                progress.add(size)
            return
        waiting: deque[tuple[int, _Future[T]]] = deque()
        try:
            for task, size in zip(tasks, sizes, strict=True):
                waiting.append((size, self._processes().submit(job, *task)))
                if len(waiting) > self._ahead():
                    yield self._next(told, waiting, progress)
            while waiting:
                yield self._next(told, waiting, progress)
        finally:
            for _, future in waiting:
                if isinstance(future, Future):
                    future.cancel()

    def _next(self, told: str, waiting: deque[tuple[int, _Future[T]]], progress: _Progress) -> T:
        size, future = waiting.popleft()
        try:
            result = future.result()
        except BrokenProcessPool:
            raise DataError(
                f"{self._name}: {told}: a worker process died, most likely for want of memory: lower data.workers in "
                "params.yaml and run again"
            ) from None
        progress.add(size)
        return result

    def _ahead(self) -> int:
        # Nobody here knows how many processes a running cluster has.
        return 2 * self._count if self._address is None else max(2 * self._count, _ON_A_CLUSTER)

    def _processes(self) -> ProcessPoolExecutor | Cluster:
        if self._pool is None and self._runner != "processes":
            self._pool = Cluster(self._runner, self._address, self._count)
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self._count, mp_context=context, initializer=_start)
        return self._pool

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


class _Future(Protocol[T_co]):
    """What both the standard library's and Prefect's futures have."""

    def result(self) -> T_co: ...


class _Progress:
    """Lines on stderr now and then: how much is done, how fast, and the time left."""

    def __init__(self, told: str, total: int) -> None:
        self._told = told
        self._total = total
        self._done = 0
        self._start = self._last = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now - self._last < _EVERY:
            return
        self._last = now
        rate = self._done / (now - self._start)
        left = (self._total - self._done) / rate
        line = f"{self._told}: {self._done:,} of {self._total:,} samples, {rate:,.0f} a second, {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone, however that ended.

    A parent that is killed tells its workers nothing; they would wait for work for ever.
    """
    threading.Thread(target=_wait_for_parent, name="end-with-parent", daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _start() -> None:
    end_with_parent()
    # Each process works on one part; threads inside each would only be in each other's way.
    os.environ["POLARS_MAX_THREADS"] = "1"
