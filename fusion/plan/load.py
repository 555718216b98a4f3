"""How much work a micro-batch is: the numbers that FLOPs and memory are linear in.

Samples may be counted in fractions: an average sample of a data set is a sum of kinds of samples, each with its share.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch

from fusion.model.configuration import FusionConfig

if TYPE_CHECKING:
    from fusion.model.batch import FusionBatch


@dataclass(frozen=True)
class Sample:
    """One sample.

    Attributes:
        text: its tokens that are no markers.
        instruct: tokens of the tower's instruction; they count only beside a picture.
        turns: its questions.
        supervised: tokens that the loss is made of.
        picture: whether it has one.
        count: how many of its kind there are.
    """

    text: float
    instruct: float
    turns: float
    supervised: float
    picture: bool = True
    count: float = 1.0

    def length(self, num_patches: int, num_latents: float) -> float:
        """Positions in the decoder."""
        return self.text + self.picture * num_patches + self.turns * num_latents


@dataclass(frozen=True)
class Load:
    """Sums over the samples of a micro-batch; V patches a tile, q latents a question, T_r instruction tokens of a row.

    Attributes:
        samples, pictures: how many.
        blank: rows of the blank picture, 1 or 0: samples without a picture share one.
        instruct: sum of T_r; instruct_squares: of T_r squared.
        positions: of the decoder; pairs: of a query and a key that it sees.
        parts: samples packed in one row.
        supervised: tokens of the loss.
        questions: in all; places: questions of a picture that has most, times pictures (attention pads up to it).
        q: latents a question.
    """

    samples: float
    pictures: float
    blank: float
    text: float
    instruct: float
    instruct_squares: float
    positions: float
    pairs: float
    supervised: float
    questions: float
    places: float
    q: float

    @classmethod
    def of(
        cls, samples: Iterable[Sample], config: FusionConfig, num_latents: float, blank: float | None = None
    ) -> Load:
        """The load of these samples with q latents a question; `blank` None = 1 as soon as one has no picture."""
        samples = list(samples)
        shown = [sample for sample in samples if sample.picture]
        lengths = [(sample.length(config.num_patches, num_latents), sample.count) for sample in samples]
        questions = sum(sample.turns * sample.count for sample in samples)
        places = questions
        if blank is None:
            blank = float(len(shown) < len(samples))
            alone = sum(sample.turns * sample.count for sample in samples if not sample.picture)
            most = max([sample.turns for sample in shown] + [alone])
            places = most * (sum(sample.count for sample in shown) + blank)
        return cls(
            samples=sum(sample.count for sample in samples),
            pictures=sum(sample.count for sample in shown),
            blank=blank,
            text=sum(sample.text * sample.count for sample in samples),
            instruct=sum(sample.instruct * sample.count for sample in shown),
            instruct_squares=sum(sample.instruct**2 * sample.count for sample in shown),
            positions=sum(length * count for length, count in lengths),
            pairs=sum(length * (length + 1) / 2 * count for length, count in lengths),
            supervised=sum(sample.supervised * sample.count for sample in samples),
            questions=questions,
            places=max(questions, places),
            q=num_latents,
        )

    @classmethod
    def of_batch(cls, batch: FusionBatch, config: FusionConfig, num_latents: float) -> Load:
        """The load of a batch, from the counts that its tensors on the host have."""
        host, supervised = batch.host, batch.supervised.tolist()
        inside = torch.arange(host["input_ids"].shape[1]) < host["lengths"].unsqueeze(1)
        text = ((host["input_ids"] >= 0) & inside).sum(1).tolist()
        instruct = (host["instruct_ids"] != 0).sum(1).tolist()
        turns = (host["question_ends"] >= 0).sum(1).tolist()
        shown = (host["image_index"] >= 0).tolist()
        samples = [
            Sample(text[row], instruct[row] if shown[row] else 0, turns[row], supervised[row], shown[row])
            for row in range(batch.size)
        ]
        return cls.of(samples, config, num_latents)

    def times(self, factor: float) -> Load:
        """So many of these micro-batches together."""
        return Load(
            **{field.name: getattr(self, field.name) * (1.0 if field.name == "q" else factor) for field in fields(self)}
        )
