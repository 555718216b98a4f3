"""One rank of a training stage, from its parent checkpoint to its own."""

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from fusion.data.store.folders import output_folder
from fusion.files import write_json
from fusion.model.checkpoints import load_checkpoint, save_checkpoint
from fusion.quiet import quiet_libraries
from fusion.settings import load_settings
from fusion.train.batches import RankBatches, unread_samples
from fusion.train.engine import make_engine, set_learning_rates
from fusion.train.log import TrainingLog
from fusion.train.processes import join_group
from fusion.train.recipe import Recipe, make_recipe
from fusion.train.state import ResumableState
from fusion.train.step import train_step


def main(variant: str, stage: str) -> None:
    """Trains to the end of the stage and leaves the checkpoint and its results in place."""
    quiet_libraries()
    recipe = make_recipe(load_settings(), variant, stage)  # type: ignore[arg-type]
    torch.set_num_threads(recipe.hardware.threads_per_rank)
    torch.use_deterministic_algorithms(recipe.hardware.device == "cpu")
    join_group(recipe.hardware.device)
    torch.manual_seed(recipe.seed)
    model, processor = load_checkpoint(recipe.parent)
    engine = make_engine(recipe, model)
    batches = RankBatches(recipe, processor, model.config.num_patches, dist.get_rank())
    run(recipe, engine, batches)
    finish(recipe, engine, processor, batches)


def run(recipe: Recipe, engine: Any, batches: RankBatches) -> None:
    """All optimiser steps from the newest complete checkpoint on."""
    state = ResumableState(recipe)
    first = state.newest() or 0
    if first:
        engine.load_checkpoint(str(state.folder), tag=state.tag(first))
    steps = batches.order.steps
    log = None
    if dist.get_rank() == 0:
        log = TrainingLog(recipe.log, state.folder / "loss.csv", f"{recipe.variant} {recipe.stage}", steps, first)
        log.event("start", recipe=recipe.as_dict(), steps=steps, first_step=first, ranks=dist.get_world_size())
    for step, batch in enumerate(batches(first, state.folder), start=first):
        rates = set_learning_rates(engine, recipe, step, steps)
        losses = train_step(engine, batch, recipe.num_latents(step))
        done = step + 1
        if log:
            log.step(
                {"step": done, "epoch": batches.order.epoch_of(step), **losses, **rates}, batch.samples, batch.tokens
            )
        if recipe.settings.save_every_steps and done % recipe.settings.save_every_steps == 0 and done < steps:
            save_state(engine, state, log, done)
    if log:
        log.save_curve()
        log.event("end")
        log.close()


def save_state(engine: Any, state: ResumableState, log: TrainingLog | None, step: int) -> None:
    """Writes resumable state on all ranks, then names it complete."""
    engine.save_checkpoint(str(state.folder), tag=state.tag(step), save_latest=False)
    dist.barrier()
    if log:
        log.save_curve()
        state.mark_complete(step, {"step": step, "ranks": dist.get_world_size()})
        log.event("checkpoint", step=step)
    dist.barrier()


def finish(recipe: Recipe, engine: Any, processor: Any, batches: RankBatches) -> None:
    """Rank 0 writes the final checkpoint aside, names it, and removes the resumable state."""
    parameters = list(engine.module.parameters())
    gathered = deepspeed.zero.GatheredParameters(parameters, enabled=recipe.settings.zero_stage == 3)
    with gathered:
        if dist.get_rank() == 0:
            with output_folder(recipe.output) as folder:
                save_checkpoint(engine.module, processor, folder)
    if dist.get_rank() == 0:
        state = ResumableState(recipe)
        recipe.results.mkdir(parents=True, exist_ok=True)
        # DVC empties outputs before a stage runs again; so the curve grows beside the resumable state.
        shutil.copy(state.folder / "loss.csv", recipe.results / "loss.csv")
        write_summary(recipe, engine, batches, unread_samples(state.folder))
        state.delete()
    dist.barrier()
    dist.destroy_process_group()


def write_summary(recipe: Recipe, engine: Any, batches: RankBatches, unread: list[dict[str, Any]]) -> None:
    """results/<variant>/<stage>/summary.json: facts of the stage that are equal for equal runs."""
    order = batches.order
    too_long = batches.manifest.origins(batches.too_long.tolist())
    last = _last_row(recipe.results / "loss.csv")
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
        "parameters": sum(parameter.numel() for parameter in engine.module.parameters()),
        "ranks": recipe.hardware.ranks,
        "settings": recipe.settings.model_dump(),
        "final_loss": float(last["loss"]),
        "final_cross_entropy": float(last["cross_entropy"]),
    }
    write_json(summary, recipe.results / "summary.json")


def _last_row(curve: Path) -> dict[str, str]:
    names, *rows = curve.read_text(encoding="utf-8").splitlines()
    return dict(zip(names.split(","), rows[-1].split(","), strict=True))
