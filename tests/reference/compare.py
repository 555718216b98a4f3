"""Comparison of one recorded case with this implementation."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from fusion.model.batch import IGNORED, EncodedSample, FusionBatch, collate
from fusion.model.configuration import FusionConfig
from fusion.model.images import decode_image, normalize_pixels, static_hd
from fusion.model.modeling import FusionForConditionalGeneration

# Absolute tolerances in float32, except the gradients' (relative).
TOLERANCES = {
    "pixels": 2e-6,
    "embeds": 2e-5,
    "context": 2e-5,
    "loss": 1e-5,
    "logits": 2e-5,
    "grads": 1e-4,
}
# A gradient norm below this share of the largest is the rounding of a zero (key biases cannot change a softmax).
NEGLIGIBLE = 1e-7
QUESTION_END = -400
# What every case holds; "generated" and the pictures of samples that have one come on top.
QUANTITIES = (
    "input_ids", "labels", "attention_mask", "instructs", "pixel_mean", "pixel_std", "pixel_probe", "inputs_embeds",
    "inputs_embeds_sum", "merged_labels", "global_ctx", "instruct_pos", "vision_pos", "logits_tail",
)  # fmt: skip


@dataclass
class Result:
    """Largest difference of every quantity, and what failed outright."""

    case: str
    differences: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether everything agrees within tolerance."""
        # Written so that a difference that is no number fails.
        within = all(value <= TOLERANCES[name] for name, value in self.differences.items())
        return within and self.differences.keys() == TOLERANCES.keys() and not self.failures

    def line(self) -> str:
        """One line for people."""
        shown = "  ".join(f"{name} {value:.1e}" for name, value in self.differences.items())
        failed = f"  [{'; '.join(self.failures)}]" if self.failures else ""
        return f"{'ok  ' if self.passed else 'FAIL'} {self.case}: {shown}{failed}"


def case_config(record: dict[str, Any]) -> FusionConfig:
    """The configuration of a recorded case, which is in the released layout with the tower beside it."""
    config = FusionConfig.from_dict({**record["config"], "mm_vision_config": record["tower"]})
    config.num_latents = config.query_len[0]
    config.count_text_padding = True
    return config


def case_samples(record: dict[str, Any], io: dict[str, Tensor], size: int) -> list[EncodedSample]:
    """The recorded batch as encoded samples; a sample without an image marker is text-only."""
    samples = []
    for index in range(io["input_ids"].shape[0]):
        length = int(io["attention_mask"][index].sum())
        ids = io["input_ids"][index, :length].numpy()
        labels = io["labels"][index, :length].numpy()
        image = None
        if (ids == -200).any():
            picture = Image.fromarray(io[f"image_{index}"].numpy())
            image = static_hd(decode_image(picture), size)
        samples.append(
            EncodedSample(
                input_ids=ids,
                labels=np.where(labels == QUESTION_END, IGNORED, labels),
                question_ends=np.flatnonzero(labels == QUESTION_END),
                instruct_ids=io["instructs"][index].numpy(),
                pixels=image,
            )
        )
    return samples


def compare_case(prefix: Path) -> Result:
    """Compare the case whose files start with `prefix`."""
    result = Result(prefix.name)
    record = json.loads(prefix.with_name(prefix.name + ".json").read_text())
    io = load_file(prefix.with_name(prefix.name + ".io.safetensors"))
    lacking = [name for name in QUANTITIES if name not in io]
    if lacking:
        raise ValueError(f"{prefix.name}.io.safetensors lacks {', '.join(lacking)}")
    config = case_config(record)
    model = FusionForConditionalGeneration(config).eval()
    # The weights of a case may be spread over several files: CASE.weights*.safetensors.
    weights: dict[str, Tensor] = {}
    for path in sorted(prefix.parent.glob(prefix.name + ".weights*.safetensors")):
        weights |= load_file(path)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    result.failures += [f"missing {name}" for name in missing if name not in tied]
    result.failures += [f"unexpected {name}" for name in unexpected]
    samples = case_samples(record, io, config.image_size)
    batch = collate(samples, config.pad_token_id or 0, config.image_size)
    _compare_pixels(batch, io, result)
    _compare_forward(model, batch, io, record, result)
    if "generated" in io and all(sample.pixels is not None for sample in samples):
        _compare_generation(model, samples[min(1, len(samples) - 1)], io, result)
    return result


