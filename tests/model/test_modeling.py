"""Loss and gradients: independence of neighbours, counts, ablations."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
import torch
from torch import Tensor

import fusion.model.head as head_module
from fusion.model.batch import EncodedSample
from fusion.model.head import OutputHead
from fusion.model.mapping import LossCounts
from fusion.model.modeling import FusionForConditionalGeneration
from fusion.model.processing import FusionProcessor
from tests.model.tiny import build, picture, shared, talk

FAMILIES = ["phi_3", "llama_3"]
close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def samples(processor: FusionProcessor) -> list[EncodedSample]:
    """One turn, three turns, text alone, text of two turns, one turn again."""
    long = talk("<image>what colour is the bus left of the tree", "red", "how many dogs", "two dogs", "is it", "yes")
    return [
        processor.encode(talk("<image>what colour", "it is blue"), picture(1)),
        processor.encode(long, picture(2)),
        processor.encode(talk("name one prime", "two"), None),
        processor.encode(talk("name one prime", "two", "how many", "one"), None),
        processor.encode(talk("<image>is the bus red", "no"), picture(3)),
    ]


def gradients(model: FusionForConditionalGeneration) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("text_mask", ["checkpoint", "paper"])
def test_a_sample_does_not_depend_on_its_neighbours(family: str, text_mask: str) -> None:
    model, processor = build(family, text_mask=text_mask) if text_mask == "paper" else shared(family)
    every = samples(processor)
    together = model(processor.collate(every))
    alone = [model(processor.collate([sample])) for sample in every]
    close(together.sample_loss_sums, torch.cat([output.sample_loss_sums for output in alone]))
    for term in range(3):
        total = sum(output.loss_sums[term].total for output in alone)
        close(together.loss_sums[term].total, total)
        assert together.loss_sums[term].elements == sum(output.loss_sums[term].elements for output in alone)


@pytest.mark.parametrize("parts", [((0, 1, 2, 3, 4),), ((0, 1), (2, 3), (4,)), ((2,), (0, 3), (1, 4))])
def test_micro_batches_add_up_to_the_step(parts: tuple[tuple[int, ...], ...]) -> None:
    model, processor = shared("phi_3")
    every = samples(processor)
    whole = processor.collate(every)
    model(whole, num_latents=9).loss.backward()
    expected = gradients(model)
    batches = [processor.collate([every[index] for index in part]) for part in parts]
    counted = [model.loss_counts(batch) for batch in batches]
    counts = LossCounts(*(sum(column) for column in zip(*counted, strict=True)))
    assert counts == model.loss_counts(whole)
    total = 0.0
    for batch, own in zip(batches, counted, strict=True):
        output = model(batch, num_latents=9)
        assert tuple(int(pair.elements) for pair in output.loss_sums) == tuple(own)
        share = model.combine_losses(output.loss_sums, counts)
        share.backward()
        total += float(share.detach())
    assert total == pytest.approx(float(model(whole, num_latents=9).loss.detach()), rel=1e-5)
    summed = gradients(model)
    assert summed.keys() == expected.keys()
    for name, gradient in summed.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)


def test_every_used_parameter_gets_a_gradient_whatever_the_batch() -> None:
    model, processor = shared("phi_3")
    every = samples(processor)
    groups = model.parameter_groups()
    names = {*groups["language"], *groups["vision"]}
    for chosen in (every[:1], every[2:3], every):
        model(processor.collate(chosen)).loss.backward()
        assert gradients(model).keys() == names
    assert all(".vision_tower." in name for name in groups["vision"])
    assert not any(".vision_tower." in name for name in groups["language"])
    assert "model.mm_projector.0.weight" in groups["language"]


def test_pictures_matter_and_shared_ones_count_as_two() -> None:
    model, processor = shared("phi_3")
    conversations = [talk("<image>what colour", "red"), talk("<image>how many dogs", "two")]
    one, two = (processor.encode(conversation, picture(1)) for conversation in conversations)
    same = EncodedSample(two.input_ids, two.labels, two.question_ends, two.instruct_ids, one.pixels)
    apart, shared_batch = processor.collate([one, two]), processor.collate([one, same])
    assert len(apart["pixels"]) == 2 and len(shared_batch["pixels"]) == 1
    left, right = model(apart), model(shared_batch)
    close(left.loss, right.loss)
    other = processor.encode(conversations[0], picture(2))
    assert abs(float((model(processor.collate([other])).loss - model(processor.collate([one])).loss).detach())) > 1e-4


def test_each_question_drives_its_own_latents_only() -> None:
    model, processor = shared("phi_3")
    base = processor.encode(talk("<image>what colour", "red", "how many dogs", "two"), picture(1))
    batch = processor.collate([base])
    layout = model.layout(batch)
    with torch.no_grad():
        inputs = model.model.encode(batch["pixels"], layout)
        hidden = inputs.embeddings.flatten(0, 1)
        changed = hidden.clone()
        changed[layout.question_positions[1]] += 1.0
        block = model.model.vision_sampler_layers[0]
        index = (inputs.context, layout.question_positions, layout.latent_positions, layout.question_grid)
        moved = (block(changed, *index) - block(hidden, *index)).abs().amax(1).nonzero().flatten().tolist()
    assert moved == sorted([*layout.latent_positions[1].tolist(), int(layout.question_positions[1])])


def test_text_blind_patches_in_the_papers_early_half() -> None:
    def early_patches(text_mask: str) -> list[Tensor]:
        model, processor = build("phi_3", text_mask=text_mask)
        tower, shown = model.model.vision_tower.layers, []
        layer = tower.encoder["layers"][tower.early_layers - 1]
        layer.register_forward_hook(lambda _module, _inputs, streams: shown.append(streams[1]))
        for question in ("what colour", "how many dogs"):
            with torch.no_grad():
                model(processor.collate([processor.encode(talk(f"<image>{question}", "red"), picture(1))]))
        return [hidden[: model.config.num_patches] for hidden in shown]

    left, right = early_patches("paper")
    torch.testing.assert_close(left, right)
    left, right = early_patches("checkpoint")
    assert (left - right).abs().max() > 1e-4


def test_ablations_remove_what_they_name() -> None:
    model, processor = build("phi_3", text_guided=False, use_interaction=False)
    assert not any("vision_sampler_layers" in name for name, _ in model.named_parameters())
    every = samples(processor)
    output = model(processor.collate(every))
    assert output.loss_sums.text_mapping.elements == 0 and output.loss_sums.text_mapping.total == 0
    assert model.loss_counts(processor.collate(every)).text_mapping == 0
    alone = torch.cat([model(processor.collate([sample])).sample_loss_sums for sample in every])
    close(output.sample_loss_sums, alone)
    output.loss.backward()
    assert torch.isfinite(output.loss)


@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_changes_nothing(family: str) -> None:
    model, processor = build(family)
    batch = processor.collate(samples(processor))
    model.train()
    plain = model(batch).loss
    plain.backward()
    expected = gradients(model)
    model.enable_activation_checkpointing()
    again = model(batch).loss
    again.backward()
    torch.testing.assert_close(again, plain)
    for name, gradient in gradients(model).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-6)


def test_logits_come_when_asked_and_agree_with_the_loss() -> None:
    model, processor = shared("llama_3")
    batch = processor.collate(samples(processor))
    assert model(batch).logits is None
    output = model(batch, return_logits=True)
    layout = model.layout(batch)
    assert output.logits.shape == (batch.size, layout.length, model.config.vocab_size)
    scores = output.logits.flatten(0, 1)[layout.supervised_positions].log_softmax(-1)
    losses = -scores.gather(1, layout.supervised_targets[:, None]).sum()
    close(output.loss_sums.cross_entropy.total, losses)


def test_chunked_cross_entropy_equals_the_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    head = OutputHead(8, 50)
    hidden, targets = torch.randn(23, 8, requires_grad=True), torch.randint(0, 50, (23,))
    weights = torch.rand(23)

    def run() -> list[Tensor]:
        losses = head(hidden, targets)
        return [losses, *torch.autograd.grad((losses * weights).sum(), [hidden, head.weight])]

    plain = run()
    monkeypatch.setitem(head_module.CHUNK_ELEMENTS, "cpu", 50 * 7)
    for left, right in zip(plain, run(), strict=True):
        torch.testing.assert_close(left, right)


def test_bfloat16_stays_near_float32() -> None:
    model, processor = build("llama_3")
    batch = processor.collate(samples(processor))
    expected = float(model(batch).loss.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(batch).loss
    mixed.backward()
    model.zero_grad()
    assert float(mixed.detach()) == pytest.approx(expected, rel=0.05)
    output = model.bfloat16()(batch)
    output.loss.backward()
    assert output.loss.dtype == torch.float32
    assert float(output.loss.detach()) == pytest.approx(expected, rel=0.05)


def test_a_sliding_window_hides_distant_keys() -> None:
    model, processor = build("phi_3")
    batch = processor.collate(samples(processor)[:1])
    free = model(batch, return_logits=True).logits
    model.config.text_config.sliding_window = 8
    near = model(batch, return_logits=True).logits
    close(near[:, :8], free[:, :8])
    assert (near[:, -1] - free[:, -1]).abs().max() > 1e-4


def test_wrong_batches_are_refused() -> None:
    model, processor = shared("phi_3")
    good = samples(processor)[0]
    ids = good.input_ids.copy()
    ids[ids == -300] = 5
    with pytest.raises(ValueError, match="input_ids: sample 1 has 1 markers"):
        model(processor.collate([good, dataclasses.replace(good, input_ids=ids)]))
    with pytest.raises(ValueError, match="does not fit its 0 questions"):
        model(processor.collate([dataclasses.replace(good, question_ends=np.array([], dtype=np.int64))]))
    with pytest.raises(ValueError, match="outside the vocabulary"):
        model(processor.collate([dataclasses.replace(good, input_ids=np.append(good.input_ids, 10**6))]))
