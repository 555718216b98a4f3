"""Low-rank adapters (LoRA) on the linear layers of the language model and of the tower, made and merged with peft.

Adapted is W + alpha / rank * B A, of which A [rank, in] and B [out, rank] alone are trained. Source: arXiv 2106.09685.
They exist while a stage is trained: merged, the model has its usual names and shapes again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import nn

from fusion.model.loading import TOWER_PREFIX

if TYPE_CHECKING:
    from fusion.settings import Lora

_LAYERS = {"language": "model.layers.", "vision": f"{TOWER_PREFIX}encoder.layers."}
"""Part -> the beginning of the names of the layers whose linear maps can be adapted."""
_NAME = "default"


def adapted_layers(shapes: Mapping[str, Collection[int]], lora: Lora) -> list[str]:
    """The names of the linear layers that are adapted, in the model's order.

    Args:
        shapes: names and shapes of a checkpoint's tensors.
        lora: `targets` has for each part the last names of layers, such as `qkv_proj`, or "all".

    Raises:
        ValueError: a part has no layer of such a name; those that it has are named.
    """
    weights = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2]
    found = []
    for part, targets in lora.targets.items():
        known = {name: name.rpartition(".")[2] for name in weights if name.startswith(_LAYERS[part])}
        missing = sorted(set() if targets == "all" else set(targets) - set(known.values()))
        if missing:
            raise ValueError(
                f"lora.targets.{part}: there is no layer {', '.join(missing)}; "
                f"the layers have {', '.join(sorted(set(known.values())))}"
            )
        found += [name for name, last in known.items() if targets == "all" or last in targets]
    return found


def adapter_elements(shapes: Mapping[str, Collection[int]], lora: Lora) -> int:
    """Parameters of all adapters: rank * (in + out) each; see `adapted_layers`."""
    return sum(lora.rank * sum(shapes[f"{name}.weight"]) for name in adapted_layers(shapes, lora))


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def add_adapters(model: nn.Module, lora: Lora, seed: int) -> None:
    """Puts adapters into the model, in place. A is drawn from `seed`, B is 0: at first the model computes the same."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # it need not be whole
        lora_dropout=lora.dropout,
        target_modules=adapted_layers({name: tensor.shape for name, tensor in model.state_dict().items()}, lora),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, adapter_name=_NAME)


@torch.no_grad()
def merge_adapters(model: nn.Module) -> None:
    """Adds every adapter to the weight that it adapts, and takes it out; nothing happens without adapters.

    The sum is made in float32 and rounded once, to the weight's dtype.
    """
    from peft.tuners.lora import LoraLayer

    for name, layer in list(model.named_modules()):
        if isinstance(layer, LoraLayer):
            base, down, up = (
                cast(nn.Linear, part) for part in (layer.get_base_layer(), layer.lora_A[_NAME], layer.lora_B[_NAME])
            )
            product = up.weight.float() @ down.weight.float()
            base.weight.copy_(base.weight.float() + product * layer.scaling[_NAME])
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, base)
    vars(model).pop("peft_config", None)
