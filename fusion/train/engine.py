"""The DeepSpeed engine of a stage: parameter groups, ZeRO, precision, learning rates."""

from typing import Any

import deepspeed
import torch
from deepspeed.runtime.fp16.unfused_optimizer import FP16_UnfusedOptimizer

from fusion.model.adapters import add_adapters, is_adapter
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.settings import Optimizer, StageSettings
from fusion.train.compiling import compile_layers
from fusion.train.parts import part_of
from fusion.train.recipe import Recipe

_LARGEST_BUCKET = 500_000_000


def is_trained(name: str, settings: StageSettings) -> bool:
    """Whether a parameter is trained: one of a trained part, but of an adapted part only those of its adapters."""
    part = part_of(name)
    adapted = settings.lora is not None and part in settings.lora.targets
    return part in (settings.trained_parts or ()) and (not adapted or is_adapter(name))


def make_engine(recipe: Recipe, model: FusionForConditionalGeneration, universal: bool = False) -> Any:
    """Wraps the model for this recipe: AdamW with the tower's own learning rate, ZeRO, precision, frozen parts.

    `universal`: the state that it will load has DeepSpeed's universal form.
    """
    settings = recipe.settings
    assert settings.optimizer is not None and settings.trained_parts is not None  # filled in by Settings.stage
    if settings.lora is not None:
        add_adapters(model, settings.lora, recipe.random_seed(0, 0))
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.requires_grad_(False)
    groups: dict[str, list[torch.nn.Parameter]] = {}
    for group, names in model.parameter_groups().items():
        trained = [parameters[name] for name in names if is_trained(name, settings)]
        for parameter in trained:
            parameter.requires_grad_(True)
        groups[group] = trained
    if settings.activation_checkpointing:
        model.enable_activation_checkpointing()
    if recipe.hardware.compile:
        compile_layers(model)
    model.train()
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=_adamw(settings.optimizer, groups),
        config=deepspeed_config(recipe, sum(parameter.numel() for parameter in parameters.values()))
        | {"checkpoint": {"load_universal": universal}},
        dist_init_required=False,
    )
    _forget_first_step(engine.optimizer)
    return engine


def _forget_first_step(optimizer: Any) -> None:
    """Removes what DeepSpeed's wrapper for bf16 without ZeRO leaves in AdamW: an empty step, made to allocate moments.

    It counts in the correction of the moments' bias: the first real step would be a quarter too short, and the losses
    would be others than those of ZeRO 1 to 3 by up to 1%.
    """
    if isinstance(optimizer, FP16_UnfusedOptimizer):
        optimizer.state.clear()


def _adamw(settings: Optimizer, groups: dict[str, list[torch.nn.Parameter]]) -> torch.optim.AdamW:
    used = [{"params": parameters, "name": name} for name, parameters in groups.items() if parameters]
    first, second = settings.betas
    return torch.optim.AdamW(used, lr=0.0, betas=(first, second), eps=settings.eps, weight_decay=settings.weight_decay)


def deepspeed_config(recipe: Recipe, elements: int) -> dict[str, Any]:
    """DeepSpeed's configuration for a model of `elements` parameters.

    Accumulation is 1 here on purpose: the step says itself where an optimiser step ends, because the last step of a
    stage may have fewer micro-batches, and losses are normalised over the whole step.
    """
    settings = recipe.settings
    offload = {"offload_optimizer": {"device": "cpu"}} if recipe.hardware.offload_optimizer else {}
    return {
        "train_micro_batch_size_per_gpu": recipe.hardware.micro_batch,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.max_grad_norm or 0.0,
        "zero_optimization": {
            "stage": settings.zero_stage,
            # The buffers are allocated and touched whole: a small model must not pay 2 GB a rank for them.
            "reduce_bucket_size": min(elements, _LARGEST_BUCKET),
            "allgather_bucket_size": min(elements, _LARGEST_BUCKET),
            **offload,
        },
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": settings.precision == "bf16"},
        "steps_per_print": 10**12,
        "wall_clock_breakdown": False,
    }


def set_learning_rates(engine: Any, recipe: Recipe, step: int, steps: int) -> dict[str, float]:
    """Sets the rates of this step on the engine's groups and returns them by their curve names."""
    factor = recipe.learning_rate_factor(step, steps)
    peaks = {"language": recipe.settings.learning_rate, "vision": recipe.settings.vision_learning_rate}
    for group in engine.optimizer.param_groups:
        group["lr"] = peaks[group["name"]] * factor
    return {"learning_rate": peaks["language"] * factor, "vision_learning_rate": peaks["vision"] * factor}
