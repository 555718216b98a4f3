"""Rows through worker processes in order, a bounded number of them in flight."""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from fusion.data.errors import DataError
from fusion.data.ingest.record import Reject
from fusion.data.sharding.prepare import Prepared, Preparer, RawRow, Task
from fusion.data.store.workers import end_with_parent

_CHUNK = 128
_CHUNK_BYTES = 32 << 20
"""Pictures that one piece of work hands back; what is left of it is asked for again. Bounds the memory in flight."""
_WORTH_PROCESSES = 3000
"""Samples. Below, starting processes takes longer than the work."""

Result = Prepared | tuple[int, Reject]
_preparer: Preparer | DataError | None = None


def prepare_all(task: Task, rows: Iterator[RawRow], count: int, workers: int) -> Iterator[Result]:
    """Every row of `rows` (`count` of them) prepared, in order, by up to `workers` processes.

    Raises:
        DataError: a worker died (out of memory, or a fault in a decoder); the message names the rows it had.
    """
    if workers == 1 or count < _WORTH_PROCESSES:
        preparer = Preparer(task)
        for row in rows:
            yield preparer.prepare(*row)
        return
    # A fork server has no threads whose locks a fork could inherit, and imports this module once for all workers.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(task,)) as pool:
        waiting: deque[tuple[list[RawRow], Future[list[Result]]]] = deque()
        for chunk in iter(lambda: list(islice(rows, _CHUNK)), []):
            waiting.append((chunk, pool.submit(_work, chunk)))
            if len(waiting) > 4 * workers:
                yield from _results(task, pool, *waiting.popleft())
        while waiting:
            yield from _results(task, pool, *waiting.popleft())


def _results(
    task: Task, pool: ProcessPoolExecutor, chunk: list[RawRow], future: "Future[list[Result]]"
) -> Iterator[Result]:
    try:
        while chunk:
            found = future.result()
            yield from found
            if chunk := chunk[len(found) :]:
                future = pool.submit(_work, chunk)
    except BrokenProcessPool:
        raise DataError(
            f"a worker process died on rows {chunk[0][0]} to {chunk[-1][0]} of {task.dataset}/{task.source}, "
            "or just after: "
            "out of memory, or a picture that crashes its decoder; lower data.workers or data.max_image_pixels, "
            "or remove the picture"
        ) from None


def _start(task: Task) -> None:
    global _preparer
    end_with_parent()
    try:
        _preparer = Preparer(task)
    except DataError as error:
        # Raised from here it would look like a worker that died; the first piece of work says what it is.
        _preparer = error


def _work(chunk: list[RawRow]) -> list[Result]:
    if isinstance(_preparer, DataError):
        raise _preparer
    if _preparer is None:
        raise RuntimeError("the worker was not started")
    done: list[Result] = []
    size = 0
    for row in chunk:
        result = _preparer.prepare(*row)
        done.append(result)
        size += len(result.picture or b"") if isinstance(result, Prepared) else 0
        if size >= _CHUNK_BYTES:
            break
    return done
