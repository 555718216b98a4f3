"""The tensors that a forward pass keeps for the backward pass, one line a tensor.

A tensor that the code makes again in the backward pass instead of keeping it stands in RECOMPUTED: nothing else has to
change then. A test compares the sums, part by part, with what the code really keeps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fusion.model.configuration import FusionConfig
from fusion.plan.flops import decoder_widths
from fusion.plan.load import Load

RECOMPUTED = frozenset({
    "tower.norm1",  # fusion/model/recompute.py: norms, GELUs and gated products are made from what is kept anyway
    "tower.norm2",
    "tower.activated",
    "decoder.activated",
    "decoder.product",
    "head.logits",  # made in chunks, and again in the backward pass
})  # fmt: skip
"""Names of tensors that are made again in the backward pass."""

_INDEX = 8
_FLOAT32 = 4


@dataclass(frozen=True)
class Kept:
    """A kept tensor: `name` is part.what; `elements` of `size` bytes; `layers`: there is one in so many layers."""

    name: str
    elements: float
    size: int
    layers: int = 1

    @property
    def part(self) -> str:
        """The part of the model."""
        return self.name.split(".")[0]

    @property
    def layer_bytes(self) -> float:
        """Bytes in one layer; 0 for what is made again."""
        return 0.0 if self.name in RECOMPUTED else self.elements * self.size

    @property
    def bytes(self) -> float:
        """Bytes in all layers."""
        return self.layer_bytes * self.layers


@dataclass(frozen=True)
class Rows:
    """Tokens of the tower: of the rows without text, and of those with (their patches and their text)."""

    plain: float
    patches: float
    text: float

    @classmethod
    def of(cls, config: FusionConfig, load: Load) -> Rows:
        """Of a micro-batch."""
        v = config.num_patches
        if not config.text_guided:
            return cls((5 * load.pictures + load.blank) * v, 0.0, 0.0)
        return cls((4 * load.pictures + load.blank) * v, load.pictures * v, load.instruct)

    @property
    def guided(self) -> float:
        """Of the rows with text."""
        return self.patches + self.text

    @property
    def all(self) -> float:
        """Of both."""
        return self.plain + self.guided


def tower_layers(config: FusionConfig, load: Load, size: int, fused: bool) -> Iterator[Kept]:
    """Of the tower's layers; the first line is a layer's input. Both streams keep the same, but for what joins them."""
    vision, rows, layers = config.vision_config, Rows.of(config, load), config.used_tower_layers
    d, early = vision.hidden_size, config.early_layers if config.text_guided else layers
    uniform = config.text_mask == "checkpoint"
    yield Kept("tower.input", rows.all * d, size, layers)
    yield Kept("tower.norm1", rows.all * d, size, layers)
    yield Kept("tower.queries", (rows.plain + rows.patches) * d, size, layers)
    yield Kept("tower.keys_values", 2 * rows.all * d, size, layers)
    yield Kept("tower.attended", (rows.plain + rows.patches) * d, size, layers)
    yield Kept("tower.text_attended", 2 * rows.text * d, size, layers - early if uniform else layers)
    # Patches and text come out apart and go into one product: joined, they are a second copy.
    joined = rows.patches + (load.pictures if uniform else rows.text)
    yield Kept("tower.joined", joined * d if config.text_guided else 0.0, size, early)
    yield Kept("tower.joined_late", rows.guided * d, size, layers - early)
    yield Kept("tower.scores_sums", rows.all * vision.num_attention_heads, _FLOAT32, layers)
    yield Kept("tower.middle", rows.all * d, size, layers)
    yield Kept("tower.norm2", rows.all * d, size, layers)
    yield Kept("tower.expanded", rows.all * vision.intermediate_size, size, layers)
    yield Kept("tower.activated", rows.all * vision.intermediate_size, size, layers)
    yield Kept("tower.statistics", 4 * rows.all, _FLOAT32, layers)


def decoder_layers(config: FusionConfig, load: Load, size: int, fused: bool) -> Iterator[Kept]:
    """Of the decoder's layers; the first line is a layer's input."""
    text, layers, n = config.text_config, config.text_config.num_hidden_layers, load.positions
    queries, keys = decoder_widths(config)
    width, middle = config.hidden_size, text.intermediate_size
    # A norm computes in float32: below that precision it keeps a copy of its input instead of the input.
    yield Kept("decoder.input", n * width, _FLOAT32, layers)
    yield Kept("decoder.middle", n * width, _FLOAT32, layers)
    yield Kept("decoder.normalised", 2 * n * width, size, layers)
    yield Kept("decoder.norms", 2 * n * width, size, layers)
    yield Kept("decoder.queries", n * queries, size, layers)
    yield Kept("decoder.keys", n * keys, size, layers)
    # The values of one fused product are a view that keeps the whole product.
    fused_product = text.model_type == "phi3"
    yield Kept("decoder.values", n * (queries + 2 * keys if fused_product else keys), size, layers)
    yield Kept("decoder.attended", n * queries, size, layers)
    yield Kept("decoder.joined", 0.0 if fused or load.samples <= 1 else n * queries, size, layers)
    yield Kept("decoder.scores_sums", n * text.num_attention_heads, _FLOAT32, layers)
    yield Kept("decoder.gate_up", 2 * n * middle, size, layers)
    yield Kept("decoder.activated", n * middle, size, layers)
    yield Kept("decoder.product", n * middle, size, layers)
    yield Kept("decoder.statistics", 2 * n, _FLOAT32, layers)


def interaction_layers(config: FusionConfig, load: Load, size: int, fused: bool) -> Iterator[Kept]:
    """Of the interaction layers: of latents and of windows. What they read of the hidden states is a copy."""
    layers, width, window = len(config.interaction_layers), config.hidden_size, config.window_size**2
    latents, windows = load.questions * load.q, (load.pictures + load.blank) * load.q * window
    places = load.places * load.q
    yield Kept("interaction.question", load.questions * width, size, layers)
    yield Kept("interaction.latents", latents * width, size, layers)
    yield Kept("interaction.pair", latents * width, size, layers)
    yield Kept("interaction.pair_norm", latents * width, size, layers)
    yield Kept("interaction.query", places * width, size, layers)
    yield Kept("interaction.window", windows * width, size, layers)
    yield Kept("interaction.window_norms", 2 * windows * width, size, layers)
    yield Kept("interaction.keys_values", 2 * windows * width, size, layers)
    yield Kept("interaction.attended", places * width, size, layers)
    yield Kept("interaction.chosen", latents * width if load.places > load.questions else 0.0, size, layers)
    yield Kept("interaction.seen", latents * width, size, layers)
    yield Kept("interaction.aligned", latents * width, size, layers)
    yield Kept("interaction.expanded", latents * width, size, layers)
    yield Kept("interaction.activated", latents * width, size, layers)
    yield Kept("interaction.statistics", 4 * (latents + windows) + places * config.interaction_heads, _FLOAT32, layers)


def around(config: FusionConfig, load: Load, size: int) -> Iterator[Kept]:
    """Of all that stands between and around the layers."""
    vision, rows, width, d = (
        config.vision_config,
        Rows.of(config, load),
        config.hidden_size,
        config.vision_config.hidden_size,
    )
    images, v = load.pictures + load.blank, config.num_patches
    thumbnails = images * v
    yield Kept("tower.pixels", (rows.plain + rows.patches) * vision.num_channels * vision.patch_size**2, size)
    yield Kept("tower.thumbnails", rows.patches * d, size)  # hidden state 0, which the mapping loss looks at
    yield Kept("projectors.features", rows.all * 3 * d, size)
    yield Kept("projectors.to_language", 2 * rows.all * width, size)
    yield Kept("projectors.image_features", (rows.guided if config.text_guided else rows.all) * width, size)
    # A view of the instruction's embeddings keeps those of all text.
    yield Kept("projectors.embeddings", (load.text + load.instruct) * width if config.text_guided else 0.0, size)
    yield Kept("projectors.to_tower", 2 * (thumbnails + rows.text) * d, size)
    # Cosines are taken in float32: both sides at length one, and below that precision a copy of each.
    sides = 2 * (thumbnails * d + rows.text * width)
    yield Kept("projectors.cosines", sides, _FLOAT32)
    yield Kept("projectors.compared", sides if size < _FLOAT32 else thumbnails * d, _FLOAT32)
    yield Kept("interaction.map", images * 4 * v * width, size)
    windows = images * load.q * config.window_size**2 * width if config.interaction_layers else 0.0
    yield Kept("interaction.pooled_at", images * load.q * width + windows, _INDEX)
    yield Kept("interaction.windows", windows, size)
    yield Kept(
        "decoder.rotary", 2 * load.positions * decoder_widths(config)[0] / config.text_config.num_attention_heads, size
    )
    yield Kept("head.hidden", load.supervised * width, _FLOAT32)
    yield Kept("head.normalised", 2 * load.supervised * width, size)
    yield Kept("head.logits", load.supervised * config.vocab_size, size)
