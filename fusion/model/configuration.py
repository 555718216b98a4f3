"""Configuration of a FUSION model: one class for both LLM families and both vision towers."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from transformers import AutoConfig, PreTrainedConfig, SiglipVisionConfig

from fusion.model.published import is_published, published_types, read_published
from fusion.model.template import TEMPLATES

TEXT_MASKS = ("checkpoint", "paper")


def _as_config(value: dict[str, Any] | PreTrainedConfig | None, field: str, default: str) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    if value is None:
        return AutoConfig.for_model(default)
    if not isinstance(value, dict):
        raise ValueError(f"{field}: expected a dict or a PreTrainedConfig, got {type(value).__name__}")
    fields = dict(value)
    return AutoConfig.for_model(fields.pop("model_type", default), **fields)


def is_square(number: int) -> bool:
    """Whether a positive integer is the square of another."""
    return number > 0 and math.isqrt(number) ** 2 == number


class FusionConfig(PreTrainedConfig):
    """What the architecture of one model is made of.

    Source: design headings "Text-guided unified vision encoding", "Dual-supervised semantic mapping loss" and
    "Context-aware recursive alignment decoding". The names of the interaction layers' fields are the published ones.

    Fields:
        text_config: any Llama- or Phi3-type configuration (width D), or its fields as a dict.
        vision_config: a SigLIP vision configuration (width d), or its fields; its last layer is never built.
        template: conversation template, "phi_3" or "llama_3".
        query_len: latent tokens a question, one of which is drawn for a training step; all squares.
        num_latents: fixed number of latent tokens a question in evaluation and generation; a square.
        image_token_grid: in generation, the projected image features are resized bilinearly to so many tokens a side
            (FUSION-L: 16 or 12); None = one token a patch.
        window_size: side w of the w x w context window of one latent token.
        num_of_vision_sampler_layers, start_of_vision_sampler_layers, stride_of_vision_sampler_layers: interaction
            layers follow the decoder layers start, start + stride, ...
        interaction_heads: attention heads of an interaction layer.
        text_mask: what text does in the early half of the tower. "checkpoint": text rows average all keys;
            "paper": patches do not see text.
        mapping_loss_weight: factor of the two mapping losses.
        text_guided: False = the tower sees no text and there is no text mapping loss (ablation).
        use_interaction: False = latents keep their pooled initial value (ablation).
        early_layers: first layer index of the late half; None = (tower layers - 1) // 2.
        level_size: hidden states in each of the two means of the multi-level features; None = the same rule.
        count_text_padding: text padding of a batch counts as keys of the early text rows, which makes a result depend
            on its neighbours. Only for comparison with recorded batches.
        pad_token_id, end_of_turn_token_id, vision_start_token_id, vision_end_token_id: ids of the tokenizer; None = not
            known without it.
        fusion_stage: what this checkpoint is: "base", or the training stage that made it; None = it does not say. Only
            the rules for continuing a checkpoint read it.
        published: the config.json of a released checkpoint that this was translated from, None for others. Only
            `published.write_published` reads it.

    `from_pretrained` and `from_dict` take both layouts, ours and the released one (see `published.py`).

    Raises:
        ValueError: a field is out of range; the message starts with the field's name.
    """

    model_type = "fusion"
    sub_configs: ClassVar[dict[str, Any]] = {"text_config": AutoConfig, "vision_config": SiglipVisionConfig}

    text_config: Any = None
    vision_config: Any = None
    template: str = "phi_3"
    query_len: list[int] | tuple[int, ...] = (4, 16, 36, 64, 144)
    num_latents: int = 16
    image_token_grid: int | None = None
    window_size: int = 3
    num_of_vision_sampler_layers: int = 10
    start_of_vision_sampler_layers: int = 0
    stride_of_vision_sampler_layers: int = 3
    interaction_heads: int = 16
    text_mask: Literal["checkpoint", "paper"] = "checkpoint"
    mapping_loss_weight: float = 0.1
    text_guided: bool = True
    use_interaction: bool = True
    early_layers: int = None  # type: ignore[assignment]  # filled in from the depth
    level_size: int = None  # type: ignore[assignment]
    count_text_padding: bool = False
    pad_token_id: int | None = 0
    end_of_turn_token_id: int | None = None
    vision_start_token_id: int | None = None
    vision_end_token_id: int | None = None
    tie_word_embeddings: bool = False
    fusion_stage: str | None = None
    published: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.text_config = _as_config(self.text_config, "text_config", "llama")
        self.vision_config = _as_config(self.vision_config, "vision_config", "siglip_vision_model")
        # One dtype for the whole model: a dtype left in a part's own file would build that part differently.
        self.text_config.dtype = None
        self.vision_config.dtype = None
        self.tie_word_embeddings = bool(self.text_config.tie_word_embeddings)
        super().__post_init__(**kwargs)
        self.query_len = list(self.query_len)
        tower_layers = self.vision_config.num_hidden_layers
        if self.early_layers is None:
            self.early_layers = (tower_layers - 1) // 2
        if self.level_size is None:
            self.level_size = (tower_layers - 1) // 2
        self._check()

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Fields of a folder's or repository's config.json, translated if it is a released one; unused arguments."""
        fields, unused = super().get_config_dict(*args, **kwargs)
        return (read_published(fields) if is_published(fields) else fields), unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """A FusionConfig from fields in either layout; see `PreTrainedConfig.from_dict`."""
        if is_published(config_dict):
            config_dict = read_published(config_dict)
        return super(FusionConfig, FusionConfig).from_dict(config_dict, **kwargs)

    @property
    def hidden_size(self) -> int:
        """Width D of the language model."""
        return int(self.text_config.hidden_size)

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding and output matrices."""
        return int(self.text_config.vocab_size)

    @property
    def image_size(self) -> int:
        """Side S of a tile and of the thumbnail, in pixels."""
        return int(self.vision_config.image_size)

    @property
    def patch_grid(self) -> int:
        """Patches along one side, g."""
        return self.image_size // int(self.vision_config.patch_size)

    @property
    def num_patches(self) -> int:
        """Patches of a tile, V = g * g: the image tokens of a sample with an image."""
        return self.patch_grid**2

    @property
    def used_tower_layers(self) -> int:
        """Layers of the tower that are built and run (all but the last)."""
        return int(self.vision_config.num_hidden_layers) - 1

    @property
    def interaction_layers(self) -> tuple[int, ...]:
        """Indices of the decoder layers that an interaction layer follows."""
        if not self.use_interaction:
            return ()
        start, stride = self.start_of_vision_sampler_layers, self.stride_of_vision_sampler_layers
        return tuple(start + stride * i for i in range(self.num_of_vision_sampler_layers))

    def _check(self) -> None:
        text, vision = self.text_config, self.vision_config

        def need(condition: bool, field: str, message: str) -> None:
            if not condition:
                raise ValueError(f"{field}: {message}")

        need(self.template in TEMPLATES, "template", f"{self.template!r} is not one of {sorted(TEMPLATES)}")
        need(self.text_mask in TEXT_MASKS, "text_mask", f"{self.text_mask!r} is not one of {list(TEXT_MASKS)}")
        need(len(self.query_len) > 0, "query_len", "must not be empty")
        for length in self.query_len:
            need(isinstance(length, int) and is_square(length), "query_len", f"{length!r} is not a square")
        need(is_square(self.num_latents), "num_latents", f"{self.num_latents!r} is not a square")
        grid = self.image_token_grid
        need(grid is None or grid >= 1, "image_token_grid", f"{grid} is below 1")
        need(self.window_size >= 1, "window_size", f"{self.window_size} is below 1")
        need(self.mapping_loss_weight >= 0, "mapping_loss_weight", f"{self.mapping_loss_weight} is negative")
        for name in ("image_size", "patch_size"):
            value = getattr(vision, name)
            need(isinstance(value, int), f"vision_config.{name}", f"{value!r} is not one integer")
        need(self.patch_grid >= 1, "vision_config.patch_size", "is larger than image_size")
        need(vision.num_hidden_layers >= 3, "vision_config.num_hidden_layers", "must be at least 3")
        heads = vision.num_attention_heads
        need(vision.hidden_size % heads == 0, "vision_config.num_attention_heads", f"{heads} does not divide the width")
        used = self.used_tower_layers
        need(0 <= self.early_layers <= used, "early_layers", f"{self.early_layers} is outside 0..{used}")
        need(
            self.level_size >= 1 and 2 * self.level_size <= used + 1,
            "level_size",
            f"two means of {self.level_size} hidden states do not fit into the {used + 1} there are",
        )
        if self.use_interaction:
            need(self.stride_of_vision_sampler_layers >= 1, "stride_of_vision_sampler_layers", "is below 1")
            need(self.start_of_vision_sampler_layers >= 0, "start_of_vision_sampler_layers", "is negative")
            need(self.num_of_vision_sampler_layers >= 1, "num_of_vision_sampler_layers", "is below 1")
            last, depth = self.interaction_layers[-1], text.num_hidden_layers
            need(last < depth, "num_of_vision_sampler_layers", f"layer {last} is past the {depth} decoder layers")
            divides = self.hidden_size % self.interaction_heads == 0
            need(divides, "interaction_heads", f"{self.interaction_heads} does not divide the width {self.hidden_size}")
        for name in ("pad_token_id", "end_of_turn_token_id", "vision_start_token_id", "vision_end_token_id"):
            value = getattr(self, name)
            need(value is None or 0 <= value < self.vocab_size, name, f"{value} is outside 0..{self.vocab_size - 1}")


def _register() -> None:
    """Make AutoConfig know our `model_type` and the released ones, all of which give a FusionConfig."""
    AutoConfig.register(FusionConfig.model_type, FusionConfig, exist_ok=True)
    for model_type in published_types():
        alias = type(f"Released{FusionConfig.__name__}", (FusionConfig,), {"model_type": model_type})
        AutoConfig.register(model_type, alias, exist_ok=True)


_register()
