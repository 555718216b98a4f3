"""The configuration of released FUSION checkpoints: translated into ours, and ours into theirs.

The tensors of both layouts have the same names and shapes; only config.json differs. The released one has the language
model's fields at the top, names the vision tower instead of describing it, and leaves the template and some token ids
to code. What it cannot say of a model of ours stands under one more key, `fusion`, which the reference implementation
ignores. A released configuration is kept whole in ours, so that it comes back as it was.

Source: design heading "Four published models, three stages each"; facts in published.yaml.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from transformers import AutoConfig, PreTrainedConfig, SiglipVisionConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

if TYPE_CHECKING:
    from fusion.model.configuration import FusionConfig

# The key of a released config.json that holds what its own fields cannot say.
EXTENSION = "fusion"

_SAME_NAMES = (
    "window_size",
    "num_of_vision_sampler_layers",
    "start_of_vision_sampler_layers",
    "stride_of_vision_sampler_layers",
)
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
_VOLATILE = ("transformers_version", "architectures", "_name_or_path", "auto_map", "published", "dtype", "model_type")


@functools.cache
def _facts() -> dict[str, dict[str, Any]]:
    facts: dict[str, dict[str, Any]] = yaml.safe_load(
        Path(__file__).with_name("published.yaml").read_text(encoding="utf-8")
    )
    return facts


def known_towers() -> dict[str, dict[str, Any]]:
    """Hub name of a tower -> fields of its SigLIP vision configuration."""
    return _facts()["towers"]


def published_types() -> tuple[str, ...]:
    """Values of `model_type` in released configurations."""
    return tuple(_facts()["families"])


def is_published(fields: dict[str, Any]) -> bool:
    """Whether the fields of a config.json are in the released layout."""
    return fields.get("model_type") in _facts()["families"]


def read_published(fields: dict[str, Any]) -> dict[str, Any]:
    """Fields of FusionConfig from those of a released config.json.

    `num_latents`, which the reference draws anew at each answer, becomes 16 if `query_len` lists it, else its first
    number. A tower is described by `mm_vision_config`, or named by `mm_vision_tower`: a name of published.yaml, a
    folder, or a repository of the Hub, whose configuration is read.

    Raises:
        ValueError: a field is missing or contradicts another one; the message starts with its name.
        OSError: the tower is unknown and cannot be found.
    """
    original, fields = fields, copy.deepcopy(fields)
    family = _facts()["families"][fields["model_type"]]
    text = {key: fields[key] for key in (*_own_fields(family["text"]), *_ROPE) if fields.get(key) is not None}
    tower = _read_tower(fields)
    lengths = _read_lengths(fields.get("query_len"))
    own: dict[str, Any] = {
        "model_type": "fusion",
        "architectures": ["FusionForConditionalGeneration"],
        "text_config": {"model_type": family["text"], **text},
        "vision_config": {"model_type": "siglip_vision_model", **tower},
        "template": family["template"],
        "query_len": lengths,
        "num_latents": 16 if 16 in lengths else lengths[0],
        "pad_token_id": fields.get("pad_token_id"),
    }
    own |= {name: fields[name] for name in _SAME_NAMES if name in fields}
    if fields.get("vocab_size") == family["vocab_size"]:
        own |= family["tokens"]
    dtype = fields.get("torch_dtype", fields.get("dtype"))
    if dtype is not None:
        own["dtype"] = dtype
    extension = fields.get(EXTENSION, {})
    for key, value in extension.get("fields", {}).items():
        own[key] = own[key] | value if key in ("text_config", "vision_config") else value
    if not extension.get("generated", False):
        own["published"] = copy.deepcopy(original)
    return own


def write_published(config: FusionConfig) -> dict[str, Any]:
    """Fields of a released config.json that say the same as `config`; `read_published` gives an equal one back.

    Raises:
        ValueError: the language model is of no released family.
    """
    original: dict[str, Any] | None = config.published
    wanted = _comparable(config)
    if original is not None and _comparable(type(config).from_dict(copy.deepcopy(original))) == wanted:
        return copy.deepcopy(original)
    family = {facts["text"]: name for name, facts in _facts()["families"].items()}.get(config.text_config.model_type)
    if family is None:
        raise ValueError(f"text_config: {config.text_config.model_type} is of no released family")
    facts = _facts()["families"][family]
    fields = copy.deepcopy(original) or {}
    fields.pop(EXTENSION, None)
    text = config.text_config.to_dict()
    fields |= {"model_type": family, "architectures": [facts["architecture"]], **_facts()["constants"]}
    fields |= {key: text.get(key) for key in _own_fields(facts["text"])}
    fields |= _write_rope(text.get("rope_parameters") or {})
    fields |= {name: getattr(config, name) for name in _SAME_NAMES}
    fields["query_len"] = ",".join(map(str, config.query_len))
    fields["mm_hidden_size"] = config.vision_config.hidden_size
    fields |= _write_tower(fields, config.vision_config)
    fields["torch_dtype"] = None if config.dtype is None else str(config.dtype).removeprefix("torch.")
    fields = json.loads(json.dumps(fields))
    again = _comparable(type(config).from_dict(copy.deepcopy(fields)))
    extension: dict[str, Any] = {}
    for key, value in wanted.items():
        if again[key] != value:
            parts = key in ("text_config", "vision_config")
            extension[key] = {k: v for k, v in value.items() if again[key].get(k, ...) != v} if parts else value
    fields[EXTENSION] = {"generated": original is None, "fields": extension}
    return fields


def _own_fields(model_type: str) -> tuple[str, ...]:
    """The fields that a type of configuration has beside those of all."""
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    own = (field.name for field in dataclasses.fields(CONFIG_MAPPING[model_type]))
    return tuple(name for name in own if name not in common and name not in _ROPE)


def _read_lengths(value: Any) -> list[int]:
    parts = value.split(",") if isinstance(value, str) else [value] if isinstance(value, int) else value
    try:
        return [int(part) for part in parts]
    except (TypeError, ValueError) as error:
        raise ValueError(f"query_len: {value!r} is no list of numbers") from error


def _read_tower(fields: dict[str, Any]) -> dict[str, Any]:
    given, name = fields.get("mm_vision_config"), fields.get("mm_vision_tower")
    if isinstance(given, dict):
        tower = dict(given)
    elif isinstance(name, str):
        tower = _find_tower(name)
    else:
        raise ValueError("mm_vision_tower: neither names a vision tower nor does mm_vision_config describe one")
    tower.pop("model_type", None)
    width = tower.get("hidden_size")
    if fields.get("mm_hidden_size", width) != width:
        raise ValueError(f"mm_hidden_size: {fields['mm_hidden_size']}, but the tower {name or given} has width {width}")
    return tower


def _find_tower(name: str) -> dict[str, Any]:
    towers = known_towers()
    if name in towers:
        return dict(towers[name])
    if not Path(name).is_dir():
        # Released configurations may hold the path that the tower had where the model was trained.
        for known, tower in towers.items():
            if Path(name).is_absolute() and Path(name).name == known.split("/")[1]:
                return dict(tower)
    config = AutoConfig.from_pretrained(name)
    vision: dict[str, Any] = getattr(config, "vision_config", config).to_dict()
    if vision.get("model_type") != "siglip_vision_model":
        raise ValueError(f"mm_vision_tower: {name} is of type {vision.get('model_type')}, not a SigLIP vision model")
    return {key: value for key, value in vision.items() if key not in _VOLATILE}


def _write_tower(fields: dict[str, Any], vision: SiglipVisionConfig) -> dict[str, Any]:
    for name, tower in known_towers().items():
        if _plain(SiglipVisionConfig(**tower)) == _plain(vision):
            return {"mm_vision_tower": name}
    fields.pop("mm_vision_tower", None)
    return {"mm_vision_config": {key: getattr(vision, key) for key in _own_fields("siglip_vision_model")}}


def _write_rope(parameters: dict[str, Any]) -> dict[str, Any]:
    """Rotary embedding in the older fields, which the reference implementation reads."""
    scaling = {key: value for key, value in parameters.items() if key not in ("rope_theta", "partial_rotary_factor")}
    plain = scaling.get("rope_type", "default") == "default"
    older = {"rope_theta": parameters.get("rope_theta"), "rope_scaling": None if plain else scaling}
    if parameters.get("partial_rotary_factor", 1.0) != 1.0:
        older["partial_rotary_factor"] = parameters["partial_rotary_factor"]
    return older


def _plain(config: PreTrainedConfig) -> dict[str, Any]:
    """Fields as JSON has them, without those that depend on the library or the place."""
    fields = {key: value for key, value in config.to_dict().items() if key not in _VOLATILE}
    plain: dict[str, Any] = json.loads(json.dumps(fields))
    return plain


def _comparable(config: FusionConfig) -> dict[str, Any]:
    fields = _plain(config)
    for part in ("text_config", "vision_config"):
        fields[part] = {key: value for key, value in fields[part].items() if key not in _VOLATILE}
    return fields
