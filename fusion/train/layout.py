"""How a stage lies on its ranks: it decides how the sums are rounded, never which samples a step has.

So a state may continue in another layout than the one that it was written in.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fusion.train.errors import TrainingError
from fusion.train.recipe import Recipe


@dataclass(frozen=True)
class Layout:
    """The settings of a stage that its state does not depend on."""

    ranks: int
    zero_stage: int
    micro_batch: int
    threads_per_rank: int
    device: str
    offload_optimizer: bool
    compile: bool

    @classmethod
    def of(cls, recipe: Recipe) -> "Layout":
        """That of a recipe."""
        assert recipe.settings.zero_stage is not None  # filled in by Settings.stage
        return cls(zero_stage=recipe.settings.zero_stage, **recipe.hardware.model_dump())

    @classmethod
    def stored(cls, facts: Mapping[str, Any]) -> "Layout":
        """That which a checkpoint was written in."""
        return cls(**{name: facts[name] for name in cls.__dataclass_fields__})

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for `stored`."""
        return asdict(self)

    def needs_conversion(self, target: "Layout") -> bool:
        """Whether a state of this layout has to go through the universal checkpoint to continue in `target`.

        Without ZeRO every rank has the whole state, which any number of them can read.

        Raises:
            TrainingError: DeepSpeed has no way from one ZeRO stage to the other; says what to do.
        """
        if self.zero_stage == target.zero_stage and (self.ranks == target.ranks or self.zero_stage == 0):
            return False
        if _family(self.zero_stage) == _family(target.zero_stage) != "0":
            return True
        raise TrainingError(
            f"there is a state of ZeRO stage {self.zero_stage}, and DeepSpeed cannot convert it to stage "
            f"{target.zero_stage} (1 and 2 convert into each other, and any stage to another number of ranks): set "
            f"zero_stage back to {self.zero_stage}, or start the stage anew: `fusion scratch` shows its state, and "
            "`fusion scratch --clear NAME` removes it"
        )

    def differences(self, target: "Layout") -> list[str]:
        """What is told of a state of this layout that continues in `target`: the settings, before and after."""
        before, after = self.as_dict(), target.as_dict()
        return [f"{name} {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]


def _family(zero_stage: int) -> str:
    """Stages of one family share the form of their universal checkpoint."""
    return {0: "0", 1: "1 and 2", 2: "1 and 2", 3: "3"}[zero_stage]
