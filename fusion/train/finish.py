"""The end of a stage on its ranks: the trained weights, whole and merged, and the results beside them."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from fusion.files import write_json
from fusion.model.auto import FusionForConditionalGeneration, FusionProcessor
from fusion.model.checkpoints import save_checkpoint
from fusion.train.batches import RankBatches, unread_samples
from fusion.train.checkup import copied_weights, merged
from fusion.train.log import CURVE
from fusion.train.metrics import write_metrics
from fusion.train.recipe import NO_RESULT, Recipe
from fusion.train.result import facts_of, place_result
from fusion.train.resume import Beginning
from fusion.train.sources import SOURCE_CURVE, SourceLosses
from fusion.train.state import ResumableState


def finish(
    recipe: Recipe,
    engine: Any,
    processor: FusionProcessor,
    batches: RankBatches,
    state: ResumableState,
    beginning: Beginning,
) -> None:
    """Rank 0 writes the final checkpoint and the results aside, names them, and puts them in their place."""
    model = finished_model(recipe, engine.module)
    if model is not None:
        with state.finishing(facts_of(recipe)) as (checkpoint, results):
            save_checkpoint(model, processor, checkpoint)
            write_results(recipe, model, batches, state, beginning, results)
        place_result(recipe, state)
    dist.barrier()
    dist.destroy_process_group()


def finished_model(recipe: Recipe, module: torch.nn.Module) -> FusionForConditionalGeneration | None:
    """The trained model in rank 0's memory, adapters merged; None on other ranks. Called by all ranks.

    Under ZeRO-3 no device holds the whole of it: a stage that was planned to fit also comes to its end.
    """
    weights = copied_weights(module, recipe.settings.zero_stage == 3, always=False)
    if dist.get_rank():
        return None
    if recipe.settings.lora is not None:
        weights = merged(weights, recipe.settings.lora)
    assert isinstance(module, FusionForConditionalGeneration)
    module.config.fusion_stage = recipe.stage
    with torch.device("meta"):
        model = FusionForConditionalGeneration(module.config)
    model.load_state_dict(weights, assign=True)
    if module.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.generation_config = module.generation_config
    return model


def write_results(
    recipe: Recipe,
    model: FusionForConditionalGeneration,
    batches: RankBatches,
    state: ResumableState,
    beginning: Beginning,
    folder: Path,
) -> None:
    """Curves, metrics and summary of a stage."""
    shutil.copy(state.folder / CURVE, folder / CURVE)
    by_source = SourceLosses.load(state.folder)
    by_source.write_curve(folder / SOURCE_CURVE)
    write_metrics(folder, folder / CURVE, by_source)
    write_summary(recipe, model, batches, by_source, unread_samples(state.folder), beginning.layouts, folder)


def write_summary(
    recipe: Recipe,
    model: FusionForConditionalGeneration,
    batches: RankBatches,
    by_source: SourceLosses,
    unread: list[dict[str, Any]],
    layouts: list[dict[str, Any]],
    folder: Path,
) -> None:
    """summary.json in the folder of results: facts of the stage that are equal for equal runs.

    A stage that ran on other ranks for a part of its steps is another run: its layouts say so.
    """
    order = batches.order
    too_long = batches.manifest.origins(batches.too_long.tolist())
    last = _last_row(folder / CURVE)
    summary = {
        "variant": recipe.variant,
        "stage": recipe.stage,
        "dataset": recipe.dataset,
        "manifest_sha256": batches.manifest.sha256,
        "samples": len(batches.manifest),
        "samples_per_epoch": order.samples_per_epoch,
        "epochs": order.epochs,
        "steps": order.steps,
        "tokens_per_epoch": batches.tokens_per_epoch(recipe.model.num_latents),
        "left_out": {
            "too_long": [row["sample_id"] for row in too_long],
            "too_long_by_source": dict(sorted(Counter(row["source"] for row in too_long).items())),
            "unread": unread,
            "unread_by_source": dict(sorted(Counter(row["source"] for row in unread).items())),
        },
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "ranks": recipe.hardware.ranks,
        "settings": recipe.settings.model_dump(exclude=NO_RESULT),
        "cross_entropy": by_source.summary(),
        "final_loss": float(last["loss"]),
        "final_cross_entropy": float(last["cross_entropy"]),
    }
    if len(layouts) > 1:
        summary["layouts"] = layouts
    write_json(summary, folder / "summary.json")


def _last_row(curve: Path) -> dict[str, str]:
    names, *rows = curve.read_text(encoding="utf-8").splitlines()
    return dict(zip(names.split(","), rows[-1].split(","), strict=True))
