"""The section of params.yaml about how ranks are started, and on which machines."""

from typing import Annotated, Literal

from pydantic import Field

from fusion.section import PositiveInt, Section


class Slurm(Section):
    """What a SLURM job asks for beside nodes and GPUs; `directives` are further lines behind `#SBATCH`."""

    partition: str | None
    account: str | None
    time: str
    grace_seconds: PositiveInt
    directives: list[str]


class Kubernetes(Section):
    """Where the pods of a Kubernetes job run: an image with the project's environment, a claim with its folder."""

    image: str
    namespace: str
    claim: str
    folder: str
    shared_memory: str


class Launch(Section):
    """How ranks are started and on which machines; results do not depend on it.

    `ranks_per_node` divides a variant's `hardware.ranks` into nodes; `hosts` are their names, the first one leads;
    `setup` are shell commands and `environment` variables for every node of a job.
    """

    launcher: Literal["local", "torchrun", "deepspeed", "slurm"]
    ranks_per_node: PositiveInt
    hosts: list[str]
    port: Annotated[int, Field(ge=1024, le=65535)]
    environment: dict[str, str]
    setup: list[str]
    slurm: Slurm
    kubernetes: Kubernetes
