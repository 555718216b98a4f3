"""One rank of a training stage, from its parent checkpoint to its own."""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist

from fusion.data.store.folders import output_folder
from fusion.files import write_json
from fusion.model.adapters import merge_adapters
from fusion.model.checkpoints import load_checkpoint, save_checkpoint
from fusion.quiet import quiet_libraries
from fusion.settings import load_settings
from fusion.train.batches import RankBatches, unread_samples
from fusion.train.checkup import Checkups
from fusion.train.engine import make_engine, set_learning_rates
from fusion.train.errors import Preempted
from fusion.train.guards import LossWatch, stop
from fusion.train.launch import tensor_shapes
from fusion.train.log import CURVE, TrainingLog
from fusion.train.metrics import write_metrics
from fusion.train.parts import Elements
from fusion.train.processes import join_group, let_wait, on_any_rank
from fusion.train.recipe import Recipe, make_recipe
from fusion.train.resume import Beginning, find_beginning, load_state
from fusion.train.room import check_disk, explained
from fusion.train.saver import StateSaver
from fusion.train.sources import SOURCE_CURVE, SourceLosses
from fusion.train.state import ResumableState
from fusion.train.step import train_step
from fusion.train.watch import StopRequest, Watch


def main(variant: str, stage: str) -> None:
    """Trains to the end of the stage and leaves the checkpoint and its results in place.

    Raises one of `fusion.train.errors` where the stage ends before its time.
    """
    quiet_libraries()
    stopping = StopRequest()
    recipe = make_recipe(load_settings(), variant, stage)  # type: ignore[arg-type]
    watch = Watch(int(os.environ["RANK"]), recipe.guards.stall_minutes)
    torch.set_num_threads(recipe.hardware.threads_per_rank)
    torch.use_deterministic_algorithms(recipe.hardware.device == "cpu")
    try:
        join_group(recipe.hardware.device, recipe.guards.stall_minutes)
        state = ResumableState(recipe)
        beginning = find_beginning(recipe, state, watch)
        watch.now("loading the model")
        torch.manual_seed(recipe.seed)
        model, processor = load_checkpoint(recipe.parent)
        engine = make_engine(recipe, model, beginning.universal)
        let_wait(recipe.guards.stall_minutes)
        batches = RankBatches(recipe, processor, model.config.num_patches, dist.get_rank())
        watch.now("loading the state to continue from")
        load_state(engine, state, beginning)
        run(recipe, engine, batches, watch, stopping, state, beginning)
        watch.now("writing the final checkpoint, or waiting for rank 0 to do so")
        finish(recipe, engine, processor, batches, state, beginning)
    except Exception as error:
        known = explained(recipe, error)
        if known is None:
            raise
        raise known from error
    finally:
        watch.close()


def run(
    recipe: Recipe,
    engine: Any,
    batches: RankBatches,
    watch: Watch,
    stopping: StopRequest,
    state: ResumableState,
    beginning: Beginning,
) -> None:
    """All optimiser steps that are left."""
    first, steps, sources = beginning.steps, batches.order.steps, batches.manifest.number_of_sources
    trained_parts = list(recipe.settings.trained_parts or [])
    log = None
    if dist.get_rank() == 0:
        check_disk(recipe, Elements.of(tensor_shapes(recipe.parent), recipe.settings), state.folder)
        checkpoint = state.folder / state.tag(first) if first else None
        log = TrainingLog(recipe, batches.manifest.sources(), steps, first, checkpoint)
    saver = StateSaver(engine, state, log, beginning.layouts)
    checkups = Checkups(recipe, engine, log)
    losses_seen = LossWatch(recipe.guards.max_loss_ratio)
    following = batches(first, state.folder)
    for step in range(first, steps):
        done = step + 1
        watch.now(f"reading the samples of step {done}")
        batch = next(following)
        watch.now(f"computing step {done}, or waiting for other ranks in it")
        rates = set_learning_rates(engine, recipe, step, steps)
        torch.manual_seed(recipe.random_seed(step, dist.get_rank()))
        outcome = train_step(engine, batch, recipe.num_latents(step), sources, trained_parts)
        fault = losses_seen.fault(outcome.losses, outcome.applied)
        if fault is not None:
            saver.finish()
            raise stop(fault, done, batches.origins(step), recipe.log.with_suffix(f".step-{done}.jsonl"))
        if log:
            values = {"step": done, "epoch": batches.order.epoch_of(step), **outcome.losses, **rates}
            log.step(values, outcome, batch.samples, batch.tokens)
        checkups.after(done)
        asked = on_any_rank(stopping.received, engine.device)
        if done < steps and (asked or done % (recipe.settings.save_every_steps or steps) == 0):
            watch.now(f"saving the state after step {done}, or waiting for other ranks in it")
            saver.save(done)
        if asked and done < steps:
            checkups.end()
            saver.finish()
            raise Preempted(f"asked to stop: the state after step {done} of {steps} is saved")
    watch.now("waiting for the last checkup, or for rank 0 to do so")
    checkups.wait(lambda: stopping.received)
    saver.finish()
    if log:
        log.save(state.folder)
        log.close()


def finish(
    recipe: Recipe,
    engine: Any,
    processor: Any,
    batches: RankBatches,
    state: ResumableState,
    beginning: Beginning,
) -> None:
    """Rank 0 writes the final checkpoint aside, names it, and removes the resumable state."""
    parameters = list(engine.module.parameters())
    gathered = deepspeed.zero.GatheredParameters(parameters, enabled=recipe.settings.zero_stage == 3)
    with gathered:
        if dist.get_rank() == 0:
            if recipe.settings.lora is not None:
                merge_adapters(engine.module)
            with output_folder(recipe.output) as folder:
                save_checkpoint(engine.module, processor, folder)
    if dist.get_rank() == 0:
        recipe.results.mkdir(parents=True, exist_ok=True)
        # DVC empties outputs before a stage runs again; so the curve grows beside the resumable state.
        shutil.copy(state.folder / CURVE, recipe.results / CURVE)
        by_source = SourceLosses.load(state.folder)
        by_source.write_curve(recipe.results / SOURCE_CURVE)
        write_metrics(recipe.results, recipe.results / CURVE, by_source)
        write_summary(recipe, engine, batches, by_source, unread_samples(state.folder), beginning.layouts)
        state.delete()
    dist.barrier()
    dist.destroy_process_group()


def write_summary(
    recipe: Recipe,
    engine: Any,
    batches: RankBatches,
    by_source: SourceLosses,
    unread: list[dict[str, Any]],
    layouts: list[dict[str, Any]],
) -> None:
    """results/<variant>/<stage>/summary.json: facts of the stage that are equal for equal runs.

    A stage that ran on other ranks for a part of its steps is another run: its layouts say so.
    """
    order = batches.order
    too_long = batches.manifest.origins(batches.too_long.tolist())
    last = _last_row(recipe.results / CURVE)
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
        "cross_entropy": by_source.summary(),
        "final_loss": float(last["loss"]),
        "final_cross_entropy": float(last["cross_entropy"]),
    }
    if len(layouts) > 1:
        summary["layouts"] = layouts
    write_json(summary, recipe.results / "summary.json")


def _last_row(curve: Path) -> dict[str, str]:
    names, *rows = curve.read_text(encoding="utf-8").splitlines()
    return dict(zip(names.split(","), rows[-1].split(","), strict=True))
