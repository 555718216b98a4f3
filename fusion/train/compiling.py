"""torch.compile for the layers of a model, and whether this machine can do it.

Tower, decoder and interaction layers are compiled, each by itself: they hold nearly all of the work, all layers of a
kind share their code, and what is between them differs from batch to batch. It is the inside of a layer that is
compiled, below its hooks and below activation checkpointing, which runs the same code a second time. Names of
parameters stay.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from fusion.train.errors import TrainingError
from fusion.train.recipe import Recipe

MOST_CODES = 32
"""Versions of one piece of code for other kinds of inputs: numbers of texts and pictures, none of them among them."""
_OFF = "TORCHDYNAMO_DISABLE"


def check_compiler(recipe: Recipe) -> None:
    """Raises `TrainingError` unless what `hardware.compile` asks for can be done on this machine."""
    if not recipe.hardware.compile:
        return
    asked = f"variants.{recipe.variant}.hardware.compile"
    if os.environ.get(_OFF, "0") not in ("", "0"):
        raise TrainingError(f"{asked}: the environment variable {_OFF} switches torch.compile off: unset one of them")
    if recipe.hardware.device == "cuda" and find_spec("triton") is None:
        raise TrainingError(
            f"{asked}: on GPUs torch.compile needs the package triton, which is not installed: install the build of "
            "torch for these GPUs, or switch it off"
        )
    programs = ("g++",) if recipe.hardware.device == "cpu" else ("gcc", "cc", "clang")
    if not os.environ.get("CC") and not any(shutil.which(name) for name in programs):
        raise TrainingError(
            f"{asked}: torch.compile needs a compiler ({' or '.join(programs)}), and there is none on PATH: install "
            "one, or switch it off"
        )


def compile_layers(model: nn.Module, backend: str | Callable[..., Any] = "inductor") -> int:
    """Has the layers of a model compiled at their first call, for inputs of any length; how many they are."""
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_CODES)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        inside = type(layer).forward.__wrapped__  # type: ignore[attr-defined]  # below what checkpoints activations
        layer.forward = partial(_forward, layer, _compiled(inside, backend))
    return len(layers)


@cache
def _compiled(inside: Callable[..., Any], backend: str | Callable[..., Any]) -> Callable[..., Any]:
    made: Callable[..., Any] = torch.compile(inside, dynamic=True, backend=backend)
    return made


def _forward(layer: Any, compiled: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The layer, as `GradientCheckpointingLayer` calls it."""
    if not torch.is_grad_enabled():
        return type(layer).forward(layer, *args, **kwargs)
    if layer.gradient_checkpointing and layer.training:
        return layer._gradient_checkpointing_func(partial(compiled, layer, **kwargs), *args)
    return compiled(layer, *args, **kwargs)
