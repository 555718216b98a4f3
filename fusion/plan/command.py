"""The command `fusion plan`: its options. What it needs is imported when it runs: every command imports this file."""

from pathlib import Path
from typing import Annotated

import typer


def plan(
    variant: Annotated[str, typer.Argument(metavar="VARIANT", help="A variant of params.yaml.")],
    gpu: Annotated[str, typer.Option(help="A GPU of fusion/plan/gpus.yaml.")] = "h100",
    gpus: Annotated[
        int | None, typer.Option(min=1, help="How many; hardware.ranks of the variant if left out.")
    ] = None,
    zero: Annotated[int | None, typer.Option(min=0, max=3, help="This ZeRO stage alone.")] = None,
    micro_batch: Annotated[int | None, typer.Option(min=1, help="This micro-batch alone.")] = None,
    checkpointing: Annotated[
        bool | None, typer.Option("--checkpointing/--no-checkpointing", help="With or without it alone.")
    ] = None,
    offload: Annotated[bool, typer.Option("--offload", help="The optimiser in the host's memory.")] = False,
    utilisation: Annotated[
        float | None, typer.Option(min=0.01, max=1.0, help="Share of the GPU's dense rate that is reached; 0.4.")
    ] = None,
    price: Annotated[float | None, typer.Option(min=0, help="Of one GPU for an hour: tells the cost.")] = None,
    memory: Annotated[bool, typer.Option("--memory", help="The memory of every choice by part.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say what training a variant needs, before it is paid for: steps, FLOPs, memory, hours, data, checkpoints."""
    from fusion.data.catalog import load_catalog
    from fusion.settings import load_settings

    settings, catalog = load_settings(), load_catalog(Path("data/catalog"))
    settings.variant(variant)
    from fusion.plan.api import make_plan
    from fusion.plan.choice import Choice
    from fusion.plan.report import show_plan
    from fusion.plan.stage import UTILISATION
    from fusion.quiet import quiet_libraries

    quiet_libraries()
    choice = Choice(zero, micro_batch, checkpointing, offload or settings.hardware(variant).offload_optimizer)
    reached = UTILISATION if utilisation is None else utilisation
    planned = make_plan(settings, catalog, variant, gpu=gpu, gpus=gpus, utilisation=reached, choice=choice)
    show_plan(planned, as_json=json, every_option=memory, price=price)
