"""The zoo's rules for continuing a checkpoint.

Only configuration files are read, no weights: the rule costs nothing before ranks start.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fusion.settings import BasePart, Stage, Variant
from fusion.zoo.entries import Checkpoint, Encoder, Llm, ZooError, load_zoo

TEMPLATE_OF_TYPE = {"fusion_phi": "phi_3", "fusion_llama": "llama_3"}
"""The conversation template of the published layout's model types."""

_LLM_FIELDS = {
    "model_type": "type", "hidden_size": "width", "num_hidden_layers": "layers", "intermediate_size": "inner width",
    "num_attention_heads": "heads", "num_key_value_heads": "key-value heads",
}  # fmt: skip
_TOWER_FIELDS = {
    "hidden_size": "width", "num_hidden_layers": "layers", "intermediate_size": "inner width",
    "num_attention_heads": "heads", "image_size": "image size", "patch_size": "patch size",
}  # fmt: skip
_FAMILY_OF_TYPE = {"fusion_phi": "phi3", "fusion_llama": "llama"}
BaseEntry = TypeVar("BaseEntry", Llm, Encoder)
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")


@dataclass(frozen=True)
class Part:
    """A language model or a vision encoder: its Hub id where it is known, and what is known of its shape."""

    name: str | None
    shape: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        shape = ", ".join(f"{key} {value}" for key, value in self.shape.items())
        return f"{self.name or 'an unnamed model'} ({shape})" if shape else self.name or "an unknown model"

    def difference(self, other: "Part") -> str | None:
        """What tells the two apart, or None. Only what both know counts."""
        if self.name and other.name and self.name != other.name:
            return "name"
        for key, value in self.shape.items():
            if key in other.shape and other.shape[key] != value:
                return key
        return None


@dataclass(frozen=True)
class Identity:
    """What has to be equal for one checkpoint to continue another. `tokens` maps a token to its id."""

    llm: Part
    tower: Part
    template: str | None
    tokens: Mapping[str, int] | None = None


def obligations(llm: str | None) -> tuple[str, tuple[str, ...]] | None:
    """Licence id and obligations that follow from a base LLM (published name or Hub id); None where it is unknown."""
    zoo = load_zoo()
    entry = _known_base(llm, zoo.llms)
    if entry is None:
        return None
    return entry.licence, tuple(zoo.licence(entry.licence).obligations)


def check_parent(parent: Path, variant: Variant, stage: Stage, root: Path = Path()) -> None:
    """Raises `ZooError` unless `stage` of `variant` may continue the checkpoint in the folder `parent`.

    The base LLM, the vision encoder, the template and the tokenizer's ids must be those of the variant, and the
    checkpoint must be of the stage before, as far as it says what it is. The message names both sides.

    Source: published model zoo, note on the stage weights.
    """
    check_same_base(checkpoint_identity(parent), variant_identity(variant, root), str(parent))
    wanted, said = variant.chain[variant.chain.index(stage) - 1], checkpoint_stage(parent)
    if said is not None and said != wanted:
        raise ZooError(f"{parent} is a {said} checkpoint, and {stage} continues one of {wanted}")


def checkpoint_stage(folder: Path) -> str | None:
    """What the checkpoint in a folder says of itself: "base" or the stage that made it; None if it says nothing.

    It stands in its config.json. Those of the zoo were made without that: the name of their folder tells.
    """
    said = written_stage(folder)
    if said is not None:
        return said
    entry = load_zoo().checkpoint(folder.resolve().name)
    return entry.stage if entry else None


def written_stage(folder: Path) -> str | None:
    """The stage that stands in a checkpoint's config.json, of either layout; None where there is none."""
    config = _read_json(folder / "config.json")
    own = config.get("fusion")
    fields = own.get("fields") if isinstance(own, dict) else None
    for place in (config, fields if isinstance(fields, dict) else {}):
        if (said := place.get("fusion_stage")) is not None:
            return str(said)
    return None


def check_same_base(parent: Identity, wanted: Identity, where: str) -> None:
    """Raises `ZooError` naming both sides where two identities differ; `where` is the parent's folder or name."""
    for what, mine, other in (
        ("base LLM", parent.llm, wanted.llm),
        ("vision encoder", parent.tower, wanted.tower),
    ):
        key = mine.difference(other)
        if key is not None:
            raise ZooError(
                f"{where} does not fit: its {what} is {mine}, wanted is {other}; they differ in {key}. "
                f"{load_zoo().rules.same_base[0].upper()}{load_zoo().rules.same_base[1:]}."
            )
    if parent.template and wanted.template and parent.template != wanted.template:
        raise ZooError(
            f"{where} does not fit: its conversation template is {parent.template}, wanted is {wanted.template}"
        )
    if parent.tokens is not None and wanted.tokens is not None:
        moved = [token for token, number in wanted.tokens.items() if parent.tokens.get(token) != number]
        if moved:
            example = f"{moved[0]!r} is {parent.tokens.get(moved[0])} there and {wanted.tokens[moved[0]]} here"
            raise ZooError(
                f"{where} does not fit: its tokenizer is another: {len(moved)} of {len(wanted.tokens)} tokens "
                f"have other ids ({example})"
            )


