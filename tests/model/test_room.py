"""Pictures that are rows of one array become a batch without a copy; others are stacked into the same batch."""

import numpy as np
import pytest
import torch

from fusion.model.batch import EncodedSample, collate


def _sample(pixels: np.ndarray | None) -> EncodedSample:
    ids = np.arange(3)
    return EncodedSample(input_ids=ids, labels=ids, question_ends=ids[-1:], instruct_ids=ids, pixels=pixels)


@pytest.fixture
def rooms() -> np.ndarray:
    """uint8 [4, 5, 3, 8, 8], random."""
    return np.random.default_rng(0).integers(0, 256, (4, 5, 3, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize(
    ("order", "copied"),
    [((0, 1, 2), False), ((0,), False), ((0, 1, 2, 3), False), ((1, 2), True), ((0, 2), True), ((1, 0), True)],
)
def test_rows_from_the_first_on_are_the_batch(rooms: np.ndarray, order: tuple[int, ...], copied: bool) -> None:
    batch = collate([_sample(None), *(_sample(rooms[row]) for row in order)], 0, 8)
    pixels = batch["pixels"]
    assert torch.equal(pixels, torch.from_numpy(rooms[list(order)]))
    assert batch["image_index"].tolist() == [-1, *range(len(order))]
    assert np.shares_memory(pixels.numpy(), rooms) is not copied


def test_arrays_of_their_own_are_stacked(rooms: np.ndarray) -> None:
    own = [rooms[0].copy(), rooms[1].copy()]
    assert torch.equal(collate([_sample(one) for one in own], 0, 8)["pixels"], torch.from_numpy(rooms[:2]))
