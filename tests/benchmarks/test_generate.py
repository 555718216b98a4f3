"""The benchmark of generation on a tiny model: what it compares is equal. Its times mean nothing here."""

from __future__ import annotations

from benchmarks.generate import BATCH, build_model, measure_chat, measure_decoding
from tests.model.tiny import shared


def test_a_batch_and_single_prompts_give_the_same_ids() -> None:
    model, processor = shared("llama_3")
    result = measure_decoding(model, processor, 1, 4)
    assert result["rows_with_other_ids"] == 0
    assert len(set(result["positions_of_prompts"])) == BATCH


def test_a_later_turn_and_a_full_prefill_give_the_same_token() -> None:
    model, processor = shared("phi_3")
    result = measure_chat(model, processor, 1, 4)
    assert result["other_first_tokens"] == 0
    assert 0 < result["positions_read"] < result["positions_kept"]


def test_the_model_that_is_measured_is_the_one_described() -> None:
    model, _ = build_model(0)
    assert (model.config.hidden_size, len(model.model.layers), model.config.num_patches) == (512, 8, 196)
    assert len(model.model.vision_tower.layers.encoder["layers"]) == 8
