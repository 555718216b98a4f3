"""Pictures that are mostly text (the detector of PP-OCR, in the package rapidocr)."""

import logging
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from fusion.data.curate.blocks.scores import PictureScore, not_installed


class TextShare(PictureScore):
    """`max_text_share`: the largest share of a picture's area that lines of text may cover. Nothing is read."""

    name: ClassVar[str] = "text-share"
    setting: ClassVar[str] = "max_text_share"
    reason: ClassVar[str] = "mostly-text"

    def load(self) -> Any:
        try:
            from rapidocr import RapidOCR
        except ModuleNotFoundError:
            raise not_installed(self.name, "rapidocr") from None
        engine = RapidOCR()
        # It tells of every picture that has no text.
        logging.getLogger("RapidOCR").setLevel(logging.ERROR)
        return engine

    def score(self, model: Any, picture: Image.Image) -> float:
        pixels = np.ascontiguousarray(np.asarray(picture)[:, :, ::-1])
        boxes = model(pixels, use_det=True, use_cls=False, use_rec=False).boxes
        if boxes is None:
            return 0.0
        return min(1.0, sum(_area(box) for box in boxes) / (picture.width * picture.height))


def _area(corners: Any) -> float:
    """Of a quadrilateral [4, 2], in pixels."""
    x, y = np.asarray(corners, dtype=np.float64).T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
