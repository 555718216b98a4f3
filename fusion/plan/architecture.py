"""The shapes of a variant's model without its weights: the configuration, and parameters by part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoConfig, PreTrainedConfig, SiglipVisionConfig

from fusion.data.errors import DataError
from fusion.data.sharding.tokens import load_tokenizer
from fusion.documents import read_yaml
from fusion.model.configuration import FusionConfig
from fusion.model.from_settings import architecture
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.published import known_towers
from fusion.model.template import TEMPLATES
from fusion.plan.errors import PlanError

if TYPE_CHECKING:
    from fusion.settings import BasePart, Variant

_FACTS = Path(__file__).with_name("base_models.yaml")
_VISION_TOKENS = 2

# Parts of the model by the beginning of their parameters' names; the first that fits counts.
_PREFIXES: dict[str, str | tuple[str, ...]] = {
    "tower": "model.vision_tower.",
    "projectors": ("model.mm_projector.", "model.aux_projector."),
    "interaction": "model.vision_sampler_layers.",
    "embedding": "model.embed_tokens.",
    "head": "lm_head.",
    "decoder": "model.",
}
TRAINED_AS = {
    "tower": "vision",
    "projectors": "projectors",
    "interaction": "interaction",
    "embedding": "language",
    "head": "language",
    "decoder": "language",
}
"""Part -> the name in `training.trained_parts` that decides whether it is trained."""


@dataclass(frozen=True)
class Parameters:
    """Numbers of parameters.

    Attributes:
        parts: by part (see TRAINED_AS), a shared matrix once.
        unused: of the tower's post-layernorm, which is carried and never trained.
        largest_layer: of the largest module that ZeRO-3 gathers at once.
        shapes: of all of them by name.
    """

    parts: dict[str, int]
    unused: int
    largest_layer: int
    shapes: dict[str, tuple[int, ...]]

    @property
    def total(self) -> int:
        """All parameters, as the checkpoint has them."""
        return sum(self.parts.values())

    def trained(self, trained_parts: list[str]) -> int:
        """Parameters that receive gradients when these parts are trained."""
        chosen = sum(count for part, count in self.parts.items() if TRAINED_AS[part] in trained_parts)
        return chosen - (self.unused if "vision" in trained_parts else 0)


def count_parameters(config: FusionConfig) -> Parameters:
    """Counted on the meta device: real names and shapes, no memory."""
    with torch.device("meta"):
        model = FusionForConditionalGeneration(config)
    parts = dict.fromkeys(_PREFIXES, 0)
    for name, parameter in model.named_parameters():
        parts[next(part for part, prefix in _PREFIXES.items() if name.startswith(prefix))] += parameter.numel()

    def size(module: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in module.parameters())

    core = model.model
    tower = cast(torch.nn.ModuleList, core.vision_tower.layers.encoder["layers"])
    layers: list[torch.nn.Module] = [*core.layers, *tower]
    layers += [core.embed_tokens, model.lm_head, core.mm_projector]
    layers += list(core.vision_sampler_layers) if core.interaction_at else []
    return Parameters(
        {part: count for part, count in parts.items() if count},
        size(core.vision_tower.layers.post_layernorm),
        max(size(layer) for layer in layers),
        {name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
    )


def model_config(variant: Variant, root: Path = Path()) -> FusionConfig:
    """The configuration of a variant's model, as `fusion base` would build it.

    What the published variants start from is known here. Other base models are read from their folder or the Hub.

    Raises:
        PlanError: a base model cannot be found, or does not fit; naming the setting.
    """
    text, tokens = _language_model(variant.base.llm)
    if variant.base.tokenizer is not None:
        tokens = _vocabulary(root / variant.base.tokenizer, variant.template)
    elif tokens is None:
        tokens = int(text["vocab_size"])
    # Ids stand in tokenizers, which need not be there: no shape depends on them.
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    try:
        return FusionConfig(
            text_config=text | ids | {"vocab_size": tokens + _VISION_TOKENS},
            vision_config=_tower(variant.base.tower),
            template=variant.template,
            pad_token_id=None,
            **architecture(variant.model),
        )
    except ValueError as error:
        raise PlanError(f"the base models and `model` do not fit together: {error}") from error


def _language_model(part: BasePart) -> tuple[dict[str, Any], int | None]:
    """Fields of the language model's configuration, and its tokens where they are known."""
    if part.config is not None:
        return dict(part.config), None
    known = read_yaml(_FACTS, PlanError)["language_models"].get(part.name)
    if known is not None:
        return dict(known["config"]), known["tokens"]
    return _read("base.llm", part).to_dict(), None


def _tower(part: BasePart) -> SiglipVisionConfig | dict[str, Any]:
    if part.config is not None:
        return SiglipVisionConfig(**part.config)
    known = known_towers().get(part.name or "")
    if known is not None:
        return {"model_type": "siglip_vision_model", **known}
    found = _read("base.tower", part)
    return dict(getattr(found, "vision_config", found).to_dict())


def _read(field: str, part: BasePart) -> PreTrainedConfig:
    assert part.name is not None  # one of name and config is given
    try:
        return AutoConfig.from_pretrained(part.name, revision=part.revision)
    except (OSError, ValueError) as error:
        raise PlanError(
            f"{field}: the configuration of {part.name} is not in fusion/plan/base_models.yaml and cannot be read from "
            f"there: {str(error).splitlines()[0]}"
        ) from error


def _vocabulary(folder: Path, template: str) -> int:
    """Tokens of a tokenizer with the template's control tokens, the two vision tokens not counted."""
    try:
        known = load_tokenizer(str(folder)).get_vocab()
    except DataError as error:
        raise PlanError(f"base.tokenizer: {error}") from error
    missing = [token for token in TEMPLATES[template].control_tokens if token not in known]
    return len(known) - _VISION_TOKENS + len(missing)
