"""Writes cases in the recorded format from this implementation, to try the comparison on cases that nobody has seen.

They say nothing about the reference implementation: only that the tool reads every form a case can take, and notices
when a number is another one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from fusion.model.batch import EncodedSample, collate
from fusion.model.images import decode_image, normalize_pixels, static_hd
from fusion.model.modeling import FusionForConditionalGeneration
from tests.reference.compare import IGNORED, QUESTION_END, case_config

SIZE = 128


@dataclass(frozen=True)
class Shape:
    """What a case is like: questions of each sample, and which samples have a picture."""

    family: str = "phi"
    seed: int = 1
    query_len: int = 4
    window_size: int = 3
    decoder_layers: int = 2
    interaction: tuple[int, int, int] = (2, 0, 1)  # number, start, stride
    tower_layers: int = 5
    patch_size: int = 16
    turns: tuple[int, ...] = (2, 1)
    seen: tuple[bool, ...] = (True, True)
    tied: bool = False


def record(shape: Shape, prefix: Path) -> None:
    """Write CASE.json, CASE.weights.safetensors and CASE.io.safetensors."""
    torch.manual_seed(shape.seed)
    rng = np.random.default_rng(shape.seed)
    number, start, stride = shape.interaction
    fields: dict[str, Any] = {
        "model_type": f"fusion_{shape.family}", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": shape.decoder_layers, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rope_theta": 10000.0,
        "rope_scaling": None, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "mm_hidden_size": 16,
        "query_len": str(shape.query_len), "window_size": shape.window_size, "num_of_vision_sampler_layers": number,
        "start_of_vision_sampler_layers": start, "stride_of_vision_sampler_layers": stride,
        "tie_word_embeddings": shape.tied,
    }  # fmt: skip
    tower = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": shape.tower_layers, "num_attention_heads": 2,
        "image_size": SIZE, "patch_size": shape.patch_size,
    }  # fmt: skip
    config = case_config({"config": dict(fields), "tower": tower})
    model = FusionForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    pictures = [rng.integers(0, 256, (40 + 8 * row, 60, 3), dtype=np.uint8) for row in range(len(shape.turns))]
    samples = [
        _sample(rng, turns, pictures[row] if seen else None)
        for row, (turns, seen) in enumerate(zip(shape.turns, shape.seen, strict=True))
    ]
    batch = collate(samples, 0, SIZE)
    layout = model.layout(batch)
    with torch.no_grad():
        inputs = model.model.encode(batch["pixels"], layout)
    output = model(batch, return_logits=True)
    assert output.loss is not None and output.logits is not None and inputs.context is not None
    output.loss.backward()
    norms = {name: float(p.grad.norm()) for name, p in model.named_parameters() if p.grad is not None}

    shown = torch.zeros(batch.size, *batch["pixels"].shape[1:])
    for row, index in enumerate(batch["image_index"].tolist()):
        if index >= 0:
            shown[row] = normalize_pixels(batch["pixels"])[index]
    starts = torch.arange(batch.size)[:, None] * layout.length
    questions = [len(sample.question_ends) for sample in samples]
    merged = torch.full((batch.size * layout.length,), IGNORED)
    merged[layout.supervised_positions + 1] = layout.supervised_targets
    labels = torch.full_like(batch["labels"], IGNORED)
    for row, sample in enumerate(samples):
        labels[row, : len(sample.labels)] = torch.from_numpy(sample.labels)
        labels[row, sample.question_ends] = QUESTION_END
    side, window, width = int(shape.query_len**0.5), shape.window_size, config.hidden_size
    context = (
        inputs.context.view(-1, side, side, window, window, width)
        .transpose(2, 3)
        .reshape(len(inputs.context), -1, width)
    )
    picture = batch["image_index"].clone()
    picture[picture < 0] = len(batch["pixels"])
    io: dict[str, Tensor] = {
        "input_ids": batch["input_ids"],
        "labels": labels,
        "attention_mask": (torch.arange(labels.shape[1]) < batch["lengths"][:, None]).long(),
        "instructs": batch["instruct_ids"],
        "pixel_mean": shown.mean((3, 4)),
        "pixel_std": shown.std((3, 4)),
        "pixel_probe": shown[..., ::64, ::64],
        "inputs_embeds": inputs.embeddings[:, :40],
        "inputs_embeds_sum": inputs.embeddings.sum(-1),
        "merged_labels": merged.view(batch.size, -1),
        "global_ctx": context[picture],
        "instruct_pos": _rows(layout.question_positions, questions, starts),
        "vision_pos": _rows(layout.latent_positions.flatten(), [n * shape.query_len for n in questions], starts),
        "logits_tail": output.logits.detach()[:, -40:],
    }
    if all(shape.seen):
        io["generated"] = torch.tensor([_answer(model, samples[min(1, len(samples) - 1)])])
    io |= {f"image_{row}": torch.from_numpy(picture) for row, picture in enumerate(pictures)}
    weights = model.state_dict()
    if shape.tied:
        del weights["lm_head.weight"]
    save_file({name: tensor.contiguous() for name, tensor in io.items()}, f"{prefix}.io.safetensors")
    save_file(weights, f"{prefix}.weights.safetensors")
    facts = {"config": fields, "tower": tower, "loss": float(output.loss.detach()), "grad_norms": norms}
    Path(f"{prefix}.json").write_text(json.dumps(facts))


def _sample(rng: np.random.Generator, turns: int, image: np.ndarray[Any, Any] | None) -> EncodedSample:
    """Random ids with the markers where a template would put them."""

    def words(least: int) -> list[int]:
        return [int(word) for word in rng.integers(3, 64, int(rng.integers(least, least + 5)))]

    ids: list[int] = [1]
    labels, ends, instruct = [IGNORED], [], [1]
    for turn in range(turns):
        question, answer = words(2), words(1)
        head = [5, -300, 6, *([5, -200, 6] if image is not None and turn == 0 else []), *question, 7, 8]
        ids += [*head, *answer]
        labels += [IGNORED] * len(head) + answer
        ends.append(len(ids) - len(answer) - 1)
        instruct += question
    arrays = [
        np.asarray(values, dtype=np.int64) for values in (ids, labels, ends, instruct if image is not None else [0])
    ]
    pixels = None if image is None else static_hd(decode_image(Image.fromarray(image)), SIZE)
    return EncodedSample(arrays[0], arrays[1], arrays[2], arrays[3], pixels)


def _rows(flat: Tensor, counts: list[int], starts: Tensor) -> Tensor:
    rows = torch.full((len(counts), max(counts)), -1)
    for row, part in enumerate(flat.split(counts)):
        rows[row, : counts[row]] = part - starts[row]
    return rows


def _answer(model: FusionForConditionalGeneration, sample: EncodedSample) -> list[int]:
    end = int(sample.question_ends[0]) + 1
    prompt = EncodedSample(
        sample.input_ids[:end], sample.labels[:end], sample.question_ends[:1], sample.instruct_ids, sample.pixels
    )
    return model.generate_answers(collate([prompt], 0, SIZE), 5, stop_ids=())[0]
