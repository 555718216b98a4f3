"""`python -m benchmarks.plan_check`: the formulas of `fusion plan` against what is counted while small models run.

FLOPs are those that torch's counter sees, with rules for the attention of the CPU and for causal pairs, which it lacks.
Activations are the storages that autograd really keeps, each once, parameters and the batch aside. Weights, gradients
and optimiser states are the tensors of a DeepSpeed engine after a step on two ranks, and the files of its checkpoint.
Both families, both kinds of text mask, with and without activation checkpointing. `--tiny` is a trial in seconds.
"""

from __future__ import annotations

import argparse
import base64
import json
import multiprocessing
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import MIDDLE, TEXT_ONLY, TINY, TINY_TEXT_ONLY, Case, seeded
from benchmarks.report import surroundings, write_result
from fusion.model.batch import FusionBatch
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.plan.activations import activations
from fusion.plan.architecture import TRAINED_AS
from fusion.plan.flops import executed_flops, forward_work
from fusion.plan.load import Load
from fusion.plan.memory import checkpoint_bytes, model_states
from fusion.settings import load_settings
from fusion.train.launch import rank_environment
from fusion.train.recipe import make_recipe

ROOT = Path(__file__).parents[1]
aten = torch.ops.aten
FLOPS_LIMIT, BYTES_LIMIT = 0.05, 0.10
EVERYTHING = sorted(set(TRAINED_AS.values()))
# Modules of the model by part, as torch's counter names them.
_MODULES = {
    "tower": ("vision_tower.vision_tower.vision_model.encoder.layers.", "vision_model.embeddings.patch_embedding"),
    "projectors": ("model.mm_projector", "model.aux_projector"),
    "decoder": ("model.layers.",),
    "interaction": ("model.vision_sampler_layers.",),
    "head": ("lm_head",),
}


def _attention(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
    return _attention_flops(2, shapes[0], shapes[1], causal=len(shapes) > 4 and shapes[4])


def _attention_backward(*shapes: Any, out_shape: Any = None, **_: Any) -> int:
    return _attention_flops(5, shapes[1], shapes[2], causal=shapes[7])


def _attention_flops(products: int, query: Any, key: Any, causal: bool) -> int:
    """So many products of the size of the scores, which are made again in the backward pass."""
    batch, heads, length, width = query
    pairs = length * (length + 1) // 2 if causal else length * key[2]
    return int(2 * products * batch * heads * pairs * width)


def _in_place_product(_: Any, left: Any, right: Any, out_shape: Any = None, **__: Any) -> int:
    return int(2 * left[0] * left[1] * right[1])


_RULES = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    aten.addmm_: _in_place_product,
}


def count_flops(model: FusionForConditionalGeneration, batch: FusionBatch, num_latents: int) -> dict[str, float]:
    """FLOPs of a forward pass by part, and `step`: of the forward and backward pass together."""
    counter = FlopCounterMode(display=False, custom_mapping=_RULES)
    with counter:
        loss = model(batch, num_latents=num_latents).loss
        forward = counter.get_flop_counts()
        loss.backward()
    model.zero_grad()
    found = {part: float(_sum_of(forward, modules)) for part, modules in _MODULES.items()}
    found["forward"] = float(sum(forward["Global"].values()))
    return found | {"step": float(counter.get_total_flops())}


def _sum_of(counts: dict[str, dict[Any, int]], modules: tuple[str, ...]) -> int:
    chosen = [name for name in counts if any(module in name for module in modules)]
    outermost = [name for name in chosen if not any(name.startswith(f"{other}.") for other in chosen)]
    return sum(sum(counts[name].values()) for name in outermost)


def kept_bytes(model: FusionForConditionalGeneration, batch: FusionBatch, num_latents: int) -> float:
    """Bytes of the storages that autograd keeps after a forward pass, parameters and the batch aside."""
    own = [*model.parameters(), *model.buffers(), *batch.values()]
    known = {tensor.untyped_storage().data_ptr() for tensor in own}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        where = tensor.untyped_storage().data_ptr()
        if where not in known:
            kept.setdefault(where, tensor)  # held on to, so that no other storage gets the same place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(batch, num_latents=num_latents)
    return float(sum(tensor.untyped_storage().nbytes() for tensor in kept.values()))


def compare_flops(model: FusionForConditionalGeneration, case: Case, checkpointing: bool) -> dict[str, Any]:
    """Planned and counted FLOPs, by part and for the whole step."""
    batch, config = case.batch(), model.config
    work = forward_work(config, Load.of_batch(batch, config, case.num_latents))
    counted = count_flops(model, batch, case.num_latents)
    planned = {part: own.forward for part, own in work.items()}
    planned["forward"] = sum(planned.values())
    planned["step"] = sum(executed_flops(work, EVERYTHING, checkpointing).values())
    return compared(planned, counted)


def compare_activations(model: FusionForConditionalGeneration, case: Case, checkpointing: bool) -> dict[str, Any]:
    """Planned and counted bytes that the forward pass keeps."""
    batch, config = case.batch(), model.config
    size = next(model.parameters()).element_size()
    planned = activations(config, Load.of_batch(batch, config, case.num_latents), size, checkpointing, fused=False)
    return compared({"kept": planned.kept}, {"kept": kept_bytes(model, batch, case.num_latents)})


