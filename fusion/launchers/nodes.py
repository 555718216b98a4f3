"""How the ranks of a stage lie on nodes, and the command that starts those of one node."""

import base64
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fusion.launch_settings import Launch
from fusion.launchers.errors import LaunchError
from fusion.train.launch import device_ids, rank_variables
from fusion.train.recipe import Recipe


@dataclass(frozen=True)
class Nodes:
    """`count` nodes of `ranks` ranks each; rank r is on node r // ranks."""

    count: int
    ranks: int

    @classmethod
    def of(cls, recipe: Recipe, launch: Launch) -> "Nodes":
        """Of a stage; raises `LaunchError` if its ranks do not fill whole nodes."""
        ranks, most = recipe.hardware.ranks, launch.ranks_per_node
        if ranks <= most:
            return cls(1, ranks)
        if ranks % most:
            raise LaunchError(
                f"variants.{recipe.variant}.hardware.ranks: {ranks} ranks do not fill nodes of launch.ranks_per_node "
                f"{most}: every node needs as many"
            )
        return cls(ranks // most, most)

    def hosts(self, launch: Launch) -> list[str]:
        """The names of the nodes, this machine's loopback for one; raises `LaunchError` if the settings lack some.

        Inside a job the scheduler knows the nodes, and the script says in MASTER_ADDR which one leads.
        """
        if leader := os.environ.get("MASTER_ADDR"):
            return [leader] * self.count
        if self.count == 1 and not launch.hosts:
            return ["127.0.0.1"]
        if len(launch.hosts) < self.count:
            raise LaunchError(
                f"launch.hosts: names {len(launch.hosts)} nodes, {self.count} are needed "
                f"({self.count * self.ranks} ranks, {self.ranks} a node); the first one leads"
            )
        return launch.hosts[: self.count]


def torchrun_command(recipe: Recipe, nodes: Nodes, node: int, master: str, port: int) -> list[str]:
    """The command for one node, `node` its number."""
    return [
        sys.executable, "-m", "torch.distributed.run", f"--nnodes={nodes.count}", f"--node-rank={node}",
        f"--nproc-per-node={nodes.ranks}", f"--master-addr={master}", f"--master-port={port}",
        "-m", "fusion.train", recipe.variant, recipe.stage,
    ]  # fmt: skip


def deepspeed_command(
    recipe: Recipe, nodes: Nodes, hosts: list[str], node: int, port: int, environment: Mapping[str, str]
) -> list[str]:
    """DeepSpeed's launcher for one node, which needs no way from node to node but the group's own.

    `environment`: of the launcher; its CUDA_VISIBLE_DEVICES says which GPUs are meant.
    """
    # Of the other nodes only the number of ranks is read here.
    world = dict.fromkeys(_distinct(hosts), device_ids(recipe, nodes.ranks, environment))
    told = base64.urlsafe_b64encode(json.dumps(world).encode()).decode()
    return [
        sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={told}", f"--node_rank={node}",
        f"--master_addr={hosts[0]}", f"--master_port={port}", "--log_level=error",
        "--module", "fusion.train", recipe.variant, recipe.stage,
    ]  # fmt: skip


def _distinct(hosts: list[str]) -> list[str]:
    """DeepSpeed tells nodes apart by their names; two nodes on one host get one each."""
    return hosts if len(set(hosts)) == len(hosts) else [f"{host}#{number}" for number, host in enumerate(hosts)]


def job_variables(recipe: Recipe, launch: Launch) -> dict[str, str]:
    """What a job exports on every node before it starts ranks."""
    return {**rank_variables(recipe), **launch.environment}


def programs() -> str:
    """The folder of this environment's programs, which have to be on PATH of every node."""
    return str(Path(sys.executable).parent)
