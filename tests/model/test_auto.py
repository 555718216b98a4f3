"""The Transformers library's Auto classes and pipelines, and the processor in their shape."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, BatchFeature, pipeline

from fusion import FusionConfig, FusionForConditionalGeneration, FusionProcessor
from fusion.model.checkpoints import save_checkpoint
from fusion.model.export import export_checkpoint
from tests.model.tiny import WORDS, picture, png, shared, talk

FAMILIES = ["phi_3", "llama_3"]
texts = st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=6).map(" ".join)


def ask(text: str, image: Any = None) -> list[dict[str, Any]]:
    places = [] if image is None else [{"type": "image", "image": image}]
    return [{"role": "user", "content": [*places, {"type": "text", "text": text}]}]


def test_a_plain_import_loads_nothing_and_names_load_the_model() -> None:
    code = (
        "import sys, fusion; heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules); assert not heavy, heavy\n"
        "assert 'FusionProcessor' in dir(fusion) and not hasattr(fusion, 'Nothing')"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("layout", ["fusion", "published"])
@pytest.mark.parametrize("family", FAMILIES)
def test_auto_classes_take_both_layouts(family: str, layout: str, tmp_path: Path) -> None:
    model, processor = shared(family)
    save_checkpoint(model, processor, tmp_path / "own")
    export_checkpoint(tmp_path / "own", tmp_path / "out", layout=layout)
    assert isinstance(AutoConfig.from_pretrained(tmp_path / "out"), FusionConfig)
    again = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", dtype=torch.float32, device_map="cpu")
    reader = AutoProcessor.from_pretrained(tmp_path / "out")
    assert type(again) is FusionForConditionalGeneration and type(reader) is FusionProcessor
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())
    messages = ask("what colour", picture(1))
    left, right = (each.apply_chat_template(messages, tokenize=True, return_dict=True) for each in (processor, reader))
    assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    assert family in repr(reader)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(
    talks=st.lists(st.tuples(st.lists(texts, min_size=1, max_size=5), st.booleans()), min_size=1, max_size=3),
    side=st.sampled_from(["left", "right", None]),
)
def test_tensors_are_those_of_the_published_format(
    family: str, talks: list[tuple[list[str], bool]], side: str | None
) -> None:
    _, processor = shared(family)
    conversations, samples = [], []
    for parts, seen in talks:
        messages: list[dict[str, Any]] = [
            {"role": ("user", "assistant")[index % 2], "content": part} for index, part in enumerate(parts)
        ]
        image = picture(2) if seen else None
        messages[0] = ask(parts[0], image)[0]
        conversations.append(messages)
        plain = talk(("<image>" if seen else "") + parts[0], *parts[1:])
        encode = processor.encode_prompt if len(parts) % 2 else processor.encode
        samples.append(encode(plain, image))
    features = processor(conversations, padding_side=side)
    again = processor.apply_chat_template(conversations, tokenize=True, return_dict=True, padding_side=side)
    assert isinstance(features, BatchFeature)
    assert features.keys() == again.keys() and all(torch.equal(features[key], again[key]) for key in features)
    if side is None:
        side = "right" if all(len(parts) % 2 == 0 for parts, _ in talks) else "left"
    batch = processor.collate(samples)
    assert features.keys() - {"labels"} == batch.keys() - {"labels"} | {"attention_mask"}
    mask = features["attention_mask"].bool()
    width = mask.shape[1]
    assert mask.sum(1).tolist() == features["lengths"].tolist() == batch["lengths"].tolist()
    assert bool(mask[:, -1 if side == "left" else 0].all())
    for row, sample in enumerate(samples):
        assert features["input_ids"][row][mask[row]].tolist() == sample.input_ids.tolist()
        assert (features["input_ids"][row][~mask[row]] == processor.pad_token_id).all()
        ends = features["question_ends"][row]
        shift = width - len(sample.input_ids) if side == "left" else 0
        assert (ends[ends >= 0] - shift).tolist() == sample.question_ends.tolist()
        labels = features.get("labels")
        if labels is None:
            assert (sample.labels == -100).all()
        else:
            assert labels[row][mask[row]].tolist() == sample.labels.tolist() and (labels[row][~mask[row]] == -100).all()
    for key in ("instruct_ids", "image_index", "pixels", "lengths"):
        assert torch.equal(features[key], batch[key])


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=25, deadline=None)
@given(parts=st.lists(texts, min_size=1, max_size=6), seen=st.booleans())
def test_a_rendered_prompt_means_its_messages(family: str, parts: list[str], seen: bool) -> None:
    _, processor = shared(family)
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[index % 2], "content": part} for index, part in enumerate(parts)
    ]
    image = picture(3) if seen else None
    messages[0] = ask(parts[0], image)[0]
    prompt = processor.apply_chat_template(messages)
    turns = processor.template.parse(prompt)
    assert turns is not None and processor.template.render(turns) == prompt
    left = processor(messages)
    for text in (prompt, f"{processor.tokenizer.bos_token}{prompt}"):
        right = processor(text=text, images=image)
        assert left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
    if len(parts) % 2:
        bare = processor.apply_chat_template(messages, add_generation_prompt=False)
        assert bare + processor.template.assistant_start == prompt
    assert processor.apply_chat_template([messages, messages]) == [prompt, prompt]


def test_pictures_may_come_in_many_ways(tmp_path: Path) -> None:
    _, processor = shared("phi_3")
    image = picture(4)
    path = tmp_path / "picture.png"
    path.write_bytes(png(image))
    array = np.asarray(image)
    expected = processor.encode_prompt(talk("<image>what"), image).pixels
    for source in (image, png(image), array, str(path), path):
        for features in (
            processor("<image>what", source),
            processor(["<image> what"], [source]),
            processor(messages=ask("what", source)),
            processor([{"role": "user", "content": [{"type": "text", "text": "what"}, {"type": "image"}]}], source),
        ):
            assert np.array_equal(features["pixels"][0].numpy(), expected)
    coded = base64.b64encode(png(image)).decode()
    for item in (
        {"type": "image", "base64": coded},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{coded}"}},
        {"type": "image", "path": str(path)},
        {"type": "image", "url": str(path)},
    ):
        content = [item, {"type": "text", "text": "what"}]
        features = processor([{"role": "user", "content": content}])
        assert np.array_equal(features["pixels"][0].numpy(), expected)


def test_pictures_of_a_batch_belong_to_their_texts() -> None:
    _, processor = shared("llama_3")
    one, two = picture(5), picture(6)
    features = processor(["<image>what", "how many", "<image>is it"], [one, None, [two]])
    assert features["image_index"].tolist() == [0, -1, 1]
    for row, image in ((0, one), (1, two)):
        assert np.array_equal(
            features["pixels"][row].numpy(), processor.encode_prompt(talk("<image>what"), image).pixels
        )
    with pytest.raises(ValueError, match=r"^images: 1 for 2 texts"):
        processor(["<image>what", "<image>how"], [one])


def test_ids_with_markers_are_decoded() -> None:
    _, processor = shared("phi_3")
    messages = ask("what colour", picture(1))
    prompt = processor.apply_chat_template(messages)
    ids = processor(messages)["input_ids"]
    shown = processor.decode(ids[0])
    assert shown.count("<image>") == shown.count("<latent_image>") == 1
    assert shown.count("<vision_start>") == prompt.count("<vision_start>")
    new = torch.cat([ids, torch.tensor([[processor.tokenizer.convert_tokens_to_ids("red"), processor.turn_end_id]])], 1)
    asked, answered = processor.post_process_image_text_to_text(ids), processor.post_process_image_text_to_text(new)
    assert answered[0].startswith(asked[0]) and answered[0].removeprefix(asked[0]).strip() == "red"
    assert not any("<" in text for text in answered)
    assert processor.batch_decode(new.tolist(), skip_special_tokens=True) == answered


@pytest.mark.parametrize("family", FAMILIES)
def test_the_pipeline_answers(family: str, tmp_path: Path) -> None:
    model, processor = shared(family)
    save_checkpoint(model, processor, tmp_path)
    pipe = pipeline("image-text-to-text", model=str(tmp_path), device="cpu", dtype=torch.float32)
    (ids,) = model.generate_answers(processor.collate([processor.encode_prompt(talk("<image>what"), picture(1))]), 4)
    (expected,) = processor.decode_answers([ids])
    (given,) = pipe(text=ask("what", picture(1)), max_new_tokens=4)
    assert given["generated_text"][-1]["role"] == "assistant"
    assert given["generated_text"][-1]["content"].strip() == expected
    (short,) = pipe(picture(1), text="<image>what", max_new_tokens=4, return_full_text=False)
    assert short["generated_text"].strip() == expected


@pytest.mark.parametrize(
    "imports",
    [
        "import fusion; import fusion.model.template; import transformers",
        "import transformers; import fusion",
        "import fusion.model.checkpoints; import transformers",
    ],
)
def test_importing_fusion_is_enough(imports: str, tmp_path: Path) -> None:
    model, processor = shared("phi_3")
    save_checkpoint(model, processor, tmp_path / "model")
    model_is_known = "transformers.AutoModelForImageTextToText.from_pretrained('model')"
    code = f"{imports}; {model_is_known}; print(type(transformers.AutoProcessor.from_pretrained('model')).__name__)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "FusionProcessor", result.stderr
