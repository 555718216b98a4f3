"""`fusion train --launcher`: runs, submits or prints what starts the ranks of a stage."""

import os
import shlex
from collections.abc import Mapping

from fusion.documents import did_you_mean
from fusion.launch_settings import Launch
from fusion.launchers.errors import LaunchError
from fusion.launchers.nodes import Nodes, deepspeed_command, job_variables, programs, torchrun_command
from fusion.launchers.scripts import kubernetes_job, slurm_script
from fusion.launchers.slurm import check_no_job, submit
from fusion.train.launch import Start, launcher_command, local, rank_environment
from fusion.train.recipe import Recipe
from fusion.train.running import Ending, run_launcher

STARTING = ("local", "torchrun", "deepspeed", "slurm")
PRINTED = (*STARTING, "kubernetes")


def starter(launch: Launch, launcher: str | None, node: int | None) -> Start:
    """What runs the ranks of a stage to their end.

    Args:
        launch: the settings.
        launcher: one of STARTING; None = that of the settings.
        node: number of this node, for torchrun and deepspeed; None = the first one.

    Raises:
        LaunchError: there is no such launcher, or the node has no place in it.
    """
    chosen = launcher or launch.launcher
    if chosen not in STARTING:
        raise LaunchError(
            f"there is no launcher `{chosen}`{did_you_mean(chosen, STARTING)}: one of {', '.join(STARTING)}, print"
        )
    if node is not None and chosen not in ("torchrun", "deepspeed"):
        raise LaunchError(f"--node-rank: the launcher {chosen} starts all nodes itself")
    if chosen == "local":
        return local(launch.environment)
    if chosen == "slurm":
        return Start(lambda recipe: submit(recipe, launch), lambda recipe: 0, node=None)
    return Start(
        lambda recipe: start_node(recipe, launch, chosen, node or 0),
        lambda recipe: Nodes.of(recipe, launch).ranks,
        node or 0,
    )


def start_of(recipe: Recipe, launch: Launch, launcher: str | None, node: int | None) -> Start:
    """`starter` of a stage; raises `LaunchError` as well if a job is at work on it: only SLURM's way waits."""
    if (launcher or launch.launcher) != "slurm":
        check_no_job(recipe)
    return starter(launch, launcher, node)


def start_node(recipe: Recipe, launch: Launch, launcher: str, node: int) -> Ending:
    """Runs the ranks of one node; the others are started there by the same command with their own number."""
    environment = {**rank_environment(recipe), **launch.environment}
    return run_launcher(node_command(recipe, launch, launcher, node, environment), environment, recipe.root)


def node_command(
    recipe: Recipe, launch: Launch, launcher: str, node: int, environment: Mapping[str, str] | None = None
) -> list[str]:
    """The command of one node; raises `LaunchError` if there are fewer nodes.

    `environment`: of that node; None = nothing is known of it but what the settings say.
    """
    nodes = Nodes.of(recipe, launch)
    hosts = nodes.hosts(launch)
    if node >= nodes.count:
        raise LaunchError(f"--node-rank {node}: {recipe.variant} has {nodes.count} nodes, 0 to {nodes.count - 1}")
    if launcher == "torchrun":
        return torchrun_command(recipe, nodes, node, hosts[0], launch.port)
    known = launch.environment if environment is None else environment
    return deepspeed_command(recipe, nodes, hosts, node, launch.port, known)


def printed(recipe: Recipe, launch: Launch, kind: str | None) -> str:
    """What a launcher would run, as text: a script, a manifest, or the command of every node with its variables.

    Raises:
        LaunchError: there is no such launcher.
    """
    chosen = kind or launch.launcher
    if chosen not in PRINTED:
        raise LaunchError(f"--as: there is no `{chosen}`{did_you_mean(chosen, PRINTED)}: one of {', '.join(PRINTED)}")
    if chosen == "slurm":
        return slurm_script(recipe, launch)
    if chosen == "kubernetes":
        return kubernetes_job(recipe, launch)
    if chosen == "local":
        environment = {**rank_environment(recipe), **launch.environment}
        return _with_variables(recipe, launch, launcher_command(recipe, environment)) + "\n"
    nodes = Nodes.of(recipe, launch)
    hosts = nodes.hosts(launch)
    lines = []
    for number, host in enumerate(hosts):
        lines.append(f"# node {number} of {nodes.count}: {host}")
        lines.append(_with_variables(recipe, launch, node_command(recipe, launch, chosen, number)))
    return "\n".join([*lines, ""])


def _with_variables(recipe: Recipe, launch: Launch, command: list[str]) -> str:
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in job_variables(recipe, launch).items())
    folder = shlex.quote(os.path.abspath(recipe.root))
    return f'cd {folder} && PATH={shlex.quote(programs())}:"$PATH" {variables} {shlex.join(command)}'
