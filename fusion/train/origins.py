"""Which samples an optimiser step of a stage has, and where they come from: nothing is trained or loaded for it."""

from transformers import AutoConfig

from fusion.model.configuration import FusionConfig
from fusion.train.batches import planned_order
from fusion.train.errors import TrainingError
from fusion.train.recipe import Recipe


def tell_step(recipe: Recipe, step: int) -> str:
    """A line a sample of the 1-based `step`: sample_id, source file and row, and the sha256 of its record.

    Raises:
        TrainingError: there is no such step, or no parent checkpoint.
    """
    if not (recipe.parent / "config.json").is_file():
        raise TrainingError(f"{recipe.parent} is not there: run `dvc repro` for the stage before {recipe.stage} first")
    config = AutoConfig.from_pretrained(recipe.parent)
    assert isinstance(config, FusionConfig)
    manifest, order, _ = planned_order(recipe, config.num_patches)
    if step > order.steps:
        raise TrainingError(f"{recipe.stage} of {recipe.variant} has {order.steps} steps: there is no step {step}")
    rows = manifest.origins(order.step(step - 1).tolist())
    lines = [f"step {step} of {order.steps}, epoch {order.epoch_of(step - 1)}: {len(rows)} samples"]
    lines += [f"{row['sample_id']}  {row['file']} row {row['row']}  sha256 {row['sha256']}" for row in rows]
    return "\n".join(lines)
