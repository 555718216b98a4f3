"""Captions that do not fit their picture, by a model that embeds both (CLIP, SigLIP): any checkpoint of that form.

No package carries such a model, so the profile names one: a folder, or an id of the Hub.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from fusion.data.curate.blocks.scores import ScoreBlock, answers, pictures, with_pictures
from fusion.data.curate.samples import AT, Samples
from fusion.data.errors import DataError


class ImageText(ScoreBlock):
    """`image_text`: `model`, and `min`, the smallest cosine of the embeddings of picture and answers that is kept."""

    name: ClassVar[str] = "image-text"
    setting: ClassVar[str] = "image_text"
    reason: ClassVar[str] = "caption-does-not-fit"

    def dropped(self, samples: Samples, wanted: dict[str, Any]) -> Iterator[tuple[int, str]]:
        for name in sorted({value.model for value in wanted.values()}):
            sources = {source: value.min for source, value in wanted.items() if value.model == name}
            model = _Embedder(name)
            frame = with_pictures(samples, list(sources))
            seen = {sha: model.picture(picture) for sha, picture in pictures(samples, frame, self.name)}
            shown = dict(frame.select(AT, "image_sha256").iter_rows())
            for at, source, text in answers(samples, list(sources)):
                if at in shown:
                    similarity = float(model.text(text) @ seen[shown[at]])
                    if similarity < sources[source]:
                        yield at, f"similarity {similarity:.3f}: {text[:120]}"


class _Embedder:
    """Embeddings of length 1, float32."""

    def __init__(self, name: str) -> None:
        from transformers import AutoModel, AutoTokenizer

        try:
            self._model = AutoModel.from_pretrained(name).eval()
            self._tokenizer = AutoTokenizer.from_pretrained(name)
            self._side = self._model.config.vision_config.image_size
            self._longest = self._model.config.text_config.max_position_embeddings
        except (OSError, ValueError, AttributeError) as error:
            told = f"params.yaml: {name} is no model that embeds pictures and texts (scores.image_text.model)"
            raise DataError(f"{told}: {str(error)[:300]}") from error
        clip = self._model.config.model_type.startswith("clip")
        self._mean = (0.48145466, 0.4578275, 0.40821073) if clip else (0.5, 0.5, 0.5)
        self._deviation = (0.26862954, 0.26130258, 0.27577711) if clip else (0.5, 0.5, 0.5)

    def picture(self, picture: Image.Image) -> Any:
        import torch

        small = picture.resize((self._side, self._side), Image.Resampling.BICUBIC)
        pixels = (np.asarray(small, dtype=np.float32) / 255 - self._mean) / self._deviation
        tensor = torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32))[None]
        with torch.inference_mode():
            return _unit(self._model.get_image_features(pixel_values=tensor))

    def text(self, text: str) -> Any:
        import torch

        # SigLIP was trained with texts padded to their full length, CLIP without.
        padding = "max_length" if self._model.config.model_type.startswith("siglip") else False
        ids = self._tokenizer(
            text, padding=padding, truncation=True, max_length=self._longest, return_tensors="pt"
        ).input_ids
        with torch.inference_mode():
            return _unit(self._model.get_text_features(input_ids=ids))


def _unit(output: Any) -> Any:
    vector = getattr(output, "pooler_output", output)[0].float().numpy()
    return vector / np.linalg.norm(vector)
