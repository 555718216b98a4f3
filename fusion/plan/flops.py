"""FLOPs of a forward pass by part, in closed form, and what training makes of them.

A multiplication and an addition are two. Counted are matrix products and attention; causal attention counts the pairs
that it sees, half of all. What a backward pass costs follows from what is trained: twice the forward pass where inputs
and weights get gradients.

Source: design headings "Text-guided unified vision encoding" and "Context-aware recursive alignment decoding".
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from fusion.model.configuration import FusionConfig
from fusion.plan.architecture import TRAINED_AS
from fusion.plan.load import Load

PARTS = ("tower", "projectors", "decoder", "interaction", "head")
LAYERED = ("tower", "decoder", "interaction")
"""Parts whose forward pass runs again in the backward pass under activation checkpointing."""


@dataclass(frozen=True)
class Work:
    """FLOPs of one part in one forward pass.

    Attributes:
        products: matrix products with weights.
        attention: its two products.
        first: products with weights whose input needs no gradient (pixels).
        last: those of `products` that end a layer: nothing is kept after them, so they are not computed again.
    """

    products: float = 0.0
    attention: float = 0.0
    first: float = 0.0
    last: float = 0.0

    @property
    def forward(self) -> float:
        """All of it."""
        return self.products + self.attention + self.first


def forward_work(config: FusionConfig, load: Load) -> dict[str, Work]:
    """The work of every part for this load."""
    return {
        "tower": _tower(config, load),
        "projectors": _projectors(config, load),
        "decoder": _decoder(config, load),
        "interaction": _interaction(config, load),
        "head": Work(2.0 * load.supervised * config.hidden_size * config.vocab_size),
    }


def model_flops(work: dict[str, Work], trained_parts: Collection[str]) -> dict[str, float]:
    """FLOPs that a forward and backward pass needs by part: what utilisation of the model's FLOPs is counted with."""
    needed = {}
    for part, own in work.items():
        weights = TRAINED_AS[part] in trained_parts
        # Gradients pass through frozen parts too, to what is trained below them; pixels get none.
        needed[part] = own.forward + 2 * own.attention + (2 if weights else 1) * own.products + weights * own.first
    return needed


def executed_flops(work: dict[str, Work], trained_parts: Collection[str], checkpointing: bool) -> dict[str, float]:
    """FLOPs that the device executes: scores of attention and logits are made again in the backward pass, and under
    activation checkpointing the layers of tower, decoder and interaction too."""
    done = model_flops(work, trained_parts)
    for part, own in work.items():
        done[part] += own.attention / 2
        if part == "head":
            done[part] += own.forward
        if checkpointing and part in LAYERED:
            done[part] += own.products - own.last + own.attention
    return done


def _tower(config: FusionConfig, load: Load) -> Work:
    vision, patches, guided = config.vision_config, config.num_patches, config.text_guided
    width, layers = vision.hidden_size, config.used_tower_layers
    early = config.early_layers if guided else 0
    plain = (4 * load.pictures + load.blank + (0 if guided else load.pictures)) * patches
    shown, text = (load.pictures * patches, load.instruct) if guided else (0.0, 0.0)
    tokens = plain + shown + text
    per_token = 4 * width**2 + 2 * width * vision.intermediate_size
    products = layers * tokens * per_token
    # A row of V patches and T tokens: (V + T)^2 pairs; early text takes no part, or is read by patches alone.
    all_pairs = load.pictures * patches**2 + 2 * patches * load.instruct + load.instruct_squares
    if not guided:
        pairs = 0.0
    elif config.text_mask == "checkpoint":
        pairs = early * (all_pairs - patches * load.instruct - load.instruct_squares) + (layers - early) * all_pairs
        # Text asks nothing there: no query and one output a row.
        products -= early * (2 * load.instruct - load.pictures) * width**2
    else:
        pairs = early * (all_pairs - patches * load.instruct) + (layers - early) * all_pairs
    pairs += layers * plain * patches
    pixels = (plain + shown) * vision.num_channels * vision.patch_size**2 * width
    return Work(2.0 * products, 4.0 * width * pairs, 2.0 * pixels)


def _projectors(config: FusionConfig, load: Load) -> Work:
    width, tower_width, patches = config.hidden_size, config.vision_config.hidden_size, config.num_patches
    text = load.instruct if config.text_guided else 0.0
    to_language = (5 * load.pictures + load.blank) * patches + text
    to_tower = (load.pictures + load.blank) * patches + text
    products = to_language * (3 * tower_width * width + width**2) + to_tower * (width * tower_width + tower_width**2)
    return Work(2.0 * products)


def decoder_widths(config: FusionConfig) -> tuple[int, int]:
    """Widths of all heads of the queries, and of the keys."""
    text = config.text_config
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return head * text.num_attention_heads, head * (text.num_key_value_heads or text.num_attention_heads)


def _decoder(config: FusionConfig, load: Load) -> Work:
    text, width = config.text_config, config.hidden_size
    queries, keys = decoder_widths(config)
    per_token = 2 * width * queries + 2 * width * keys + 3 * width * text.intermediate_size
    layers = text.num_hidden_layers
    last = 2.0 * layers * load.positions * width * text.intermediate_size
    return Work(2.0 * layers * load.positions * per_token, 4.0 * layers * queries * load.pairs, last=last)


def _interaction(config: FusionConfig, load: Load) -> Work:
    layers, square = len(config.interaction_layers), config.hidden_size**2
    windows = (load.pictures + load.blank) * load.q * config.window_size**2
    latents = load.questions * load.q
    # Windows meet three matrices; latents five (their half of the pair's, query, output, two of the update).
    products = square * (load.questions + 5 * latents + 3 * windows)
    attended = 4.0 * config.hidden_size * load.places * load.q * config.window_size**2
    return Work(2.0 * layers * products, layers * attended, last=2.0 * layers * square * latents)
