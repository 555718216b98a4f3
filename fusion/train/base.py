"""The checkpoint that stage 1 starts from: base LLM, base vision tower, new projectors and interaction layers."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig, SiglipVisionConfig

from fusion.data.store.folders import output_folder
from fusion.errors import FusionError
from fusion.model.checkpoints import LANGUAGE_TYPES, build_from_base, save_checkpoint
from fusion.model.from_settings import architecture
from fusion.quiet import quiet_libraries
from fusion.settings import Base, BasePart, Settings

_EXPECTED = {
    "language": ("llm", "a Llama- or Phi-3-type language model"),
    "vision": ("tower", "a SigLIP vision tower of fixed resolution"),
    "tokenizer": ("tokenizer", "a fast tokenizer"),
}
_PLACE = "the name of a repository of the Hub, or a folder with config.json and safetensors"


class BaseModelError(FusionError):
    """A base model cannot be found or is of another kind, or the base models do not fit together."""


def build_base(settings: Settings, variant: str, root: Path = Path()) -> None:
    """Writes checkpoints/<variant>/base.

    Raises `BaseModelError` naming the setting of a base model that is not there, is of another kind, or does not fit.
    """
    quiet_libraries()
    chosen = settings.variant(variant)
    base = chosen.base
    for field, part in (("llm", base.llm), ("tower", base.tower)):
        if part.revision is not None and (part.name is None or Path(part.name).is_dir()):
            raise BaseModelError(
                f"variants.{variant}.base.{field}.revision: {part.revision} is of no repository: "
                f"{part.name or 'a model made from a configuration'} has no revisions; take it out, or name a "
                "repository of the Hub"
            )
    try:
        model, processor = build_from_base(
            _part(base.llm, None),
            _part(base.tower, "siglip_vision_model"),
            root / base.tokenizer if base.tokenizer else None,
            template=chosen.template,
            seed=settings.seed(variant),
            revisions=(base.llm.revision, base.tower.revision),
            **architecture(chosen.model),
        )
    except (OSError, ValueError) as error:
        raise BaseModelError(_told(variant, base, str(error))) from error
    model.config.fusion_stage = "base"
    with output_folder(root / "checkpoints" / variant / "base") as folder:
        save_checkpoint(model, processor, folder)


def _told(variant: str, base: Base, text: str) -> str:
    """What is wrong, with the setting in front; `text` begins with the argument of `build_from_base` it is about."""
    argument, _, fault = text.partition(": ")
    field, kind = _EXPECTED.get(argument, ("", ""))
    if not field:
        return f"variants.{variant}.base: {text}"
    part = getattr(base, field)
    name = part.name if isinstance(part, BasePart) else part
    revision = f" at {part.revision}" if isinstance(part, BasePart) and part.revision else ""
    given = f"`{name}`{revision}" if name else "the configuration there"
    expected = f"{kind}: {_PLACE}" if name else kind
    return f"variants.{variant}.base.{field}: {given} is not what is expected here, {expected}. {fault}"


def _part(part: BasePart, default_type: str | None) -> str | PreTrainedConfig:
    if part.name is not None:
        return part.name
    fields = dict(part.config or {})
    if default_type == "siglip_vision_model":
        kind = fields.get("model_type", default_type)
        if kind != default_type:
            raise ValueError(f"vision: {kind} is not {default_type}")
        return SiglipVisionConfig(**fields)
    # The families' default ids lie outside a small vocabulary; the template's own ids stand in our configuration.
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    kind = fields.pop("model_type")
    if kind not in LANGUAGE_TYPES:
        raise ValueError(f"language: {kind} is not one of {', '.join(LANGUAGE_TYPES)}")
    return AutoConfig.for_model(kind, **(ids | fields))
