"""The micro-batches of one rank at one optimiser step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fusion.data.stream.loader import LoaderError, Manifest, ShardReader
from fusion.data.stream.order import TrainingOrder
from fusion.data.stream.packing import spread
from fusion.model.batch import EncodedSample, FusionBatch
from fusion.model.processing import FusionProcessor
from fusion.train.recipe import Recipe


@dataclass(frozen=True)
class StepBatches:
    """What one rank computes at one step; `samples` and `tokens` are those of all ranks together."""

    batches: list[FusionBatch | None]
    samples: int
    tokens: int


class RankBatches:
    """Reads and encodes the samples of one rank, step by step, from any step on."""

    def __init__(self, recipe: Recipe, processor: FusionProcessor, image_tokens: int, rank: int) -> None:
        self._recipe = recipe
        self._processor = processor
        self._image_tokens = image_tokens
        self._rank = rank
        self.manifest = Manifest(recipe.manifest, recipe.tokenizer)
        longest = self.manifest.lengths(image_tokens, max(recipe.model.query_len))
        self.too_long = np.flatnonzero((longest > recipe.settings.max_length) & (self.manifest.draws > 0))
        """Manifest rows left out because they do not fit into max_length with the largest number of latents."""
        draws = self.manifest.draws.copy()
        draws[self.too_long] = 0
        if not draws.any():
            raise LoaderError(
                f"{recipe.manifest}: no sample fits into max_length {recipe.settings.max_length} of {recipe.stage}"
            )
        self.order = TrainingOrder(
            self.manifest.sha256, recipe.seed, recipe.settings.epochs or 1, recipe.settings.global_batch, draws
        )
        self._reader = ShardReader(recipe.root)

    def __call__(self, first_step: int) -> Iterator[StepBatches]:
        """The batches of all steps from `first_step` on."""
        for step in range(first_step, self.order.steps):
            yield self._step(step)

    def _step(self, step: int) -> StepBatches:
        rows = self.order.step(step)
        lengths = self.manifest.lengths(self._image_tokens, self._recipe.num_latents(step))[rows]
        hardware = self._recipe.hardware
        mine = spread(lengths, self.manifest.has_image[rows], hardware.ranks, hardware.micro_batch)[self._rank]
        batches: list[FusionBatch | None] = []
        for positions in mine:
            samples = [self._encode(int(rows[position])) for position in positions]
            batches.append(self._processor.collate(samples) if samples else None)
        return StepBatches(batches, len(rows), int(lengths.sum()))

    def _encode(self, row: int) -> EncodedSample:
        record = self._reader.read(self.manifest.row(row))
        return self._processor.encode(record.conversations, record.image, max_length=self._recipe.settings.max_length)
