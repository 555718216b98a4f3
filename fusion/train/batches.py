"""The micro-batches of one rank at one optimiser step."""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import numpy.typing as npt

from fusion.data.stream.errors import LoaderError
from fusion.data.stream.manifest import Manifest, has_picture, lengths
from fusion.data.stream.order import Rows, TrainingOrder
from fusion.data.stream.packing import spread
from fusion.model.batch import FusionBatch
from fusion.model.processing import FusionProcessor
from fusion.model.template import Message
from fusion.train.reading import Pack, Plan, Unread, read_packs, start_workers_early
from fusion.train.recipe import Recipe


@dataclass(frozen=True)
class StepBatches:
    """What one rank computes at one step; `samples` and `tokens` are those planned for all ranks together."""

    batches: list[FusionBatch | None]
    samples: int
    tokens: int
    rows: list[list[int]]
    """Manifest rows of the samples of each batch; `Manifest.origins` tells where they come from."""
    idle: FusionBatch
    """What is computed, with weight 0, in place of a batch that is None: all ranks have to call the same modules."""
    sources: list[npt.NDArray[np.int64]]
    """Numbers of their sources; see `Manifest.sources`."""


class _Planned(NamedTuple):
    """Packs of this rank at a step; samples and tokens of all ranks."""

    packs: int
    samples: int
    tokens: int


def planned_order(recipe: Recipe, image_tokens: int) -> tuple[Manifest, TrainingOrder, Rows]:
    """The manifest of a stage, the order of its samples, and the rows that are left out.

    Left out is what does not fit into max_length with the largest number of latents.

    Raises:
        LoaderError: no sample fits.
    """
    manifest = Manifest(recipe.manifest, recipe.tokenizer, recipe.root / "scratch" / "tables")
    most, limit = max(recipe.model.query_len), recipe.settings.max_length
    largest = max(int(rows["draws"].max()) for rows in manifest.pieces())
    draws = np.empty(len(manifest), dtype=np.min_scalar_type(largest))
    too_long, first = [], 0
    for rows in manifest.pieces():
        left_out = (lengths(rows, image_tokens, most) > limit) & (rows["draws"] > 0)
        draws[first : first + len(rows)] = np.where(left_out, 0, rows["draws"])
        too_long.append(np.flatnonzero(left_out) + first)
        first += len(rows)
    if not draws.any():
        raise LoaderError(f"{recipe.manifest}: no sample fits into max_length {limit} of {recipe.stage}")
    settings = recipe.settings
    order = TrainingOrder(manifest.sha256, recipe.seed, settings.epochs or 1, settings.global_batch, draws)
    return manifest, order, np.concatenate(too_long)


class RankBatches:
    """Reads and encodes the samples of one rank, step by step, from any step on."""

    def __init__(self, recipe: Recipe, processor: FusionProcessor, image_tokens: int, rank: int) -> None:
        self._recipe = recipe
        self._processor = processor
        self._image_tokens = image_tokens
        self._rank = rank
        start_workers_early(recipe)
        self.manifest, self.order, self.too_long = planned_order(recipe, image_tokens)

    def tokens_per_epoch(self, num_latents: int) -> int:
        """Tokens of all draws of an epoch."""
        total, first = 0, 0
        for rows in self.manifest.pieces():
            draws = self.order.draws[first : first + len(rows)].astype(np.int64)
            total += int((lengths(rows, self._image_tokens, num_latents) * draws).sum())
            first += len(rows)
        return total

    def __call__(self, first_step: int, notes: Path) -> Iterator[StepBatches]:
        """The batches of all steps from `first_step` on.

        What cannot be read stops the run, or is noted down in the folder `notes` (see `unread_samples`), as
        `training.on_bad_sample` says. It is never replaced by another sample.

        Raises:
            LoaderError: naming the sample and where it comes from, or a shard that is missing.
        """
        notes.mkdir(parents=True, exist_ok=True)
        planned: deque[_Planned] = deque()
        nothing: list[Message] = [{"from": "human", "value": "-"}, {"from": "gpt", "value": "-"}]
        idle = self._processor.collate([self._processor.encode(nothing, None)])
        packs = read_packs(self._recipe, self._processor, self._plans(first_step, planned))
        with _continued(notes / f"unread-{self._rank}.jsonl") as file:
            for _ in range(first_step, self.order.steps):
                batches: list[FusionBatch | None] = []
                rows, sources = [], []
                while not batches or len(batches) < planned[0].packs:
                    pack = next(packs)
                    for line in self._unread(pack):
                        file.write(line)
                    batches.append(pack.batch)
                    rows.append(pack.indices)
                    sources.append(self.manifest.source_numbers(pack.indices))
                file.flush()
                facts = planned.popleft()
                yield StepBatches(batches, facts.samples, facts.tokens, rows, idle, sources)

    def _plans(self, first_step: int, planned: deque[_Planned]) -> Iterator[Plan]:
        """This rank's packs of all steps, and at the end of `planned` the facts of each step that was begun."""
        hardware = self._recipe.hardware
        for step in range(first_step, self.order.steps):
            indices = self.order.step(step)
            rows = self.manifest.rows(indices)
            tokens = lengths(rows, self._image_tokens, self._recipe.num_latents(step))
            mine = spread(tokens, has_picture(rows), hardware.ranks, hardware.micro_batch)[self._rank]
            planned.append(_Planned(len(mine), len(indices), int(tokens.sum())))
            for positions in mine:
                yield Plan(step, indices[positions].tolist(), self.manifest.places(rows[positions]))

    def origins(self, step: int) -> list[dict[str, Any]]:
        """Where the samples of a step, of all ranks, come from; see `Manifest.origins`."""
        return self.manifest.origins(self.order.step(step).tolist())

    def _unread(self, pack: Pack) -> Iterator[str]:
        """A line for each sample of a pack that could not be read."""
        if pack.fault is not None:
            raise pack.fault
        for unread in pack.unread:
            origin = self.manifest.origins([unread.index])[0]
            if self._recipe.settings.on_bad_sample != "count":
                raise LoaderError(_told(origin, unread))
            found = {"step": pack.step, **origin, "shard": unread.place.shard}
            yield json.dumps(found | {"reason": unread.reason, "evidence": unread.evidence}, sort_keys=True) + "\n"


def _told(origin: dict[str, Any], unread: Unread) -> str:
    return (
        f"{origin['sample_id']} (row {origin['row']} of {origin['file']}) cannot be read: {unread.reason}: "
        f"{unread.evidence}. Mend or remove it, after which the stage begins anew with the other data; or set "
        "training.on_bad_sample to count, with which it continues from its last complete checkpoint"
    )


def _continued(path: Path) -> TextIO:
    """The file, opened behind its last whole line: a rank that is killed may leave half a line."""
    if path.is_file():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return path.open("a", encoding="utf-8")


def unread_samples(notes: Path) -> list[dict[str, Any]]:
    """What all ranks noted down, by step; a step that was done again after a resume counts once."""
    found = {}
    for path in notes.glob("unread-*.jsonl"):
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            found[row["step"], row["sample_id"]] = row
    return [found[key] for key in sorted(found)]
