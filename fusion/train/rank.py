"""One rank of a training stage, from its parent checkpoint to its own."""

import os
from typing import Any

import torch
import torch.distributed as dist

from fusion.model.checkpoints import load_checkpoint
from fusion.quiet import quiet_libraries
from fusion.settings import load_settings
from fusion.train.batches import RankBatches
from fusion.train.checkup import Checkups
from fusion.train.engine import make_engine, set_learning_rates
from fusion.train.errors import Preempted
from fusion.train.finish import finish
from fusion.train.guards import LossWatch, stop
from fusion.train.launch import tensor_shapes
from fusion.train.log import TrainingLog
from fusion.train.parts import Elements
from fusion.train.processes import join_group, let_wait, on_any_rank
from fusion.train.recipe import Recipe, make_recipe
from fusion.train.resume import Beginning, find_beginning, load_state
from fusion.train.room import check_device_memory, check_disk, explained
from fusion.train.saver import StateSaver
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
        if recipe.hardware.device == "cuda":
            elements = Elements.of(tensor_shapes(recipe.parent), recipe.settings)
            check_device_memory(recipe, elements, torch.cuda.mem_get_info()[0])
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
