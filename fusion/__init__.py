"""FUSION vision-language models: data, training, evaluation, lineage and publishing.

Once `fusion` is imported, the Auto classes and pipelines of the Transformers library know FUSION models. The import
itself loads none of the model's libraries (every stage does it): see `fusion.registration`.
`from fusion import FusionForConditionalGeneration, FusionProcessor, FusionConfig` does.
"""

from typing import Any

from fusion.registration import register_when_imported

_PUBLIC = ("FusionConfig", "FusionForConditionalGeneration", "FusionProcessor")


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from fusion.model import auto

    return getattr(auto, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])


register_when_imported()
