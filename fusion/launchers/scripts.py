"""Job scripts for SLURM and Kubernetes, filled in from the settings."""

import shlex
import sys
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from fusion.launch_settings import Launch
from fusion.launchers.nodes import Nodes, job_variables, programs
from fusion.train.recipe import Recipe

_TEMPLATES = Path(__file__).with_name("templates")


def slurm_script(recipe: Recipe, launch: Launch) -> str:
    """A batch script: one task a node, which starts the ranks of its node."""
    return _render("slurm.sh", recipe, launch, f"exec {sys.executable} {_node_command(recipe, '$SLURM_NODEID')}")


def kubernetes_job(recipe: Recipe, launch: Launch) -> str:
    """An indexed job with a pod a node, and the service by which they find the first one."""
    return _render("kubernetes.yaml", recipe, launch, f"exec python {_node_command(recipe, '$JOB_COMPLETION_INDEX')}")


def _node_command(recipe: Recipe, number: str) -> str:
    # Through the project's own command, which knows how to stop ranks so that they save first.
    return f"-m fusion.cli train {recipe.variant} {recipe.stage} --launcher torchrun --node-rank {number}"


def job_name(recipe: Recipe) -> str:
    """A name that schedulers take: small letters, digits and dashes."""
    name = f"fusion-{recipe.variant.removeprefix('fusion-')}-{recipe.stage}"
    return name.lower().replace("_", "-")


def _render(template: str, recipe: Recipe, launch: Launch, command: str) -> str:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["quoted"] = shlex.quote
    return environment.get_template(template).render(
        recipe=recipe,
        launch=launch,
        nodes=Nodes.of(recipe, launch),
        name=job_name(recipe),
        variables=job_variables(recipe, launch),
        programs=programs(),
        command=command,
    )
