"""Which parameters a stage trains: whole parts of the model, and adapters in place of some of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fusion.settings import StageSettings

_PARTS: dict[str, str | tuple[str, ...]] = {
    "vision": "model.vision_tower.",
    "projectors": ("model.mm_projector.", "model.aux_projector."),
    "interaction": "model.vision_sampler_layers.",
}


def part_of(name: str) -> str:
    """The trained part that a parameter belongs to: vision, projectors, interaction, or language for all others."""
    return next((part for part, prefixes in _PARTS.items() if name.startswith(prefixes)), "language")


@dataclass(frozen=True)
class Elements:
    """Parameters of a stage's model while it is trained, and those of them that are trained."""

    all: int
    trained: int
    adapters: int = 0
    """Those that are merged into the others at the end."""

    @property
    def finished(self) -> int:
        """Parameters of the finished checkpoint."""
        return self.all - self.adapters

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]], settings: StageSettings) -> Elements:
        """Counted from the names and shapes of the parent's tensors.

        Raises:
            ValueError: there is no layer that `lora.targets` names.
        """
        adapters, adapted = 0, frozenset[str]()
        if settings.lora is not None:
            from fusion.model.adapters import adapter_elements

            adapters, adapted = adapter_elements(shapes, settings.lora), frozenset(settings.lora.targets)
        whole = set(settings.trained_parts or ()) - adapted
        counts = {name: math.prod(shape) for name, shape in shapes.items()}
        trained = sum(count for name, count in counts.items() if part_of(name) in whole)
        return cls(sum(counts.values()) + adapters, trained + adapters, adapters)
