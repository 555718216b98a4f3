"""The model on CUDA in bfloat16 beside float32 on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch

from fusion.model.head import has_liger, linear_cross_entropy
from fusion.model.packing import Pattern, Spans, attend
from tests.model.test_modeling import gradients, samples
from tests.model.tiny import build

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.mark.parametrize("family", ["phi_3", "llama_3"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients(family: str, checkpointing: bool) -> None:
    model, processor = build(family)
    batch = processor.collate(samples(processor))
    expected = model(batch, num_latents=9)
    expected.loss.backward()
    wanted = gradients(model)
    model = model.to("cuda", torch.bfloat16).train()
    if checkpointing:
        model.enable_activation_checkpointing()
    output = model(batch.to("cuda"), num_latents=9)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert float(output.loss) == pytest.approx(float(expected.loss), rel=0.05)
    found = gradients(model)
    assert found.keys() == wanted.keys()
    # Bfloat16 has three digits: directions agree, and sizes roughly. Key biases cannot change a softmax.
    for name, gradient in found.items():
        if "k_proj.bias" not in name:
            pair = gradient.float().cpu().flatten(), wanted[name].flatten()
            assert float(torch.cosine_similarity(*pair, dim=0)) > 0.9, name


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_sample_alone(dtype: torch.dtype) -> None:
    model, processor = build("phi_3")
    model = model.to("cuda", dtype)
    every = samples(processor)
    together = model(processor.collate(every).to("cuda"))
    alone = [model(processor.collate([sample]).to("cuda")).sample_loss_sums for sample in every]
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(together.sample_loss_sums, torch.cat(alone), rtol=tolerance, atol=tolerance)


def test_float32_equals_the_cpu() -> None:
    model, processor = build("llama_3")
    batch = processor.collate(samples(processor))
    other = copy.deepcopy(model).to("cuda")
    model(batch).loss.backward()
    other(batch.to("cuda")).loss.backward()
    wanted = gradients(model)
    for name, gradient in gradients(other).items():
        torch.testing.assert_close(gradient.cpu(), wanted[name], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("pattern", [Pattern(), Pattern(causal=True), Pattern(causal=True, window=50, scale=0.2)])
def test_parts_of_unequal_length(groups: int, pattern: Pattern) -> None:
    """Whatever kernel serves bfloat16 on CUDA, against float32 on the CPU."""
    lengths = [130, 0, 7, 64] if pattern.causal else [130, 5, 7, 64]
    keys = lengths if pattern.causal else [length + 9 for length in lengths]
    torch.manual_seed(0)
    tensors = [
        torch.randn(1, heads, sum(part), 64) for heads, part in ((8, lengths), (8 // groups, keys), (8 // groups, keys))
    ]
    results = []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        given = [tensor.to(device, dtype).requires_grad_() for tensor in tensors]
        spans = [Spans.of(part).to(torch.device(device)) for part in (lengths, keys)]
        mixed = attend(*given, pattern, *spans)
        slopes = torch.autograd.grad((mixed.float() ** 2).sum(), given)
        results.append([tensor.float().cpu() for tensor in (mixed.detach(), *slopes)])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("liger", [False, True])
def test_cross_entropy(liger: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if liger and not has_liger():
        pytest.skip("liger-kernel is not installed here")
    monkeypatch.setattr("fusion.model.head.has_liger", lambda: liger)
    hidden, weight = torch.randn(300, 64), torch.randn(4000, 64)
    targets, slope = torch.randint(0, 4000, (300,)), torch.rand(300)
    results = []
    for device in ("cpu", "cuda"):
        given = [tensor.to(device).requires_grad_() for tensor in (hidden, weight)]
        losses = linear_cross_entropy(*given, targets.to(device))
        gradient = torch.autograd.grad((losses * slope.to(device)).sum(), given)
        results.append([tensor.cpu() for tensor in (losses.detach(), *gradient)])
    for left, right in zip(*results, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-2, atol=1e-2)
