"""The pictures that a source's rows name: found and decoded as sharding will do it, and near misses by name."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from PIL import Image

from fusion.data.checkup.rows import Tally
from fusion.data.checkup.told import FAIL, NOTE, OK, Finding, rejects_finding
from fusion.data.errors import DataError
from fusion.data.ingest.origin import Layout
from fusion.data.ingest.record import Reject
from fusion.data.sharding.prepare import _BYTES_PER_PIXEL
from fusion.data.store.containers import find_containers, is_archive, told_deeper
from fusion.data.store.images import ImageError, ImageStore
from fusion.data.store.pixels import measure

_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")
_SAME = {"jpeg": "jpg", "tif": "tiff"}
_SHOWN = 8
_GUESSED = 5
"""Missing pictures for which other names are tried: a folder of millions takes seconds to list."""


def look_at_pictures(layout: Layout, tally: Tally, max_pixels: int) -> Iterator[Finding]:
    """Decodes the pictures that `tally` has drawn; yields counts by reason with what may be meant instead."""
    chosen = [*tally.first.items(), *tally.drawn]
    if not chosen:
        return
    try:
        containers = find_containers(layout.folder, layout.images)
        if not containers:
            yield _no_folder(layout)
            return
        store = ImageStore(containers, max_pixels * _BYTES_PER_PIXEL)
    except DataError as error:
        yield FAIL, str(error), _siblings(layout)
        return
    Image.MAX_IMAGE_PIXELS = None  # the limit of params.yaml holds instead, as in sharding
    try:
        yield from _findings(store, containers, chosen, max_pixels, layout.folder)
    except DataError as error:
        yield FAIL, str(error), ""
    finally:
        store.close()


def _findings(
    store: ImageStore, containers: list[Path], chosen: list[tuple[str, int]], max_pixels: int, base: Path
) -> Iterator[Finding]:
    reasons: dict[str, tuple[int, str, str, str]] = {}
    odd: tuple[int, str] | None = None
    good = 0
    for image, row in chosen:
        try:
            found = measure(store.read(image), max_pixels)
        except ImageError as error:
            found = Reject(error.reason, str(error))
        if isinstance(found, Reject):
            count, where, evidence, hint = reasons.get(found.reason, (0, f"row {row}", found.evidence, ""))
            if not hint and found.reason == "missing-image" and count < _GUESSED:
                hint = _meant(store, containers, image, base)
            reasons[found.reason] = (count + 1, where, evidence, hint)
            continue
        good += 1
        ending = PurePosixPath(image).suffix[1:].lower()
        if ending and _SAME.get(ending, ending) != found.extension:
            odd = (odd[0] + 1 if odd else 1, odd[1] if odd else f"{image} is {found.extension.upper()}")
    if good:
        yield OK, f"{good:,} of the {len(chosen):,} pictures that were looked at can be read and decoded", ""
    for reason, (count, where, evidence, hint) in sorted(reasons.items(), key=lambda item: -item[1][0]):
        if reason == "missing-image" and not hint:
            hint = told_deeper(containers, containers, base)
        yield rejects_finding(reason, count, len(chosen), where, evidence, hint)
    if odd is not None:
        yield NOTE, f"{odd[0]:,} pictures have another format than their name says, for example {odd[1]}", ""


def _no_folder(layout: Layout) -> Finding:
    return FAIL, f"the rows name pictures, but there is no image folder {layout.folder / 'images'}", _siblings(layout)


def _siblings(layout: Layout) -> str:
    names = sorted(path.name for path in layout.folder.iterdir() if path.is_dir() or is_archive(path.name))
    listed = ", ".join(names[:_SHOWN]) or "no folder and no archive"
    return f"{layout.folder} holds {listed}: name image folders or archives as `images: [...]` in data/catalog/"


def _meant(store: ImageStore, containers: list[Path], image: str, base: Path) -> str:
    """What the name of a missing picture may mean, or an empty text; the data set lies in `base`."""
    path = PurePosixPath(image)
    for folder in containers:
        above = folder.parent
        if folder.name == path.parts[0] and above.is_relative_to(base) and (above / path).is_file():
            written = above.relative_to(base).as_posix()
            return f"`{path}` starts with the image folder itself: write `images: [{written}]` in data/catalog/"
    guesses = {
        "the name as it stands in a web address": unquote(image),
        "spaces around the name": image.strip(),
        "another Unicode form of the name": unicodedata.normalize("NFC", image),
        "another Unicode form of it": unicodedata.normalize("NFD", image),
        "a first folder too many": "/".join(path.parts[1:]),
        "the name without its folders": path.name,
        "small letters": image.lower(),
    }
    guesses |= {f"another ending ({ending})": str(path.with_suffix(ending)) for ending in _ENDINGS if path.suffix}
    guesses |= {f"no ending in the table ({ending})": f"{image}{ending}" for ending in _ENDINGS}
    for folder in containers:
        if folder.is_dir() and (found := _any_case(folder, path)) is not None:
            guesses["capital or small letters"] = found
    for why, name in guesses.items():
        if name and name != image and _is_there(store, name):
            return f"`{name}` is there ({why}): mend the names, all of them if they share the fault"
    return ""


def _is_there(store: ImageStore, name: str) -> bool:
    try:
        store.read(name)
    except ImageError as error:
        return error.reason not in ("missing-image", "not-a-file", "link-outside")
    return True


def _any_case(folder: Path, path: PurePosixPath) -> str | None:
    """The path as it is written on disk when only capital letters differ."""
    made: list[str] = []
    for part in path.parts:
        try:
            names = [item.name for item in folder.iterdir()]
        except OSError:
            return None
        same = next((name for name in names if name.casefold() == part.casefold()), None)
        if same is None:
            return None
        made.append(same)
        folder = folder / same
    return "/".join(made)
