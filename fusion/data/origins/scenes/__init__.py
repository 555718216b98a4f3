"""Rendered scenes of our own, with ground truth: colour, count, spatial relation, place, visible text, simple sums.

The counterpart of the published synthetic alignment data, at a size that a model of a million parameters can learn:
64 x 64 pixels, large shapes, few words, balanced answers. A picture follows from (seed, number) alone.
"""

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Literal

from PIL import Image
from pydantic import Field

from fusion.data.ingest.origin import BenchmarkOrigin, EmbeddedOrigin, Question, Record
from fusion.data.origins.scenes.forms import FORMS, ask
from fusion.data.origins.scenes.maths import maths
from fusion.data.origins.scenes.picture import Picture
from fusion.data.origins.scenes.places import place
from fusion.data.origins.scenes.shapes import colour, count, spatial
from fusion.data.origins.scenes.words import text

_MAKERS = {"colour": colour, "count": count, "spatial": spatial, "scene": place, "text": text, "maths": maths}
_KINDS = ("open", "yes_no", "choice")
Category = Literal["colour", "count", "spatial", "scene", "text", "maths"]
Form = Literal["short_caption", "long_caption", "short_answer", "yes_no", "choice", "conversation"]


class Scenes(EmbeddedOrigin, BenchmarkOrigin):
    """`pictures` of the `categories` by turns, asked about in the `forms` by turns with at most `turns` questions."""

    kind: ClassVar[str] = "scenes"
    pictures: int = Field(ge=1)
    categories: list[Category] = Field(min_length=1)
    forms: list[Form] = Field(default=["short_answer"], min_length=1)
    turns: int = Field(default=3, ge=1)
    seed: int = Field(ge=0)

    def records(self, root: Path) -> Iterator[Record]:
        for number, (category, picture, generator) in enumerate(self._pictures()):
            form = self.forms[number // len(self.categories) % len(self.forms)]
            turns = FORMS[form](picture, self.turns, generator)
            messages = [(role, value) for turn in turns for role, value in zip(("human", "gpt"), turn, strict=True)]
            messages[0] = ("human", f"<image>\n{messages[0][1]}")
            yield Record(
                id=f"{category}-{number:06d}",
                image=f"{category}/{number:06d}.png",
                picture=_png(picture.image),
                conversations=[{"from": role, "value": value} for role, value in messages],
            )

    def questions(self, root: Path) -> Iterator[Question]:
        for number, (category, picture, generator) in enumerate(self._pictures()):
            facts = generator.sample(picture.facts, len(picture.facts))
            data = _png(picture.image)
            for index, kind in enumerate(_KINDS):
                question, answer = ask(facts[index % len(facts)], kind, generator)
                yield Question(
                    id=f"{category}-{number:06d}-{kind}",
                    image=f"{category}/{number:06d}.png",
                    picture=data if index == 0 else None,
                    question=question,
                    answer=answer,
                    kind=kind,
                    category=category,
                )

    def _pictures(self) -> Iterator[tuple[str, Picture, random.Random]]:
        for number in range(self.pictures):
            category = self.categories[number % len(self.categories)]
            generator = random.Random(f"{self.seed}:{category}:{number}")
            yield category, _MAKERS[category](generator), generator


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
