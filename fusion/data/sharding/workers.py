"""Rows through worker processes in order, a bounded number of them in flight."""

import multiprocessing
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait
from threading import Thread

from fusion.data.errors import DataError
from fusion.data.ingest.record import Reject
from fusion.data.sharding.prepare import Prepared, Preparer, RawRow, Task

_CHUNK = 128
_WORTH_PROCESSES = 3000
"""Samples. Below, starting processes takes longer than the work."""

Result = Prepared | tuple[int, Reject]
_preparer: Preparer | DataError | None = None


def prepare_all(task: Task, rows: Iterator[RawRow], count: int, workers: int) -> Iterator[Result]:
    """Every row of `rows` (`count` of them) prepared, in order, by up to `workers` processes.

    Raises:
        DataError: a worker died (out of memory, or a fault in a decoder); the message names the rows it had.
    """
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])
    if workers == 1 or count < _WORTH_PROCESSES:
        preparer = Preparer(task)
        for chunk in chunks:
            yield from preparer.prepare(chunk)
        return
    # A fork server has no threads whose locks a fork could inherit, and imports this module once for all workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(task,)) as pool:
        waiting: deque[tuple[list[RawRow], Future[list[Result]]]] = deque()
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_work, chunk)))
            if len(waiting) > 4 * workers:
                yield from _result(task, *waiting.popleft())
        while waiting:
            yield from _result(task, *waiting.popleft())


def _result(task: Task, chunk: list[RawRow], future: "Future[list[Result]]") -> list[Result]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise DataError(
            f"a worker process died on rows {chunk[0][0]} to {chunk[-1][0]} of {task.dataset}/{task.source}, "
            "or just after: "
            "out of memory, or a picture that crashes its decoder; lower data.workers or data.max_image_pixels, "
            "or remove the picture"
        ) from None


def _start(task: Task) -> None:
    global _preparer
    # A worker whose first process was killed would wait for its next piece of work for ever.
    Thread(target=_end_with_parent, daemon=True).start()
    try:
        _preparer = Preparer(task)
    except DataError as error:
        # Raised from here it would look like a worker that died; the first piece of work says what it is.
        _preparer = error


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


def _work(chunk: list[RawRow]) -> list[Result]:
    if isinstance(_preparer, DataError):
        raise _preparer
    if _preparer is None:
        raise RuntimeError("the worker was not started")
    return _preparer.prepare(chunk)
