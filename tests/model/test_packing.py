"""Packed samples: equal to one sample after the other, in every kind of attention."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion.model.layout import _question_grid
from fusion.model.packing import Pattern, Spans, attend
from tests.model.test_modeling import gradients, samples
from tests.model.tiny import build, picture, shared, talk

close = functools.partial(torch.testing.assert_close, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    more=st.integers(0, 3),
    groups=st.sampled_from([1, 2]),
    causal=st.booleans(),
    window=st.sampled_from([None, 3]),
    eager=st.booleans(),
)
def test_parts_do_not_see_each_other(
    lengths: list[int], more: int, groups: int, causal: bool, window: int | None, eager: bool
) -> None:
    """Against one dense masked attention over the whole axis."""
    keys = lengths if causal else [length + more + 1 for length in lengths]
    pattern = Pattern(causal, window if causal else None, scale=0.3, eager=eager)
    torch.manual_seed(0)
    query = torch.randn(1, 4, sum(lengths), 8, requires_grad=True)
    key, value = (torch.randn(1, 4 // groups, sum(keys), 8, requires_grad=True) for _ in range(2))
    part_of_query, part_of_key = (torch.repeat_interleave(torch.tensor(part)) for part in (lengths, keys))
    seen = part_of_query[:, None] == part_of_key
    if causal:
        distance = torch.arange(sum(lengths))[:, None] - torch.arange(sum(keys))
        seen &= (distance >= 0) & (distance < (window or 10**6))
    scores = query @ key.repeat_interleave(groups, 1).transpose(2, 3) * 0.3
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    expected = (weights @ value.repeat_interleave(groups, 1)).transpose(1, 2).flatten(2)
    found = attend(query, key, value, pattern, Spans.of(lengths), Spans.of(keys))
    close(found, expected)
    slope = torch.randn_like(expected)
    for left, right in zip(
        torch.autograd.grad((found * slope).sum(), [query, key, value], materialize_grads=True),
        torch.autograd.grad((expected * slope).sum(), [query, key, value], materialize_grads=True),
        strict=True,
    ):
        close(left, right)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_questions_are_sorted_by_picture(picture_of_question: list[int]) -> None:
    pictures = max(picture_of_question) + 1
    grid = _question_grid(np.array(picture_of_question), pictures)
    if grid is None:
        assert picture_of_question == list(range(pictures))
        return
    assert grid.question[grid.place].tolist() == list(range(len(picture_of_question)))
    width = len(grid.question) // pictures
    assert (grid.place // width).tolist() == picture_of_question


@pytest.mark.parametrize("family", ["phi_3", "llama_3"])
def test_packed_rows_equal_padded_ones(family: str) -> None:
    model, processor = shared(family)
    batch = processor.collate(samples(processor))
    with torch.no_grad():
        hidden = []
        for packed in (True, False):
            layout = model.layout(batch, packed=packed)
            hidden.append(model.model.decode(model.model.encode(batch["pixels"], layout), layout).flatten(0, 1))
    assert len(hidden[0]) == int(layout.lengths.sum()) < len(hidden[1])
    real = torch.arange(layout.length) < layout.lengths[:, None]
    torch.testing.assert_close(hidden[0], hidden[1][real.flatten()], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", ["phi_3", "llama_3"])
@pytest.mark.parametrize("window", [None, 20])
def test_eager_attention_gives_the_same(family: str, window: int | None) -> None:
    model, processor = build(family)
    model.config.text_config.sliding_window = window
    batch = processor.collate(samples(processor))
    results = []
    for implementation in ("sdpa", "eager"):
        model.config._attn_implementation = implementation
        output = model(batch, num_latents=9)
        output.loss.backward()
        results.append((output.loss.detach(), gradients(model)))
    close(results[0][0], results[1][0])
    for name, gradient in results[0][1].items():
        close(gradient, results[1][1][name])
    model.config._attn_implementation = "paged"
    with pytest.raises(ValueError, match="attn_implementation: 'paged'"):
        model(batch)


def test_zeros_in_an_instruction_are_seen_by_nobody() -> None:
    """Id 0 counts as padding wherever it stands, and an instruction of nothing else is none."""
    model, processor = shared("llama_3")
    every = [processor.encode(talk("<image>what colour is the bus", "red"), picture(seed)) for seed in (1, 2, 3)]
    plain = processor.collate(every[:2])
    instruct = plain["instruct_ids"]
    holes = torch.zeros(2, 2 * instruct.shape[1], dtype=torch.int64)
    holes[:, 1::2] = instruct
    keys = dict(plain)
    close(model(**keys).loss, model(**{**keys, "instruct_ids": holes}).loss)
    nothing = {**keys, "instruct_ids": instruct * torch.tensor([[1], [0]])}
    output = model(**nothing)
    assert output.loss_sums.text_mapping.elements == (instruct[0] != 0).sum()
    output.loss.backward()
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(model).values())


def test_tensors_by_keyword() -> None:
    model, processor = shared("phi_3")
    batch = processor.collate(samples(processor))
    expected = model(batch, num_latents=9)
    keys = dict(batch)
    assert model(**keys, num_latents=9).loss == expected.loss
    lengths = keys.pop("lengths")
    mask = torch.arange(keys["input_ids"].shape[1]) < lengths[:, None]
    output = model(**keys, attention_mask=mask.long(), num_latents=9, use_cache=False, output_attentions=None)
    assert output.loss == expected.loss and output.logits is None
    values = model(**keys, attention_mask=mask, num_latents=9, return_dict=False)
    assert isinstance(values, tuple) and values[0] == expected.loss
    labels = keys.pop("labels")
    unlabelled = model(**keys, attention_mask=mask, num_latents=9)
    layout = model.layout(batch, 9)
    assert unlabelled.logits.shape == (batch.size, layout.length, model.config.vocab_size)
    assert unlabelled.loss_sums.cross_entropy.elements == 0
    close(unlabelled.logits, model(batch, num_latents=9, return_logits=True).logits)
    with pytest.raises(ValueError, match="attention_mask: is needed"):
        model(**keys, labels=labels)
    with pytest.raises(ValueError, match="one run"):
        model(**keys, labels=labels, attention_mask=mask & (torch.arange(mask.shape[1]) != 2))
    with pytest.raises(TypeError, match="inputs_embeds"):
        model(**keys, attention_mask=mask, inputs_embeds=torch.zeros(1))


def test_left_padded_tensors_give_the_same() -> None:
    model, processor = shared("phi_3")
    batch = processor.collate(samples(processor))
    keys, width = dict(batch), batch["input_ids"].shape[1]
    shift = width - keys.pop("lengths")
    mask = torch.arange(width) >= shift[:, None]
    for name in ("input_ids", "labels"):
        rows = zip(keys[name], shift.tolist(), strict=True)
        keys[name] = torch.stack([row.roll(places) for row, places in rows])
    ends = keys["question_ends"]
    keys["question_ends"] = torch.where(ends >= 0, ends + shift[:, None], -1)
    assert bool((shift > 0).any())
    assert model(**keys, attention_mask=mask, num_latents=9).loss == model(batch, num_latents=9).loss


@pytest.mark.long
def test_a_compiled_model_gives_the_same_and_settles() -> None:
    """Batches of other sizes need no new code, once pictures, text-only samples and turns of both kinds were seen."""
    model, processor = build("phi_3")
    every = samples(processor)
    shapes = [[0, 1, 2], [1, 3, 4], [0, 1, 2, 3], [1, 4, 2, 3]]
    batches = [processor.collate([every[index] for index in chosen]) for chosen in shapes]
    expected = []
    for batch in batches:
        loss = model(batch).loss
        loss.backward()
        expected.append((loss.detach(), gradients(model)))
    graphs = 0

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return graph

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, dynamic=True)
    made = []
    for batch, (loss, wanted) in zip(batches, expected, strict=True):
        output = compiled(batch)
        output.loss.backward()
        close(output.loss.detach(), loss)
        found = gradients(model)
        assert found.keys() == wanted.keys()
        for name, gradient in found.items():
            close(gradient, wanted[name])
        made.append(graphs)
    assert made[-1] == made[-2], f"graphs after each batch: {made}"
