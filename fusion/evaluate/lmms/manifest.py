"""What lmms-eval's entry point `lmms_eval.models` finds: the model `fusion`, for `--model fusion` and for Python."""

from typing import Any


def manifest() -> Any:
    """The registration, in lmms-eval's own type."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="fusion", simple_class_path="fusion.evaluate.lmms.model.FusionLmms")