def compared(planned: dict[str, float], counted: dict[str, float]) -> dict[str, Any]:
    """Both, and the relative error of what was planned. What is neither planned nor counted is left out."""
    return {
        name: {"planned": planned[name], "counted": counted[name], "error": planned[name] / counted[name] - 1}
        for name in planned
        if planned[name] or counted[name]
    }


def models(tiny: bool) -> dict[str, Case]:
    """What is run: shapes that differ in everything that formulas could get wrong."""
    base = TINY if tiny else MIDDLE
    text_only = TINY_TEXT_ONLY if tiny else TEXT_ONLY
    llama = {"model_type": "llama", "num_key_value_heads": 1 if tiny else 2}
    return {
        "phi3": base,
        "llama, grouped keys": replace(base, text=base.text | llama, fusion=base.fusion | {"template": "llama_3"}),
        "one sample": replace(base, talks=base.talks[1:]),
        "with samples without picture": replace(base, talks=base.talks + text_only),
        "text_mask paper": replace(base, fusion=base.fusion | {"text_mask": "paper"}),
        "not text-guided": replace(base, fusion=base.fusion | {"text_guided": False}),
        "without interaction": replace(base, fusion=base.fusion | {"use_interaction": False}),
    }


def check_models(tiny: bool) -> dict[str, Any]:
    """FLOPs and activations of all cases, in float32 and bfloat16, with and without activation checkpointing.

    Each case in a process of its own: torch's counter holds on to what passed through it.
    """
    found: dict[str, Any] = {}
    context = multiprocessing.get_context("spawn")
    for name in models(tiny):
        for dtype in ("float32", "bfloat16") if name == "phi3" else ("float32",):
            for checkpointing in (False, True):
                with ProcessPoolExecutor(1, mp_context=context) as process:
                    own = process.submit(check_model, name, dtype, checkpointing, tiny).result()
                title = f"{name}, {dtype}" + ", checkpointing" * checkpointing
                found[title] = own
                print(title, worst(own), file=sys.stderr, flush=True)
    return found


def check_model(name: str, dtype: str, checkpointing: bool, tiny: bool) -> dict[str, Any]:
    """FLOPs and activations of one case."""
    case = models(tiny)[name]
    model = seeded(FusionForConditionalGeneration, case.config()).to(getattr(torch, dtype)).train()
    if checkpointing:
        model.enable_activation_checkpointing()
    return {
        "flops": compare_flops(model, case, checkpointing),
        "activations": compare_activations(model, case, checkpointing),
    }


def check_states(folder: Path) -> dict[str, Any]:
    """Weights, gradients, optimiser states and checkpoint files of a DeepSpeed engine on two ranks."""
    out = folder / "states.json"
    world = base64.urlsafe_b64encode(json.dumps({"localhost": [0, 1]}).encode()).decode()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", "--log_level=error"]
    command = [*launcher, "--master_addr=127.0.0.1", f"--master_port={port}"]
    recipe = make_recipe(load_settings(ROOT / "params.yaml"), "micro", "stage1", ROOT)
    subprocess.run(
        [*command, "--module", "benchmarks.plan_check_rank", str(out)],
        env=rank_environment(recipe),
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    counted: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return {name: compare_states(name, own) for name, own in counted.items()}


def compare_states(name: str, counted: dict[str, Any]) -> dict[str, Any]:
    """What one engine of the two holds between steps and at the end of a backward pass, and what both write."""
    precision, stage = name.split("-")
    size, zero = (2 if precision == "bf16" else 4), int(stage)
    parameters, trained = counted["parameters"], counted["trained"]
    states = model_states(parameters, trained, size, zero, ranks=2)
    # At the end of a pass gradients are sharded from stage 1 on. Stage 3 keeps them and its buffers for good.
    gradients = size * trained / (2 if zero else 1)
    stage3 = gradients + states.buffers if zero == 3 else 0.0
    planned = {
        "after_step": states.lasting + stage3,
        "after_backward": states.lasting + (stage3 or gradients),
        "checkpoint": checkpoint_bytes(parameters, trained, size, zero, on_gpu=False),
    }
    return compared(planned, counted)


def worst(found: Any) -> dict[str, float]:
    """The largest error of FLOPs and of bytes, as a share."""
    largest = {"flops": 0.0, "bytes": 0.0}

    def look(value: Any, kind: str) -> None:
        if not isinstance(value, dict):
            return
        if "error" in value:
            largest[kind] = max(largest[kind], abs(value["error"]))
        for key, part in value.items():
            look(part, "flops" if key == "flops" else kind)

    look(found, "bytes")
    return {kind: round(error, 4) for kind, error in largest.items()}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny shapes and no DeepSpeed: a trial of the program")
    parser.add_argument("--name", default="plan_check", help="of the result file")
    given = parser.parse_args()
    around = surroundings()
    found: dict[str, Any] = {"models": check_models(given.tiny)}
    if not given.tiny:
        with tempfile.TemporaryDirectory() as folder:
            found["states"] = check_states(Path(folder))
    reached = worst(found)
    what = "planned against counted FLOPs and bytes; see benchmarks/plan_check.py"
    wanted = {"flops": FLOPS_LIMIT, "bytes": BYTES_LIMIT}
    told = {"what": what, "surroundings": around, "wanted": wanted, "reached": reached}
    print(write_result(given.name, told | found))
    if reached["flops"] > FLOPS_LIMIT or reached["bytes"] > BYTES_LIMIT:
        sys.exit(f"planned and counted differ by more than is allowed: {reached}, allowed {wanted}")


if __name__ == "__main__":
    main()
