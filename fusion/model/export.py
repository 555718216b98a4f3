"""`fusion export`: a checkpoint in the released layout or in ours.

Both have the same tensors under the same names, so weight files are copied byte by byte and only config.json is written
anew. The same checkpoint gives the same bytes, and there and back again gives the first configuration.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

from fusion.model.configuration import FusionConfig
from fusion.model.loading import Shapes, check_tensors
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.published import write_published

LAYOUTS = ("published", "fusion")
# Weights, tokenizer, generation defaults. Code, pickles and everything else stay behind.
_COPIED = ("*.safetensors", "*.json", "*.jinja", "*.model", "merges.txt", "README.md", "LICENSE*")


def export_checkpoint(source: str | Path, target: str | Path, *, layout: str) -> None:
    """Write a checkpoint to a new folder.

    Args:
        source: a folder, or a repository of the Hub, in either layout, with safetensors.
        target: must not exist or be empty; made whole or not at all.
        layout: "published" or "fusion".

    Raises:
        ValueError: unknown layout, a target with something in it, or a checkpoint that is incomplete or not of FUSION;
            the message names what is wrong.
        OSError: the repository cannot be found.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout: {layout!r} is not one of {', '.join(LAYOUTS)}")
    folder, place = Path(source), Path(target)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise ValueError(f"{place}: there is something already; name a new folder")
    if not folder.is_dir():
        folder = Path(snapshot_download(str(source), allow_patterns=[*_COPIED]))
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: has no config.json, so it is no checkpoint")
    config = FusionConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = FusionForConditionalGeneration(config)
    expected: Shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = read_shapes(folder)
    if config.tie_word_embeddings:
        found.setdefault("lm_head.weight", expected["lm_head.weight"])
    check_tensors(str(source), expected, found)

    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}-") as aside:
        made = Path(aside) / "made"
        made.mkdir()
        for path in sorted({path for pattern in _COPIED for path in folder.glob(pattern)}):
            shutil.copyfile(path, made / path.name)
        (made / "config.json").unlink()
        if layout == "published":
            fields = json.dumps(write_published(config), indent=2, sort_keys=True) + "\n"
            (made / "config.json").write_text(fields, encoding="utf-8")
        else:
            config.architectures = [FusionForConditionalGeneration.__name__]
            config.save_pretrained(made)
        if place.exists():
            place.rmdir()
        made.rename(place)


def read_shapes(folder: Path) -> Shapes:
    """Names and shapes of all tensors in the safetensors files of a folder, from their headers alone.

    Raises:
        ValueError: there are no such files, or one that the index names is missing.
    """
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if not (folder / "model.safetensors").is_file():
        if not index.is_file():
            raise ValueError(f"{folder}: has no model.safetensors; other formats are not exported")
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    shapes: Shapes = {}
    for name in sorted(names):
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{folder}: {name}, which the index names, is not there")
        with safe_open(folder / name, framework="pt") as file:
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return shapes
