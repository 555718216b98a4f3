"""FUSION vision-language models: data, training, evaluation, lineage and publishing.

`from fusion import FusionForConditionalGeneration, FusionProcessor, FusionConfig` loads the model's libraries and makes
the Transformers library know FUSION (`fusion.model.auto`). A plain `import fusion` loads nothing: every stage does it.
"""

from typing import Any

_PUBLIC = ("FusionConfig", "FusionForConditionalGeneration", "FusionProcessor")


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fusion.model import auto

    return getattr(auto, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
