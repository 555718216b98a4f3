"""What DeepSpeed holds on two ranks, for every ZeRO stage and precision, against the formulas."""

from pathlib import Path

import pytest

from benchmarks.plan_check import BYTES_LIMIT, check_states


@pytest.mark.long
def test_weights_gradients_and_optimiser_are_those_held(tmp_path: Path) -> None:
    found = check_states(tmp_path)
    assert len(found) == 8
    wrong = {
        f"{name} {what}": told
        for name, own in found.items()
        for what, told in own.items()
        if abs(told["error"]) > BYTES_LIMIT
    }
    assert not wrong
