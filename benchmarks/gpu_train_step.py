"""`python -m benchmarks.gpu_train_step`: tokens a second, use of the device's arithmetic, and peak memory of training
steps at the published models' shapes, with random weights in bfloat16.

As many decoder layers are built as fit beside weights, gradients and AdamW's state; the result says how many. FLOPs are
those of the model, counted on paper: recomputation under activation checkpointing is not among them. `--peak-tflops` is
the device's dense bfloat16 rate; without it the rate is measured on a large matrix product. `--device cpu --tiny` is a
trial of the program.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from typing import Any

import torch
from transformers.modeling_utils import local_torch_dtype

from benchmarks.cases import TINY, Case, Talk, seeded
from benchmarks.report import surroundings, write_result
from fusion.model.batch import FusionBatch
from fusion.model.head import has_liger
from fusion.model.layout import SequenceLayout
from fusion.model.modeling import FusionForConditionalGeneration

_PHI35 = {
    "vocab_size": 32013, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 4096,
}  # fmt: skip
_SO400M = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16,
    "image_size": 384, "patch_size": 14,
}  # fmt: skip
_GIANT = {
    "hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 40, "num_attention_heads": 16,
    "image_size": 384, "patch_size": 16,
}  # fmt: skip
# Of every four samples one has three turns and one has no picture.
_TALKS = (
    Talk(((40, 120), (30, 80), (30, 60))),
    Talk(((60, 180),)),
    Talk(((40, 100),)),
    Talk(((80, 200),), picture=False),
)


def shapes(tiny: bool) -> dict[str, Case]:
    """The measured models."""
    if tiny:
        return {"tiny": replace(TINY, talks=(*TINY.talks, Talk(((4, 6),), picture=False)))}
    fusion = {"num_of_vision_sampler_layers": 10}
    return {
        "fusion-phi35-3b": Case(_PHI35, _SO400M, _TALKS, 64, fusion),
        "fusion-x-phi35-3b": Case(_PHI35, _GIANT, _TALKS, 64, fusion),
    }


def with_layers(case: Case, layers: int) -> Case:
    """The case with so many decoder layers, and the interaction layers that follow those."""
    stride = case.fusion.get("stride_of_vision_sampler_layers", 3)
    count = min(case.fusion["num_of_vision_sampler_layers"], (layers - 1) // stride + 1)
    text = case.text | {"num_hidden_layers": layers}
    return replace(case, text=text, fusion=case.fusion | {"num_of_vision_sampler_layers": count})


def layers_that_fit(case: Case, free_bytes: float) -> int:
    """Decoder layers whose weights, gradients and AdamW state fill at most 60 % of the memory, next to all the rest."""
    with torch.device("meta"):
        model = FusionForConditionalGeneration(case.config())
    layers = model.model.layers
    of_layers = sum(parameter.numel() for parameter in layers.parameters())
    rest = sum(parameter.numel() for parameter in model.parameters()) - of_layers
    # bfloat16 weights and gradients, and AdamW's two moments in bfloat16 as well.
    room = 0.6 * free_bytes / 8 - rest
    return max(1, min(len(layers), int(room // (of_layers / len(layers)))))


def step_flops(model: FusionForConditionalGeneration, layout: SequenceLayout, pictures: int) -> float:
    """Floating point operations of one forward and backward pass, as the model needs them (3 x forward)."""
    config = model.config
    text, vision = config.text_config, config.vision_config

    def weights(part: torch.nn.Module) -> int:
        return sum(parameter.numel() for parameter in part.parameters() if parameter.dim() > 1)

    rows = len(layout.guided.text.lengths)
    plain = (4 * pictures + (layout.num_blank > 0)) * config.num_patches
    tower_tokens = plain + layout.guided.num_patches + layout.guided.num_text
    tower = model.model.vision_tower.layers.encoder
    flops = 2.0 * tower_tokens * weights(tower)
    lengths = [config.num_patches] * (plain // config.num_patches) + list(layout.guided.keys.lengths)
    flops += 4.0 * config.used_tower_layers * vision.hidden_size * sum(length**2 for length in lengths)
    flops += 2.0 * (plain + layout.guided.num_patches + layout.guided.num_text) * weights(model.model.mm_projector)
    mapped = layout.guided.num_text + (rows + (layout.num_blank > 0)) * config.num_patches
    flops += 2.0 * mapped * weights(model.model.aux_projector)
    positions = int(layout.lengths.sum())
    flops += 2.0 * positions * weights(model.model.layers)
    # Causal attention: half of all pairs.
    pairs = sum(length**2 / 2 for length in layout.lengths.tolist())
    flops += 4.0 * text.num_hidden_layers * text.hidden_size * pairs
    flops += 2.0 * len(layout.supervised_targets) * text.vocab_size * text.hidden_size
    questions, latents = layout.latent_positions.shape
    context = (pictures + (layout.num_blank > 0)) * latents * config.window_size**2
    square = config.hidden_size**2
    # Of an interaction layer three maps see the windows, six (the pair's counts twice) the latents.
    flops += len(config.interaction_layers) * 2.0 * square * (3 * context + 6 * questions * latents)
    return 3 * flops


def measured_peak(device: torch.device, size: int) -> float:
    """FLOP/s of a large bfloat16 matrix product."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    taken = []
    for _ in range(10):
        start = _now(device)
        left @ right
        taken.append(_now(device) - start)
    return 2.0 * size**3 / statistics.median(taken[2:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(case: Case, copies: int, device: torch.device, steps: int, options: argparse.Namespace) -> dict[str, Any]:
    """Median over `steps` of a whole optimiser step (one micro-batch) after two to warm up."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 2.0**30
    of_the_model = case.text["num_hidden_layers"]
    layers = options.layers or layers_that_fit(case, free)
    case = with_layers(replace(case, talks=case.talks * copies), layers)
    with torch.device(device), local_torch_dtype(torch.bfloat16):
        model = seeded(FusionForConditionalGeneration, case.config()).train()
    if not options.no_checkpointing:
        model.enable_activation_checkpointing()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device.type == "cuda")
    batch: FusionBatch = case.batch().to(device)
    layout = model.layout(batch, case.num_latents, packed=True)
    taken = []
    for _ in range(2 + steps):
        start = _now(device)
        loss = model(batch, num_latents=case.num_latents).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        taken.append(_now(device) - start)
    seconds = statistics.median(taken[2:])
    flops = step_flops(model, layout, len(batch["pixels"]))
    peak = options.peak_tflops * 1e12 if options.peak_tflops else measured_peak(device, 256 if options.tiny else 8192)
    return {
        "decoder_layers": layers,
        "decoder_layers_of_the_model": of_the_model,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "activation_checkpointing": not options.no_checkpointing,
        "liger": device.type == "cuda" and has_liger(),
        "samples": batch.size,
        "pictures": len(batch["pixels"]),
        "decoder_positions": int(layout.lengths.sum()),
        "latents_a_question": case.num_latents,
        "seconds": seconds,
        "decoder_positions_a_second": int(layout.lengths.sum()) / seconds,
        "samples_a_second": batch.size / seconds,
        "model_tflop": flops / 1e12,
        "peak_tflops": peak / 1e12,
        "peak_tflops_is": "given" if options.peak_tflops else "measured on a matrix product",
        "model_flops_utilisation": flops / seconds / peak,
        "peak_memory_gb": torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None,
        "loss": float(loss.detach()),
    }


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a trial of the program, no measurement")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--copies", type=int, default=2, help="of the four kinds of samples in a micro-batch")
    parser.add_argument("--layers", type=int, help="decoder layers; as many as fit unless given")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 rate of the device")
    parser.add_argument("--no-checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--name", default="train_step_gpu", help="of the result file")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("--device: there is no CUDA device here; `--device cpu --tiny` tries the program")
    models = {}
    for name, case in shapes(options.tiny).items():
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        models[name] = measure(case, options.copies, device, options.steps, options)
        print(name, models[name], flush=True)
    what = "one optimiser step (AdamW in bfloat16), random weights; see benchmarks/gpu_train_step.py"
    print(write_result(options.name, {"what": what, "surroundings": surroundings(), "models": models}))


if __name__ == "__main__":
    main()
