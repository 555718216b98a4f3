"""A plan as plain numbers: the one source of the tables and of the JSON document."""

from __future__ import annotations

from typing import Any

from fusion.plan.api import Plan, StagePlan
from fusion.plan.choice import Option, fallback, reason
from fusion.plan.memory import checkpoint_bytes
from fusion.plan.traffic import images_a_second_a_core


def plan_facts(plan: Plan, price: float | None = None) -> dict[str, Any]:
    """All of a plan: FLOPs, bytes and seconds as numbers, nothing rounded. None = not known.

    `price`: of one GPU for an hour, in any currency.
    """
    first = next(iter(plan.stages.values())).model
    each = [stage.gpu_hours for stage in plan.stages.values()]
    gpu_hours = None if None in each else sum(hour for hour in each if hour is not None)
    return {
        "variant": plan.variant,
        "gpu": {"name": plan.gpu, **plan.target.gpu.model_dump()},
        "gpus": plan.target.gpus,
        "utilisation": plan.target.utilisation,
        "parameters": {**first.parameters.parts, "total": first.parameters.total},
        "gpu_hours": gpu_hours,
        "hours": None if gpu_hours is None else gpu_hours / plan.target.gpus,
        "cost": None if gpu_hours is None or price is None else gpu_hours * price,
        "settings": settings_facts(plan),
        "stages": {name: stage_facts(stage) for name, stage in plan.stages.items()},
    }


def settings_facts(plan: Plan) -> dict[str, dict[str, Any]]:
    """Dotted key of params.yaml -> the values below it that the advice comes to; micro_batch None = one a stage."""
    advised = {name: stage.advised for name, stage in plan.stages.items()}
    sizes = {option.micro_batch for option in advised.values()}
    hardware = {
        "device": "cuda",
        "ranks": plan.target.gpus,
        "micro_batch": sizes.pop() if len(sizes) == 1 else None,
        "offload_optimizer": any(option.offload for option in advised.values()),
    }
    stages = {
        f"variants.{plan.variant}.stages.{name}": {
            "zero_stage": option.zero_stage,
            "activation_checkpointing": option.checkpointing,
        }
        for name, option in advised.items()
    }
    return {f"variants.{plan.variant}.hardware": hardware, **stages}


def stage_facts(stage: StagePlan) -> dict[str, Any]:
    """One stage."""
    model, advised = stage.model, stage.advised
    other = fallback(advised, stage.options)
    brought, batch, steps = model.traffic, model.settings.global_batch, model.steps
    seconds, gpus = advised.seconds, model.target.gpus
    tokens = model.mean.positions
    flops = model.sample_flops()
    pictures = batch * brought.with_picture / seconds
    weights = float(model.element * model.parameters.total)
    state = checkpoint_bytes(model.elements, model.trained, model.element, advised.zero_stage, on_gpu=True)
    keep = model.settings.keep_checkpoints or 0
    draws = None if brought.samples is None else brought.samples * (model.settings.epochs or 1)
    return {
        "data": {
            "dataset": brought.dataset,
            "source": brought.source,
            "samples": brought.samples,
            "epochs": model.settings.epochs,
            "with_picture": brought.with_picture,
            "too_long": brought.too_long,
            "bytes": brought.bytes,
        },
        "global_batch": batch,
        "max_length": model.settings.max_length,
        "steps": steps,
        "trained_parameters": model.trained,
        "tokens": {
            "a_sample": tokens,
            "a_step": tokens * batch,
            "all": None if draws is None else tokens * draws,
            "supervised_a_sample": model.mean.supervised,
        },
        "flops": {
            "a_sample": {**flops, "all": sum(flops.values())},
            "a_step": advised.model_flops * gpus,
            "executed_a_step": advised.executed_flops * gpus,
            "all": None if steps is None else steps * advised.model_flops * gpus,
        },
        "advised": {**option_facts(advised), "why": reason(advised, stage.options)},
        "as_set": option_facts(stage.as_set),
        "fallback": None if other is None else option_facts(other),
        "time": {
            "seconds_a_step": seconds,
            "samples_a_second": batch / seconds,
            "tokens_a_second": tokens * batch / seconds,
            "model_flops_utilisation": advised.model_flops / seconds / (1e12 * model.target.gpu.tflops),
            "hours": stage.hours,
            "gpu_hours": stage.gpu_hours,
        },
        "loader": {
            "pictures_a_second": pictures,
            "pictures_a_second_a_gpu": pictures / gpus,
            "cores_a_gpu": pictures / gpus / images_a_second_a_core(),
            "bytes_a_second": (
                None
                if brought.bytes is None or not brought.samples
                else brought.bytes / brought.samples * batch / seconds
            ),
        },
        "checkpoints": {
            "weights_bytes": weights,
            "state_bytes": state,
            # One more than are kept while the newest is being written, and the finished checkpoint.
            "disk_bytes": weights + (keep + 1) * state,
            "states": None if steps is None else (steps - 1) // (model.settings.save_every_steps or steps),
        },
        "options": [option_facts(option) for option in stage.options],
    }


def option_facts(option: Option) -> dict[str, Any]:
    """One way to run a stage."""
    return {
        "zero_stage": option.zero_stage,
        "micro_batch": option.micro_batch,
        "accumulation": option.accumulation,
        "activation_checkpointing": option.checkpointing,
        "offload": option.offload,
        "memory_bytes": {**option.memory, "total": option.total},
        "usable_bytes": option.usable,
        "host_bytes": option.host_memory,
        "fits": option.fits,
        "seconds_a_step": option.seconds,
        "compute_seconds": option.compute_seconds,
        "exchange_seconds": option.exchange_seconds,
        "host_seconds": option.host_seconds,
        "exchanged_bytes": option.sent,
    }
