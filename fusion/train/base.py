"""The checkpoint that stage 1 starts from: base LLM, base vision tower, new projectors and interaction layers."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig, SiglipVisionConfig

from fusion.data.store.folders import output_folder
from fusion.model.checkpoints import build_from_base, save_checkpoint
from fusion.model.from_settings import architecture
from fusion.quiet import quiet_libraries
from fusion.settings import BasePart, Settings


def build_base(settings: Settings, variant: str, root: Path = Path()) -> None:
    """Writes checkpoints/<variant>/base; raises ValueError naming the field where base models do not fit together."""
    quiet_libraries()
    chosen = settings.variant(variant)
    model, processor = build_from_base(
        _part(chosen.base.llm, None),
        _part(chosen.base.tower, "siglip_vision_model"),
        root / chosen.base.tokenizer if chosen.base.tokenizer else None,
        template=chosen.template,
        seed=settings.seed(variant),
        **architecture(chosen.model),
    )
    with output_folder(root / "checkpoints" / variant / "base") as folder:
        save_checkpoint(model, processor, folder)


def _part(part: BasePart, default_type: str | None) -> str | PreTrainedConfig:
    if part.name is not None:
        return part.name
    fields = dict(part.config or {})
    if default_type == "siglip_vision_model":
        return SiglipVisionConfig(**fields)
    # The families' default ids lie outside a small vocabulary; the template's own ids stand in our configuration.
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    return AutoConfig.for_model(fields.pop("model_type"), **(ids | fields))
