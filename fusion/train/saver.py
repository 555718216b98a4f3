"""Writes resumable state while training goes on."""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch.distributed as dist

from fusion.train.errors import NoRoom
from fusion.train.log import TrainingLog
from fusion.train.room import is_full
from fusion.train.state import ResumableState


class StateSaver:
    """All ranks write their part; rank 0 hashes, flushes and names the checkpoint in the background.

    Until it has its name the checkpoint before counts, so nothing has to wait but the next one, and the end.
    """

    def __init__(
        self, engine: Any, state: ResumableState, log: TrainingLog | None, layouts: list[dict[str, Any]]
    ) -> None:
        self._engine, self._state, self._log, self._layouts = engine, state, log, layouts
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def save(self, step: int) -> None:
        """The state after `step` steps; called by all ranks.

        Raises:
            NoRoom: the disk is full. The checkpoints before are whole.
        """
        self._settle()
        partial = self._state.partial(step)
        try:
            self._engine.save_checkpoint(str(self._state.folder), tag=partial, save_latest=False)
            if self._log:
                self._log.save(self._state.folder / partial)
        except (OSError, RuntimeError) as error:
            self._explain(error)
            raise
        dist.barrier()
        if self._log:
            self._pending = self._worker.submit(self._name, step)

    def finish(self) -> None:
        """Waits until the last checkpoint has its name."""
        self._settle()
        self._worker.shutdown()
        if self._log:
            self._log.leave()
        dist.barrier()

    def _settle(self) -> None:
        if self._pending is not None:
            try:
                self._pending.result()
            except OSError as error:
                self._explain(error)
                raise
            self._pending = None

    def _explain(self, error: OSError | RuntimeError) -> None:
        """Raises `NoRoom` if that is what the error is about."""
        if is_full(self._state.folder, error):
            raise NoRoom(
                f"no space is left on the disk for a state in {self._state.folder}: make room, the same command "
                "continues from the last complete checkpoint"
            ) from error

    def _name(self, step: int) -> None:
        assert self._log is not None
        self._state.complete(step, {"step": step, "layouts": self._layouts})
        self._log.event("checkpoint", step=step)
