"""Writes an embedded origin out in the published layout: annotations.json and images.tar."""

import json
from pathlib import Path

from fusion.data.ingest.origin import EmbeddedOrigin, Layout
from fusion.data.store.tars import TarWriter

ANNOTATIONS = "annotations.json"
IMAGES = "images.tar"


def write_published_layout(origin: EmbeddedOrigin, folder: Path, root: Path) -> Layout:
    """Writes the records of `origin` into `folder` (one record a line of the array) and returns their layout."""
    pictures = False
    with (folder / ANNOTATIONS).open("w", encoding="utf-8") as annotations, TarWriter(folder / IMAGES) as images:
        annotations.write("[")
        separator = "\n"
        for record in origin.records(root):
            document: dict[str, object] = {"conversations": record.conversations, "id": record.id}
            if record.image is not None:
                document["image"] = record.image
            if record.picture is not None and record.image is not None:
                images.add(record.image, record.picture)
                pictures = True
            annotations.write(separator + json.dumps(document, ensure_ascii=False, sort_keys=True))
            separator = ",\n"
        annotations.write("\n]\n")
    if not pictures:
        (folder / IMAGES).unlink()
    return Layout(
        folder=folder, base={"kind": "written"}, annotations=ANNOTATIONS, images=(IMAGES,) if pictures else ()
    )