def checkpoint_identity(folder: Path) -> Identity:
    """The identity of a checkpoint folder in our layout or the published one; raises `ZooError` for anything else."""
    config = _read_json(folder / "config.json")
    kind = config.get("model_type")
    if (
        kind == "fusion"
        and isinstance(config.get("text_config"), dict)
        and isinstance(config.get("vision_config"), dict)
    ):
        text, vision = config["text_config"], config["vision_config"]
        llm = Part(_base_name(text.get("_name_or_path")), _shape(text, _LLM_FIELDS))
        tower = Part(_base_name(vision.get("_name_or_path")), _shape(vision, _TOWER_FIELDS))
        return Identity(llm, tower, config.get("template"), _tokens(folder))
    if kind in _FAMILY_OF_TYPE:
        # `_name_or_path` is a path of the training machine here, so only a name that the zoo knows counts.
        zoo = load_zoo()
        known = _known_base(config.get("_name_or_path"), zoo.llms)
        llm = Part(known.repo if known else None, _shape(config | {"model_type": _FAMILY_OF_TYPE[kind]}, _LLM_FIELDS))
        described = config.get("mm_vision_config")
        named = _known_base(config.get("mm_vision_tower"), zoo.encoders)
        shape = _shape(described, _TOWER_FIELDS) if isinstance(described, dict) else {}
        tower = _encoder_part(named) if named else Part(_base_name(config.get("mm_vision_tower")), shape)
        return Identity(llm, tower, TEMPLATE_OF_TYPE[kind], _tokens(folder))
    raise ZooError(f"{folder / 'config.json'} is not that of a FUSION checkpoint: its model_type is {kind!r}")


def published_identity(checkpoint: Checkpoint) -> Identity:
    """The identity of one of the zoo's checkpoints, from its base models."""
    zoo = load_zoo()
    llm = zoo.llm(checkpoint.llm)
    return Identity(_llm_part(llm), _encoder_part(zoo.encoder(checkpoint.encoder)), llm.template)


def variant_identity(variant: Variant, root: Path = Path()) -> Identity:
    """The identity that a variant of params.yaml asks for. Base models in local folders are read, others looked up."""
    zoo = load_zoo()
    llm = _part(variant.base.llm, root, _LLM_FIELDS)
    known = _known_base(variant.base.llm.name, zoo.llms)
    tower = _part(variant.base.tower, root, _TOWER_FIELDS)
    named = _known_base(variant.base.tower.name, zoo.encoders)
    tokens = _tokens(root / variant.base.tokenizer) if variant.base.tokenizer else None
    return Identity(
        _merged(_llm_part(known), llm) if known else llm,
        _merged(_encoder_part(named), tower) if named else tower,
        variant.template,
        tokens,
    )


def _merged(known: Part, read: Part) -> Part:
    return Part(known.name, {**known.shape, **read.shape})


def _part(base: BasePart, root: Path, fields: Mapping[str, str]) -> Part:
    if base.config is not None:
        return Part(None, _shape(base.config, fields))
    assert base.name is not None  # BasePart has one of the two.
    for folder in (Path(base.name), root / base.name):
        if (folder / "config.json").is_file():
            config = _read_json(folder / "config.json")
            inner = config.get("vision_config") if fields is _TOWER_FIELDS else None
            return Part(None, _shape(inner if isinstance(inner, dict) else config, fields))
    return Part(_base_name(base.name))


def _llm_part(llm: Llm) -> Part:
    return Part(llm.repo, {"type": llm.family, "width": llm.width, "layers": llm.layers, "inner width": llm.mlp})


def _encoder_part(encoder: Encoder) -> Part:
    shape = {"width": encoder.width, "layers": encoder.layers, "inner width": encoder.mlp}
    return Part(encoder.repo, {**shape, "image size": encoder.image_size, "patch size": encoder.patch_size})


def _known_base(name: Any, known: list[BaseEntry]) -> BaseEntry | None:
    """The zoo's entry for a Hub id, a published name, or a path that ends in the repository's name."""
    last = str(name or "").rstrip("/").rpartition("/")[2]
    return next((entry for entry in known if last and last in (entry.published, entry.repo.partition("/")[2])), None)


def _base_name(name: Any) -> str | None:
    """`name` if it is a Hub id; a path says nothing about what lies there."""
    if not isinstance(name, str) or not _HUB_ID.match(name) or Path(name).is_dir():
        return None
    return name


def _shape(config: Mapping[str, Any], fields: Mapping[str, str]) -> dict[str, Any]:
    return {title: config[key] for key, title in fields.items() if config.get(key) is not None}


def _tokens(folder: Path) -> dict[str, int] | None:
    """Token -> id of a folder's tokenizer.json; None without one."""
    if not (folder / "tokenizer.json").is_file():
        return None
    document = _read_json(folder / "tokenizer.json")
    vocabulary = document.get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram models hold [token, score] pairs.
        vocabulary = {entry[0]: number for number, entry in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in document.get("added_tokens", [])}}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ZooError(f"{path} is missing: {path.parent} holds no checkpoint") from None
    except ValueError as error:
        raise ZooError(f"{path} is not valid JSON ({error})") from error
    if not isinstance(document, dict):
        raise ZooError(f"{path} is not a JSON object")
    return document
