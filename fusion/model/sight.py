"""What generation needs of pictures: features without the training's losses, kept for pictures that come again.

Source: design headings "Context-aware recursive alignment decoding" (tile features do not depend on the text) and
"Token budgets" (`image_token_grid`).
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from fusion.model.backbone import FusionModel
from fusion.model.interaction import pool_context, pool_latents, repeat_blank_tile, stitch_tiles
from fusion.model.layout import SequenceLayout


@dataclass(frozen=True)
class PooledTiles:
    """The tiles of one picture as the latents of a question use them; they do not depend on the question.

    Attributes:
        latents: initial values, [q, D].
        context: windows, [q, w * w, D]; None without interaction layers.
    """

    latents: Tensor
    context: Tensor | None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.latents.nbytes + (0 if self.context is None else self.context.nbytes)


class PictureCache:
    """Pooled tile features of the pictures seen last, for later turns, other chats and repeated pictures.

    An entry is found by the picture's pixels (sha256), the number of latents, and the weights of tower and projector:
    the model object with the version counter of each parameter, so that further training or loading makes entries
    unreachable, which then age out. May be shared by threads and by models.

    Args:
        max_bytes: what all entries may take; those used longest ago leave first. Entries stay on the model's device.
    """

    def __init__(self, max_bytes: int = 256 << 20) -> None:
        self.max_bytes = max_bytes
        self.hits = 0
        self.misses = 0
        self._entries: OrderedDict[Hashable, PooledTiles] = OrderedDict()
        self._models: WeakKeyDictionary[FusionModel, int] = WeakKeyDictionary()
        self._numbers = 0
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes that all entries take."""
        return self._bytes

    def keys(self, backbone: FusionModel, pixels: Tensor, has_blank: bool, num_latents: int) -> list[Hashable]:
        """One key a picture of uint8 [N, 5, 3, S, S], then one of the blank picture.

        The thumbnail counts too, though only the tiles are kept.
        """
        parts = [*backbone.vision_tower.parameters(), *backbone.mm_projector.parameters()]
        # Inference tensors have no version; nothing but inference mode can change them.
        weights = tuple((part.data_ptr(), 0 if part.is_inference() else part._version) for part in parts)
        with self._lock:
            if backbone not in self._models:
                self._numbers += 1
                self._models[backbone] = self._numbers
            model = self._models[backbone]
        identity = (model, hash(weights), backbone.config.window_size, num_latents)
        names = [hashlib.sha256(picture.numpy()).hexdigest() for picture in pixels.cpu()]
        return [(*identity, name) for name in [*names, *(["blank"] if has_blank else [])]]

    def find(self, key: Hashable) -> PooledTiles | None:
        """The entry, which now is the one used last."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self.misses += 1
            else:
                self.hits += 1
                self._entries.move_to_end(key)
            return entry

    def store(self, key: Hashable, entry: PooledTiles) -> None:
        """Add an entry and drop old ones. An entry larger than everything allowed is not kept."""
        with self._lock:
            if key in self._entries or entry.size > self.max_bytes:
                return
            self._entries[key] = entry
            self._bytes += entry.size
            while self._bytes > self.max_bytes:
                _, old = self._entries.popitem(last=False)
                self._bytes -= old.size


@dataclass(frozen=True)
class Sight:
    """What is shown to the decoder.

    Attributes:
        images: image tokens of each sample with a picture, [R, image tokens, D].
        tiles: of each picture, then of the blank picture when there is a text-only sample.
    """

    images: Tensor
    tiles: list[PooledTiles]


def look(
    backbone: FusionModel,
    pixels: Tensor,
    layout: SequenceLayout,
    num_latents: int,
    image_token_grid: int | None,
    pictures: PictureCache | None,
) -> Sight:
    """Encode the pictures of a batch of prompts.

    Args:
        backbone: the model.
        pixels: uint8 [N, 5, 3, S, S], on the model's device.
        layout: of the batch.
        num_latents: q.
        image_token_grid: side of the square of image tokens; None = one token a patch.
        pictures: where tile features are looked up and kept; None = nowhere.
    """
    tower, config, has_blank = backbone.vision_tower.layers, backbone.config, layout.num_blank > 0
    wanted = _Wanted(backbone, pixels, has_blank, num_latents, pictures)
    tiles, rows = backbone._embed_pictures(pixels, has_blank)
    tiles, blank = tiles.split([4 * len(pixels), int(has_blank)])
    tiles = tiles.unflatten(0, (len(pixels), 4))
    plain = torch.cat([tiles[wanted.tiled].flatten(0, 1), blank[: wanted.blank]])
    if layout.row_image is not None:
        rows = rows.index_select(0, layout.row_image)
    if config.text_guided and len(rows):
        text = backbone.aux_projector(backbone.embed_tokens(layout.instruct_ids))
        plain_levels, guided = tower(plain, torch.cat([rows.flatten(0, 1), text]), layout.guided)
        features = backbone.mm_projector(plain_levels)
        seen, _ = layout.guided.split(guided)
        images = backbone.mm_projector(seen).unflatten(0, rows.shape[:2])
    else:
        plain_levels, _ = tower(torch.cat([plain, rows]), None, None)
        features, images = backbone.mm_projector(plain_levels).split([len(plain), len(rows)])
    return Sight(resize_image_tokens(images, image_token_grid), wanted.filled(features))


def look_at_tiles(
    backbone: FusionModel, pixels: Tensor, num_latents: int, pictures: PictureCache | None
) -> PooledTiles:
    """The tiles of one picture, uint8 [1, 5, 3, S, S], or of the blank picture, [0, 5, 3, S, S]."""
    pixels = pixels.to(next(backbone.parameters()).device)
    wanted = _Wanted(backbone, pixels, len(pixels) == 0, num_latents, pictures)
    if wanted.tiled or wanted.blank:
        plain, _ = backbone._embed_pictures(pixels, len(pixels) == 0)
        levels, _ = backbone.vision_tower.layers(plain, None, None)
        return wanted.filled(backbone.mm_projector(levels))[0]
    return wanted.filled(None)[0]


class _Wanted:
    """Which pictures' tiles are not known yet.

    Attributes:
        tiled: indices of these pictures.
        blank: 1 if the blank picture is among them, else 0.
    """

    def __init__(
        self, backbone: FusionModel, pixels: Tensor, has_blank: bool, num_latents: int, pictures: PictureCache | None
    ) -> None:
        self._backbone = backbone
        self._num_latents = num_latents
        self._pictures = pictures
        self._keys: list[Hashable] = []
        count = len(pixels) + has_blank
        self._known: list[PooledTiles | None] = [None] * count
        if pictures is not None:
            self._keys = pictures.keys(backbone, pixels, has_blank, num_latents)
            self._known = [pictures.find(key) for key in self._keys]
        new = [index for index, entry in enumerate(self._known) if entry is None]
        self.tiled = [index for index in new if index < len(pixels)]
        self.blank = len(new) - len(self.tiled)

    def filled(self, features: Tensor | None) -> list[PooledTiles]:
        """Entries of all pictures, given the new ones' features: 4 rows a picture, then 1 of the blank one."""
        fresh: list[PooledTiles] = []
        if features is not None and len(features):
            tiles, blank = features.split([4 * len(self.tiled), self.blank])
            tiles = tiles.view(len(self.tiled), 4, *tiles.shape[1:])
            if self.blank:
                tiles = torch.cat([tiles, repeat_blank_tile(blank)])
            fresh = _pool(self._backbone, tiles, self._num_latents)
        waiting = iter(fresh)
        entries = []
        for index, entry in enumerate(self._known):
            if entry is None:
                entry = next(waiting)
                if self._pictures is not None:
                    self._pictures.store(self._keys[index], entry)
            entries.append(entry)
        return entries


def _pool(backbone: FusionModel, tiles: Tensor, num_latents: int) -> list[PooledTiles]:
    """[I, 4, V, D] -> I entries."""
    feature_map = stitch_tiles(tiles)
    latents = pool_latents(feature_map, num_latents)
    if not backbone.interaction_at:
        return [PooledTiles(one.clone(), None) for one in latents]
    context = pool_context(feature_map, num_latents, backbone.config.window_size)
    # Copies: a view would keep the whole batch in memory for as long as one picture is cached.
    return [PooledTiles(one.clone(), windows.clone()) for one, windows in zip(latents, context, strict=True)]


def resize_image_tokens(images: Tensor, grid: int | None) -> Tensor:
    """Projected image features [R, V, D] resized bilinearly to [R, grid * grid, D]; None = as they are."""
    side = round(images.shape[1] ** 0.5)
    if grid is None or grid == side or not len(images):
        return images
    square = images.transpose(1, 2).unflatten(2, (side, side))
    resized = F.interpolate(square.float(), size=(grid, grid), mode="bilinear", align_corners=False)
    return resized.to(images.dtype).flatten(2).transpose(1, 2)
