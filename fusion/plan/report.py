"""`fusion plan` in the terminal: tables that one can act on, readable at 100 columns."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table

from fusion.plan.api import Plan
from fusion.plan.facts import plan_facts

WIDTH = 110
_GIB, _GB = 2.0**30, 1e9
_UNKNOWN = "unknown"
_HOST = "GiB a GPU of the host's memory"
_HOST_SECONDS = "  of the host, for what is offloaded"
_MEMORY = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "total")


def show_plan(plan: Plan, *, as_json: bool = False, every_option: bool = False, price: float | None = None) -> None:
    """Prints a plan; `every_option`: the memory of each way to run a stage by part, not only its total.

    `price`: of one GPU for an hour.
    """
    facts = plan_facts(plan, price)
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    terminal = Console()
    console = terminal if terminal.is_terminal else Console(width=WIDTH)
    gpu = facts["gpu"]
    _say(
        console,
        f"{plan.variant} on {facts['gpus']} x {gpu['title']}, "
        f"{facts['utilisation']:.0%} of {gpu['tflops']:g} TFLOP/s reached{_links(facts)}",
        "parameters: "
        + ", ".join(f"{name} {count:,}" for name, count in facts["parameters"].items() if name != "total")
        + f"; {facts['parameters']['total']:,} in all",
        "",
    )
    _print_summary(facts["stages"], console)
    _say(console, "", _in_all(facts), "What it comes to in params.yaml:", *_settings(facts))
    for name, stage in facts["stages"].items():
        advised = stage["advised"]
        _say(console, "", f"{name}: take {_named(advised)}: {advised['why']}.", *_otherwise(stage))
        _print_options(stage, console) if every_option else _print_totals(stage, console)
    _say(console, "", *_notes(facts))


def _links(facts: dict[str, Any]) -> str:
    gpu, gpus = facts["gpu"], facts["gpus"]
    if gpus == 1:
        return ""
    if gpus <= gpu["devices_a_node"]:
        return f"; one node, {gpu['node_gb_s']:g} GB/s a GPU"
    return f"; nodes of {gpu['devices_a_node']}, {gpu['network_gb_s']:g} GB/s between them"


def _in_all(facts: dict[str, Any]) -> str:
    if facts["hours"] is None:
        return "In all: steps and hours are known once the data sets have their manifests: `dvc repro`."
    told = f"In all: {facts['hours']:,.1f} hours, {facts['gpu_hours']:,.0f} GPU-hours"
    if facts["cost"] is not None:
        told += f", a cost of {facts['cost']:,.0f}"
    return told + ": training alone, no evaluation, no step done twice."


def _settings(facts: dict[str, Any]) -> list[str]:
    lines = []
    for key, values in facts["settings"].items():
        told = {name: value for name, value in values.items() if value is not None}
        lines.append(f"  {key}: {{{', '.join(f'{name}: {json.dumps(value)}' for name, value in told.items())}}}")
        if "micro_batch" in values and values["micro_batch"] is None:
            lines.append("  (no micro_batch fits in all stages: set it before each of them)")
    return lines


def _otherwise(stage: dict[str, Any]) -> list[str]:
    """What params.yaml has, and what is left when the advice does not fit."""
    advised, own, other = stage["advised"], stage["as_set"], stage["fallback"]

    def against(option: dict[str, Any]) -> str:
        more = option["seconds_a_step"] / advised["seconds_a_step"] - 1
        told = "does not fit" if not option["fits"] else f"{abs(more):.0%} {'less' if more < -0.005 else 'more'} time"
        return f"{_named(option)} ({option['memory_bytes']['total'] / _GIB:.1f} GiB, {told})"

    lines = [f"params.yaml has {against(own)}." if _named(own) != _named(advised) else "params.yaml has it so."]
    return lines + ([] if other is None else [f"Should it not fit after all: {against(other)}."])


_ROWS: list[tuple[str, Callable[[dict[str, Any]], str]]] = [
    ("samples", lambda s: _whole(s["data"]["samples"])),
    ("global batch", lambda s: f"{s['global_batch']:,}"),
    ("steps", lambda s: _whole(s["steps"])),
    ("tokens a sample", lambda s: f"{s['tokens']['a_sample']:,.0f}"),
    ("tokens a step", lambda s: f"{s['tokens']['a_step']:,.0f}"),
    ("tokens in all", lambda s: _scaled(s["tokens"]["all"], 1e9, "x 10^9")),
    *(
        (f"TFLOP a sample: {part}", lambda s, part=part: f"{s['flops']['a_sample'][part] / 1e12:.3g}")
        for part in ("tower", "projectors", "decoder", "interaction", "head", "all")
    ),
    ("FLOPs in all", lambda s: _scaled(s["flops"]["all"], 1e21, "x 10^21")),
    ("ZeRO stage", lambda s: str(s["advised"]["zero_stage"])),
    ("micro-batch x accumulation", lambda s: f"{s['advised']['micro_batch']} x {s['advised']['accumulation']}"),
    ("activation checkpointing", lambda s: "yes" if s["advised"]["activation_checkpointing"] else "no"),
    *(
        (f"GiB a GPU: {part}", lambda s, part=part: f"{s['advised']['memory_bytes'][part] / _GIB:.1f}")
        for part in _MEMORY
    ),
    (_HOST, lambda s: f"{s['advised']['host_bytes'] / _GIB:.1f}"),
    ("seconds a step", lambda s: f"{s['time']['seconds_a_step']:.3g}"),
    ("  of arithmetic", lambda s: f"{s['advised']['compute_seconds']:.3g}"),
    ("  of exchange", lambda s: f"{s['advised']['exchange_seconds']:.3g}"),
    (_HOST_SECONDS, lambda s: f"{s['advised']['host_seconds']:.3g}"),
    ("model FLOPs utilisation", lambda s: f"{s['time']['model_flops_utilisation']:.0%}"),
    ("hours", lambda s: _scaled(s["time"]["hours"], 1, "")),
    ("GPU-hours", lambda s: _whole(s["time"]["gpu_hours"])),
    ("GB of data", lambda s: _scaled(s["data"]["bytes"], _GB, "")),
    ("MB/s read, all GPUs", lambda s: _scaled(s["loader"]["bytes_a_second"], 1e6, "")),
    ("pictures/s, all GPUs", lambda s: f"{s['loader']['pictures_a_second']:,.0f}"),
    ("processor cores a GPU to decode", lambda s: f"{s['loader']['cores_a_gpu']:.2g}"),
    ("GB of the finished checkpoint", lambda s: _scaled(s["checkpoints"]["weights_bytes"], _GB, "")),
    ("GB of a resumable state", lambda s: _scaled(s["checkpoints"]["state_bytes"], _GB, "")),
    ("GB of disk for checkpoints", lambda s: _scaled(s["checkpoints"]["disk_bytes"], _GB, "")),
]


def _print_summary(stages: dict[str, Any], console: Console) -> None:
    table = _table("", *stages)
    offloaded = any(stage["advised"]["host_bytes"] for stage in stages.values())
    for title, value in _ROWS:
        if title in (_HOST, _HOST_SECONDS) and not offloaded:
            continue
        table.add_row(title, *(value(stage) for stage in stages.values()))
    console.print(table)


def _print_totals(stage: dict[str, Any], console: Console) -> None:
    """GiB a GPU: a row for each ZeRO stage with and without checkpointing, a column for each micro-batch.

    Of the micro-batches that fit in no way the smallest is shown.
    """
    sizes = sorted({option["micro_batch"] for option in stage["options"]})
    fitting = [option["micro_batch"] for option in stage["options"] if option["fits"]]
    sizes = [size for size in sizes if size <= max(fitting)] + [size for size in sizes if size > max(fitting)][:1]
    table = _table("GiB a GPU (* fits), micro-batch:", *map(str, sizes))
    rows: dict[str, dict[int, str]] = {}
    for option in stage["options"]:
        title = f"ZeRO-{option['zero_stage']}" + (", checkpointing" if option["activation_checkpointing"] else "")
        told = f"{option['memory_bytes']['total'] / _GIB:.1f}{'*' if option['fits'] else ' '}"
        rows.setdefault(title, {})[option["micro_batch"]] = told
    for title, cells in rows.items():
        table.add_row(title, *(cells[size] for size in sizes))
    console.print(table)


def _print_options(stage: dict[str, Any], console: Console) -> None:
    """Every way to run a stage, its memory by part in GiB and its time."""
    table = _table("ZeRO", "micro", "ckpt", *_MEMORY, "fits", "s/step")
    for option in stage["options"]:
        table.add_row(
            str(option["zero_stage"]),
            str(option["micro_batch"]),
            "yes" if option["activation_checkpointing"] else "no",
            *(f"{option['memory_bytes'][part] / _GIB:.1f}" for part in _MEMORY),
            "yes" if option["fits"] else "no",
            f"{option['seconds_a_step']:.3g}",
        )
    console.print(table)


def _named(option: dict[str, Any]) -> str:
    told = f"ZeRO-{option['zero_stage']}, micro-batch {option['micro_batch']}, "
    told += "activation checkpointing" if option["activation_checkpointing"] else "no activation checkpointing"
    return told + (", the optimiser offloaded" if option["offload"] else "")


def _notes(facts: dict[str, Any]) -> list[str]:
    lines = [
        "FLOPs are the model's, forward and backward; memory is that of the longest samples that max_length allows.",
        f"Reached: {facts['utilisation']:.0%} of the dense rate, recomputation counted (--utilisation).",
    ]
    for name, stage in facts["stages"].items():
        data = stage["data"]
        too_long = f", {data['too_long']:.1%} of them too long" if data["too_long"] else ""
        lines.append(f"{name}: {data['dataset']}: {data['source']}{too_long}.")
    if any(stage["advised"]["offload"] for stage in facts["stages"].values()):
        lines.append("Offloaded: rates of the host and of the way to it are assumptions (docs/planning.md).")
    return lines


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _whole(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:,.0f}"


def _scaled(value: float | None, unit: float, name: str) -> str:
    if value is None:
        return _UNKNOWN
    number = value / unit
    return (f"{number:,.3g} {name}" if number < 1000 else f"{number:,.0f} {name}").rstrip()


def _say(console: Console, *lines: str) -> None:
    for line in lines:
        console.print(line, markup=False, highlight=False)
