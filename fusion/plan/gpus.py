"""The accelerators that a plan can be made for: one line each in gpus.yaml."""

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fusion.documents import did_you_mean, dotted, faults, read_yaml
from fusion.plan.errors import PlanError

_FILE = Path(__file__).with_name("gpus.yaml")
Positive = Annotated[float, Field(gt=0)]


class Gpu(BaseModel):
    """One kind of accelerator: rates in 10^12 FLOP/s and 10^9 bytes/s, memory in GiB; see gpus.yaml.

    `names`: what its driver calls it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    tflops: Positive
    memory_gib: Positive
    devices_a_node: Annotated[int, Field(gt=0)]
    node_gb_s: Positive
    network_gb_s: Positive
    source: str
    names: list[str] = []

    @property
    def memory_bytes(self) -> float:
        """Bytes that a process can use."""
        return self.memory_gib * 2**30

    def link_bytes(self, gpus: int) -> float:
        """Bytes a second that leave one device in a group of so many: the network's where one node is not enough."""
        return 1e9 * (self.node_gb_s if gpus <= self.devices_a_node else self.network_gb_s)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    gpus: dict[str, Gpu]


@cache
def load_gpus() -> dict[str, Gpu]:
    """All accelerators by name; raises `PlanError` naming a wrong key."""
    try:
        return _Table.model_validate(read_yaml(_FILE, PlanError)).gpus
    except ValidationError as error:
        lines = [f"{_FILE}: {dotted(location)}: {reason}" for location, reason in faults(error, _Table)]
        raise PlanError("\n".join(lines)) from None


def find_gpu(name: str) -> Gpu:
    """The accelerator `name`; raises `PlanError` naming the known ones."""
    known = load_gpus()
    if name not in known:
        guess = did_you_mean(name, known)
        raise PlanError(
            f"there is no GPU `{name}`{guess}: one of {', '.join(known)}, or a new line of fusion/plan/gpus.yaml"
        )
    return known[name]


def recognised(name: str) -> Gpu | None:
    """The accelerator that its driver calls so, None for one that is not in gpus.yaml."""
    return next((gpu for gpu in load_gpus().values() if name in gpu.names), None)
