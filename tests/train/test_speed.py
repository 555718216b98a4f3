"""Rates, and utilisation where a device is known: never invented where it is not."""

import pytest

from fusion.plan.gpus import load_gpus, recognised
from fusion.train.speed import Speed, devices_rate, told
from tests.train.test_recipe import ROOT, recipe


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_rates_are_those_of_the_last_steps_and_of_all() -> None:
    clock = Clock()
    speed = Speed(1e15, clock)
    for step in range(80):
        clock.now += 4.0 if step < 30 else 2.0
        assert speed.step(128, 100_000, 4e14) == pytest.approx(4.0 if step < 30 else 2.0)
    assert speed.lately() == pytest.approx(
        {"tokens_a_second": 5e4, "samples_a_second": 64, "tflops": 200, "mfu": 0.2}
    ), "the first, slow steps are forgotten"
    whole = speed.in_all()
    assert whole["seconds"] == pytest.approx(220) and whole["tokens_a_second"] == pytest.approx(80 * 1e5 / 220)
    assert told(speed.lately()) == "50,000 tokens/s, 64 samples/s, 20.0% MFU"


def test_on_a_processor_there_is_no_utilisation() -> None:
    assert devices_rate(recipe(ROOT)) is None
    clock = Clock()
    speed = Speed(None, clock)
    clock.now += 1
    speed.step(1, 10, 3e9)
    assert "mfu" not in speed.lately()
    assert told(speed.lately()) == "10 tokens/s, 1 samples/s, 0.003 TFLOP/s"


def test_a_gpu_is_known_by_what_its_driver_calls_it() -> None:
    assert recognised("NVIDIA H100 80GB HBM3") is load_gpus()["h100"]
    assert recognised("NVIDIA H100 PCIe") is load_gpus()["h100-pcie"], "another rate under nearly the same name"
    assert recognised("NVIDIA GeForce GTX 1080") is None
    names = [name for gpu in load_gpus().values() for name in gpu.names]
    assert len(names) == len(set(names))
