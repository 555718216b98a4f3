"""Inputs made again in the backward pass: the same numbers as kept ones, and less memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoModel
from transformers.models.llama.configuration_llama import LlamaConfig
from transformers.models.phi3.configuration_phi3 import Phi3Config

from fusion.model.recompute import (
    GatedMLP,
    Made,
    MadeLayerNorm,
    RecomputingLinear,
    first_rows,
    gated_mlp,
    gelu,
    swiglu,
    through,
)

NORM = MadeLayerNorm(12)
nn.init.normal_(NORM.weight)
nn.init.normal_(NORM.bias)
MAKERS: dict[str, Callable[[Tensor], Made]] = {
    "norm": NORM,
    "first rows": lambda x: first_rows(NORM(x), 3),
    "gelu": partial(gelu, approximate="none"),
    "gelu_tanh": partial(gelu, approximate="tanh"),
    "gated": lambda x: swiglu(x * 2, x + 1),
}


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", MAKERS)
def test_made_again_equals_kept(kind: str, bias: bool, frozen: bool, autocast: bool) -> None:
    """Bit by bit in float32; with the rounding of one operation more or less under autocast."""
    torch.manual_seed(0)
    layer = RecomputingLinear(12, 5, bias=bias).requires_grad_(not frozen)
    rows = torch.randn(7, 12, requires_grad=True)
    leaves = [rows, *(() if frozen else layer.parameters())]
    results = []
    for kept in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            made = MAKERS[kind](rows)
            output = layer(made.value) if kept else through(layer, made)
        slope = torch.linspace(-1, 1, output.numel()).view_as(output)
        results.append([output.float(), *torch.autograd.grad((output.float() * slope).sum(), leaves)])
    tolerance = {"rtol": 0.05, "atol": 0.05} if autocast else {"rtol": 0.0, "atol": 0.0}
    for again, kept_one in zip(*results, strict=True):
        torch.testing.assert_close(again, kept_one, **tolerance)


def _kept(run: Callable[[], Tensor]) -> int:
    """Bytes of all different tensors that a computation keeps for its backward pass."""
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        alive = run()
    assert alive.requires_grad
    return sum(found.values())


@pytest.mark.parametrize(
    "decoder",
    [LlamaConfig(mlp_bias=True, num_key_value_heads=2), Phi3Config(pad_token_id=0)],
    ids=lambda c: c.model_type,
)
def test_a_decoders_own_feed_forward_part_and_ours_agree(decoder: LlamaConfig | Phi3Config) -> None:
    decoder.hidden_size, decoder.intermediate_size, decoder.vocab_size = 16, 40, 8
    decoder.num_hidden_layers, decoder.num_attention_heads = 1, 2
    original = AutoModel.from_config(decoder).layers[0].mlp
    ours = gated_mlp(original, decoder.hidden_act)
    assert isinstance(ours, GatedMLP)
    assert {name: id(value) for name, value in ours.named_parameters()} == {
        name: id(value) for name, value in original.named_parameters()
    }
    x = torch.randn(2, 50, 16, requires_grad=True)
    results = []
    for part in (original, ours):
        output = part(x)
        results.append([output, *torch.autograd.grad(output.square().sum(), [x, *part.parameters()])])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=0.0, atol=0.0)
    # Per row of 40: the original keeps gate, silu(gate), up and their product, ours gate and up.
    saved = _kept(lambda: original(x)) - _kept(lambda: ours(x))
    assert saved >= 2 * 100 * 40 * 4 - 4096


def test_another_activation_keeps_its_own_feed_forward_part() -> None:
    decoder = LlamaConfig(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=8)
    original = AutoModel.from_config(decoder).layers[0].mlp
    assert gated_mlp(original, "relu") is original


def test_a_layer_put_in_the_place_of_ours_is_called_with_the_tensor_alone() -> None:
    """What tools for quantised or low-rank weights do."""
    x = torch.randn(4, 12)
    other = nn.Linear(12, 3)
    torch.testing.assert_close(through(other, gelu(x, "none")), other(F.gelu(x)))


def test_a_tower_block_keeps_less() -> None:
    """Norm, widening and narrowing layer: kept are the rows and the hidden ones, once each."""
    norm, widen, narrow = MadeLayerNorm(16), RecomputingLinear(16, 64), RecomputingLinear(64, 16)
    x = torch.randn(1000, 16, requires_grad=True)
    ours = _kept(lambda: through(narrow, gelu(through(widen, norm(x)), "tanh")))
    plain = _kept(lambda: narrow(F.gelu(widen(norm(x).value), approximate="tanh")))
    assert plain - ours >= 1000 * (16 + 64) * 4 - 4096
    assert ours <= 1000 * (16 + 64 + 2) * 4 + 3 * 16 * 64 * 4