def _furthest(left: Tensor, right: Tensor) -> float:
    if left.shape != right.shape:
        raise ValueError(f"shape {list(left.shape)} here, {list(right.shape)} recorded")
    return float((left.float() - right.float()).abs().max()) if left.numel() else 0.0


def _same(left: Tensor, right: Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left, right)


def _compare_pixels(batch: FusionBatch, io: dict[str, Tensor], result: Result) -> None:
    pixels = normalize_pixels(batch["pixels"])
    shown = torch.zeros(batch.size, *pixels.shape[1:])
    for row, index in enumerate(batch["image_index"].tolist()):
        if index >= 0:
            shown[row] = pixels[index]
    result.differences["pixels"] = max(
        _furthest(shown.mean((3, 4)), io["pixel_mean"]),
        _furthest(shown.std((3, 4)), io["pixel_std"]),
        _furthest(shown[..., ::64, ::64], io["pixel_probe"]),
    )


def _compare_forward(
    model: FusionForConditionalGeneration,
    batch: FusionBatch,
    io: dict[str, Tensor],
    record: dict[str, Any],
    result: Result,
) -> None:
    layout = model.layout(batch)
    for name, positions in (("instruct_pos", layout.question_positions), ("vision_pos", layout.latent_positions)):
        recorded = io[name] + torch.arange(batch.size)[:, None] * layout.length
        if not _same(recorded[io[name] >= 0], positions.flatten()):
            result.failures.append(f"{name} differs")
    targets = torch.full((batch.size * layout.length,), IGNORED)
    targets[layout.supervised_positions + 1] = layout.supervised_targets
    if not _same(targets.view(batch.size, -1), io["merged_labels"].long()):
        result.failures.append("merged_labels differ")

    with torch.no_grad():
        inputs = model.model.encode(batch["pixels"], layout)
    embeds = inputs.embeddings
    result.differences["embeds"] = max(
        _furthest(embeds[:, : io["inputs_embeds"].shape[1]], io["inputs_embeds"]),
        # A sum over D features carries the rounding of D terms.
        _furthest(embeds.sum(-1), io["inputs_embeds_sum"]) / embeds.shape[-1] ** 0.5,
    )
    assert inputs.context is not None
    side, window = int(io["global_ctx"].shape[1] ** 0.5) // model.config.window_size, model.config.window_size
    context = inputs.context.view(-1, side, side, window, window, embeds.shape[-1]).transpose(2, 3)
    picture = batch["image_index"].clone()
    picture[picture < 0] = len(batch["pixels"])
    result.differences["context"] = _furthest(context.flatten(3, 4).flatten(1, 3)[picture], io["global_ctx"])

    output = model(batch, return_logits=True)
    assert output.loss is not None and output.logits is not None
    tail = io["logits_tail"]
    # Padding is no part of the result: its recorded logits depend on how attention treats padded queries.
    real = (torch.arange(layout.length) < layout.lengths.unsqueeze(1))[:, -tail.shape[1] :]
    result.differences["loss"] = abs(float(output.loss.detach()) - record["loss"])
    result.differences["logits"] = _furthest(output.logits.detach()[:, -tail.shape[1] :][real], tail[real])
    output.loss.backward()
    recorded_norms: dict[str, float] = record["grad_norms"]
    floor = NEGLIGIBLE * max(recorded_norms.values())
    worst = 0.0
    for name, parameter in model.named_parameters():
        norm = 0.0 if parameter.grad is None else float(parameter.grad.norm())
        recorded_norm = recorded_norms.get(name, 0.0)
        if not math.isfinite(norm):
            result.failures.append(f"gradient of {name} is {norm}")
        if max(norm, recorded_norm) > floor:
            worst = max(worst, abs(norm - recorded_norm) / max(norm, recorded_norm))
    result.differences["grads"] = worst


def _compare_generation(
    model: FusionForConditionalGeneration, sample: EncodedSample, io: dict[str, Tensor], result: Result
) -> None:
    end = int(sample.question_ends[0]) + 1
    prompt = EncodedSample(
        input_ids=sample.input_ids[:end],
        labels=sample.labels[:end],
        question_ends=sample.question_ends[:1],
        instruct_ids=sample.instruct_ids[sample.instruct_ids != 0],
        pixels=sample.pixels,
    )
    batch = collate([prompt], 0, model.config.image_size)
    expected = io["generated"][0].tolist()
    (answer,) = model.generate_answers(batch, len(expected), stop_ids=())
    if answer != expected:
        result.failures.append(f"generated {answer}, recorded {expected}")
