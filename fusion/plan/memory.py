"""Bytes on one device at the peak of a training step, by part, for a ZeRO stage, precision and micro-batch.

What DeepSpeed keeps was looked up in its tensors (benchmarks/plan_check.py does it again): AdamW's moments and a
float32 copy of the weights wherever it shards or mixes precision; gradients whole up to stage 1, shards of them from
stage 2 on; buckets for the exchange; in stage 3 also the layers that are gathered at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_BUCKET = 500_000_000
"""Elements that are exchanged at once, as the training's configuration sets it."""
_MOST_GATHERED = 1_000_000_000
"""Elements that ZeRO-3 keeps gathered (DeepSpeed's `stage3_max_live_parameters`)."""
LOGIT_CHUNK = 1 << 26
"""Elements of the logits that are made at a time on an accelerator (fusion/model/head.py)."""
RESERVED = 1.5 * 2**30
"""The driver's context and the communication library's buffers: an assumption, it differs between versions."""
HOST_LINK = 25e9
"""Bytes a second between a device and its host: what is reached of PCIe 4 x16 (32e9). An assumption."""
HOST_UPDATE = 0.5e9
"""Parameters a second that a rank's share of the host updates: torch's AdamW moves some 100 bytes for each through a
memory of 50e9 bytes a second. An assumption."""
USABLE = 0.92
"""Share of the device's memory that a plan may fill: the allocator cannot use the last few percent."""


@dataclass(frozen=True)
class States:
    """Bytes of what lasts from step to step, and of what the exchange of gradients and the update need in passing."""

    weights: float
    gradients: float
    optimizer: float
    buffers: float
    update: float

    @property
    def lasting(self) -> float:
        """Between steps."""
        return self.weights + self.optimizer


def model_states(
    parameters: int, trained: int, size: int, zero_stage: int, ranks: int, *, offload: bool = False
) -> States:
    """Weights, gradients, optimiser and buffers on one of `ranks` devices.

    Args:
        parameters: of the model; trained: those with gradients.
        size: bytes of an element of weights and gradients, 2 or 4.
        zero_stage: 0 to 3.
        ranks: devices that share the work; all hold the same model.
        offload: the optimiser's states lie in the host's memory.
    """
    shard = trained / ranks if zero_stage else trained
    # A float32 copy stands beside the weights in bfloat16, and wherever DeepSpeed shards them.
    copies = 12 if size < 4 or zero_stage else 8
    optimizer = 0.0 if offload else copies * shard
    weights = size * (parameters / ranks if zero_stage == 3 else parameters)
    gradients = size * (trained / ranks if zero_stage >= 2 else trained)
    bucket = size * min(parameters, LARGEST_BUCKET) if zero_stage else 0.0
    gathered = size * min(parameters, _MOST_GATHERED) if zero_stage == 3 else 0.0
    # The update is made with gradients in float32.
    update = 0.0 if offload or (size == 4 and not zero_stage) else 4 * shard
    return States(weights, gradients, optimizer, bucket + gathered, update)


def host_bytes(trained: int, ranks: int, size: int, accumulation: int) -> float:
    """Bytes of the host's memory that a rank needs for an offloaded optimiser: its states, gradients in float32.

    Where a step has several micro-batches, their sum too, of `size` bytes (DeepSpeed's `accumulated_grads_in_cpu`).
    """
    return (16 + (size if accumulation > 1 else 0)) * trained / ranks


def host_seconds(trained: int, ranks: int, size: int, accumulation: int) -> float:
    """Of a step, for an offloaded optimiser: gradients to the host, the update there, and weights back.

    The sum of the micro-batches before comes back for each further one, to be added to on the device.
    """
    elements = trained / ranks
    moved = size * elements * (accumulation + (accumulation - 1) + 1)
    return moved / HOST_LINK + elements / HOST_UPDATE


def logit_bytes(supervised: float, vocabulary: int, width: int, size: int, trained: bool) -> float:
    """Logits of one chunk in the precision of the weights and twice in float32, and the float32 sum of the matrix's
    gradient."""
    rows = min(supervised, max(LOGIT_CHUNK // vocabulary, 1))
    return rows * vocabulary * (size + 8) + (4 * vocabulary * width if trained else 0)


def checkpoint_bytes(parameters: int, trained: int, size: int, zero_stage: int, *, on_gpu: bool) -> float:
    """Bytes of one resumable state on disk, all ranks together.

    Args:
        parameters, trained, size, zero_stage: as in `model_states`.
        on_gpu: the weights that compute lie on GPUs.
    """
    copies = 12 if size < 4 or zero_stage else 8
    # Stage 3 writes no trained weights of its own, the float32 copies stand for them; but those that are frozen.
    weights = size * (parameters - trained if zero_stage == 3 else parameters)
    # Stage 2 writes frozen weights once more, from the memory of the host: a copy where they lie on a GPU.
    again = size * (parameters - trained) if zero_stage == 2 and on_gpu else 0
    return float(copies * trained + weights + again)
