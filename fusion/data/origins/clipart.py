"""The clip art in data/samples/clipart/ as captions: short ones from the titles, long ones from all that is said.

Raw on purpose: useless titles, blank pictures and near duplicates are for curation to find.
"""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from fusion.data.errors import IngestError
from fusion.data.ingest.origin import EmbeddedOrigin, Record

_FOLDER = "data/samples/clipart"
_SHORT = ("what is this?", "give a short caption.", "what does the picture show?")
_LONG = (
    "describe the picture in detail.",
    "what can you say about this picture?",
    "describe the picture with its keywords.",
)


class Clipart(EmbeddedOrigin):
    """`captions`: short (the title) or long (title, description, keywords); `first`: that many pictures, null = all."""

    kind: ClassVar[str] = "clipart"
    input: ClassVar[str] = _FOLDER
    captions: Literal["short", "long"]
    first: int | None = None

    def records(self, root: Path) -> Iterator[Record]:
        entries: list[dict[str, Any]] = json.loads((root / _FOLDER / "captions.json").read_text(encoding="utf-8"))
        prompts = _SHORT if self.captions == "short" else _LONG
        with tarfile.open(root / _FOLDER / "images.tar") as pictures:
            for number, entry in enumerate(entries[: self.first]):
                file = pictures.extractfile(entry["path"])
                if file is None:
                    raise IngestError(f"{_FOLDER}/images.tar has no picture {entry['path']}")
                answer = str(entry["title"]) if self.captions == "short" else _long_caption(entry)
                yield Record(
                    id=Path(entry["path"]).stem,
                    image=entry["path"],
                    picture=file.read(),
                    conversations=[
                        {"from": "human", "value": f"<image>\n{prompts[number % len(prompts)]}"},
                        {"from": "gpt", "value": answer},
                    ],
                )


def _long_caption(entry: dict[str, Any]) -> str:
    sentences = [str(entry["title"]).strip().rstrip(".")]
    description = str(entry["description"]).strip().rstrip(".")
    if description and description.lower() != sentences[0].lower():
        sentences.append(description)
    if entry["keywords"]:
        sentences.append("keywords: " + ", ".join(entry["keywords"]))
    return ". ".join(sentences) + "."
