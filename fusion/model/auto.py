"""The Transformers library's Auto classes and pipelines learn of FUSION; `import fusion` sees to it.

    import fusion
    from transformers import pipeline
    answer = pipeline("image-text-to-text", model="FOLDER")

AutoConfig, AutoProcessor and AutoModelForImageTextToText then take our folders and released checkpoints as they are; no
remote code is involved.
"""

from transformers import AutoModelForImageTextToText, AutoProcessor

from fusion.model.configuration import FusionConfig
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.processing import FusionProcessor

__all__ = ["FusionConfig", "FusionForConditionalGeneration", "FusionProcessor"]

# AutoConfig learns of the configuration in configuration.py.
AutoModelForImageTextToText.register(FusionConfig, FusionForConditionalGeneration, exist_ok=True)
AutoProcessor.register(FusionConfig, FusionProcessor, exist_ok=True)
