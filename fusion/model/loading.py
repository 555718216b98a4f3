"""Loading of weights that either fit or are refused: nothing is left at random values, nothing is dropped silently.

Only safetensors are read unless the caller asks for pickles, and of those only tensors.
"""

from __future__ import annotations

import os
import re
from typing import Any

from transformers import PreTrainedModel

from fusion.model.published import known_towers

VISION_PREFIX = "model.vision_tower."
TOWER_PREFIX = VISION_PREFIX + "vision_tower.vision_model."
_LISTED = 20

# Name of a tensor -> its shape; None where only the name is known.
Shapes = dict[str, tuple[int, ...] | None]


class CheckedLoading(PreTrainedModel):
    """`from_pretrained` that refuses what does not fit."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *args: Any,
        allow_pickle: bool = False,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Read a folder or a repository of the Hub, in our layout or the released one (`published.py`).

        Args:
            pretrained_model_name_or_path: config.json and model.safetensors, whole or in shards with an index.
            allow_pickle: also take `pytorch_model.bin` when there are no safetensors. Only tensors are unpickled
                (`weights_only`), so that no code in the file runs.
            output_loading_info: also return the report of Transformers.
            args, kwargs: as for `PreTrainedModel.from_pretrained`: `dtype`, `device_map`, `attn_implementation`
                ("sdpa", "eager", ...), `revision`, `config`, ...

        Returns:
            the model in evaluation mode, or a pair of it and the report.

        Raises:
            ValueError: tensors are missing, left over or of another shape; a base model or tower is another one than
                the configuration says (both are described); an argument is unknown or asks for pickles.
            OSError: there is no configuration or no safetensors file.
        """
        if kwargs.pop("use_safetensors", True) is False and not allow_pickle:
            raise ValueError(
                "use_safetensors: False means pickles, which may hold code; pass allow_pickle=True as well"
            )
        kwargs |= {"use_safetensors": None if allow_pickle else True, "weights_only": True}
        kwargs |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model, report = loaded
        expected: Shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        found: Shapes = {name: shape for name, shape in expected.items() if name not in report["missing_keys"]}
        found |= dict.fromkeys(report["unexpected_keys"])
        found |= {name: tuple(shape) for name, shape, _ in report["mismatched_keys"]}
        check_tensors(str(pretrained_model_name_or_path), expected, found)
        model.model.freeze_unused()
        return (model, report) if output_loading_info else model


def check_tensors(source: str, expected: Shapes, found: Shapes) -> None:
    """Compare the tensors of a checkpoint with those of its configuration.

    Args:
        source: the checkpoint's name, for the message.
        expected: names and shapes of the model that its configuration describes.
        found: names and shapes of the tensors; None = not known, which fits any.

    Raises:
        ValueError: they differ. If tower or language model differ, the message describes both.
    """
    problems = {
        "missing": sorted(expected.keys() - found.keys()),
        "unexpected": sorted(found.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(shape)} instead of {list(wanted)}"
            for name, wanted in sorted(expected.items())
            if wanted is not None and (shape := found.get(name)) is not None and shape != wanted
        ],
    }
    if not any(problems.values()):
        return
    for part, describe in (("language model", _describe_language), ("vision tower", _describe_tower)):
        wanted, given = describe(expected), describe(found)
        if given and wanted != given:
            raise ValueError(f"{source}: the configuration says {part} {wanted}, but the tensors are those of {given}")
    raise ValueError(f"{source}: the weights do not fit the configuration: " + "; ".join(_list(problems)))


def _list(problems: dict[str, list[str]]) -> list[str]:
    lines = []
    for kind, names in problems.items():
        if names:
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            lines.append(f"{kind}: {', '.join(names[:_LISTED])}{more}")
    return lines


def _layers(shapes: Shapes, prefix: str) -> int:
    numbers = (re.match(re.escape(prefix) + r"(\d+)\.", name) for name in shapes)
    return len({match.group(1) for match in numbers if match})


def _describe_language(shapes: Shapes) -> str:
    embedding = shapes.get("model.embed_tokens.weight")
    if embedding is None:
        return ""
    family = "Phi-3" if any(name.endswith("self_attn.qkv_proj.weight") for name in shapes) else "Llama"
    layers = _layers(shapes, "model.layers.")
    return f"of {family} type with {layers} layers, width {embedding[1]} and a vocabulary of {embedding[0]}"


def _describe_tower(shapes: Shapes) -> str:
    patch = shapes.get(TOWER_PREFIX + "embeddings.patch_embedding.weight")
    if patch is None:
        return ""
    layers = _layers(shapes, TOWER_PREFIX + "encoder.layers.")
    width, size = patch[0], patch[-1]
    names = [
        name
        for name, tower in known_towers().items()
        if (tower["hidden_size"], tower["patch_size"], tower["num_hidden_layers"] - 1) == (width, size, layers)
    ]
    known = f"{names[0]} " if names else ""
    return f"{known}with {layers} layers in use, width {width} and patches of {size} pixels"
