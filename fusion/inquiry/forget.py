"""The command `fusion forget`: the plan of a removal. It changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fusion.errors import FusionError
from fusion.files import write_json
from fusion.hashing import json_sha256

PLANS = Path("reports/forget")
_EVERY = 1_000_000_000


def forget(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="As for `fusion trace`.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write the plan; nothing is removed.")] = False,
    near: Annotated[int, typer.Option(min=0, max=60, help="Of a picture: as for `fusion trace`.")] = 31,
    gpu: Annotated[
        str, typer.Option(help="What training again would cost on: a GPU of fusion/plan/gpus.yaml.")
    ] = "h100",
) -> None:
    """Plan the removal of a sample, a picture, a source or a licence: rows, stages to run again, and what it costs."""
    if not dry_run:
        raise FusionError(
            "removing is a decision of people: `fusion forget WHAT --dry-run` writes the plan with its steps, in order"
        )
    plan = removal_plan(what, near, gpu)
    path = PLANS / f"{json_sha256([what, plan['rows']])[:16]}.json"
    write_json(plan, path)
    print(tell(plan))
    print(path)


def removal_plan(what: str, near: int = 31, gpu: str = "h100", root: Path = Path(".")) -> dict[str, Any]:
    """The plan as plain values: `rows` by data set, `shards`, `stages` to run again, `cost`, `steps` for people.

    Raises:
        FusionError: nothing of it is here.
    """
    from fusion.data.catalog import load_catalog
    from fusion.inquiry.trace import trace_document
    from fusion.lineage.family import Records
    from fusion.settings import load_settings

    traced = trace_document(what, near, _EVERY, root)
    if not traced["datasets"]:
        raise FusionError(f"nothing here has seen {what}: there is nothing to remove")
    records = Records(root)
    rows = {
        found["dataset"]: [{"row": one["number"], "sample_id": one["sample_id"]} for one in found["samples"]]
        for found in traced["datasets"]
    }
    dropped = [one["sample_id"] for found in traced["datasets"] for one in found["dropped"]]
    shards = sorted(shard for found in traced["datasets"] for shard in found["shards"])
    sources = {tuple(one["sample_id"].split("/")[:2]) for samples in rows.values() for one in samples}
    sources |= {tuple(sample.split("/")[:2]) for sample in dropped}
    stages = _stages_again(sources, records)
    settings, catalog = load_settings(root / "params.yaml"), load_catalog(root / "data/catalog")
    trained = sorted({stage.partition("@")[2] for stage in stages if stage.startswith("train_")})
    return {
        "query": traced["query"],
        "rows": rows,
        "dropped_before": dropped,
        "shards": shards,
        "stages": stages,
        "checkpoints": sorted({out for stage in stages for out in records.stages[stage].outs if _is_model(out)}),
        "cost": {variant: _cost(variant, stages, records, settings, catalog, gpu, root) for variant in trained},
        "steps": _steps(traced["query"], sources, stages),
    }


def _is_model(path: str) -> bool:
    return path.startswith(("checkpoints/", "packages/"))


def _stages_again(sources: set[tuple[str, ...]], records: Any) -> list[str]:
    """The stages from the sources on, in DVC's order."""
    from fusion.lineage.stages import ancestors_of

    first = {
        name for dataset, source in sources for name in (f"ingest@{dataset}-{source}", f"shard@{dataset}-{source}")
    }
    return [
        name
        for name in records.stages
        if name in first or first & {stage.name for stage in ancestors_of(name, records.stages)}
    ]


def _cost(
    variant: str, stages: list[str], records: Any, settings: Any, catalog: Any, gpu: str, root: Path
) -> dict[str, Any]:
    """Seconds that the stages took when they ran last, and what `fusion plan` says of training on GPUs."""
    from fusion.plan.api import make_plan
    from fusion.plan.errors import PlanError
    from fusion.quiet import quiet_libraries

    picked = {name: records.pick(name, {}, None) for name in stages if name.partition("@")[2] == variant}
    seconds = {name: record.document["run"]["seconds"] for name, record in picked.items() if record is not None}
    found: dict[str, Any] = {"recorded_seconds": seconds, "gpu": gpu, "gpu_hours": None}
    quiet_libraries()
    try:
        plan = make_plan(settings, catalog, variant, gpu=gpu, root=root)
    except PlanError as error:
        found["not_planned"] = str(error)
        return found
    again = {name: stage for name, stage in plan.stages.items() if f"train_{name}@{variant}" in stages}
    found["gpu_hours"] = {name: stage.gpu_hours for name, stage in again.items()}
    return found


def _steps(query: dict[str, Any], sources: set[tuple[str, ...]], stages: list[str]) -> list[str]:
    names = ", ".join("/".join(source) for source in sorted(sources))
    whole = query["kind"] in ("source", "licence")
    return [
        f"Take {'the sources' if whole else 'the samples'} out at the origin: {names}"
        + (
            " (out of data/catalog/)"
            if whole
            else " (out of the annotation files, and the pictures out of their archives)"
        ),
        f"Run `dvc repro`: {len(stages)} stages run again, from reading the sources to the packages.",
        "Look whether anything is left: `fusion trace WHAT` has to say that nothing has seen it.",
        "Withdraw published checkpoints and packages that saw it, and publish those made without it.",
        "Remove the old bytes: `dvc gc --workspace`, and `dvc gc --workspace --cloud` for the remote.",
    ]


def tell(plan: dict[str, Any]) -> str:
    """The plan for people."""
    lines = [f"plan of removing {plan['query']['kind']} {plan['query']['text']} (nothing was changed)"]
    for dataset, rows in plan["rows"].items():
        lines.append(f"  {dataset}: {len(rows):,} rows of the manifest")
    if plan["dropped_before"]:
        lines.append(
            f"  {len(plan['dropped_before']):,} samples that curation has dropped already; their bytes are in shards"
        )
    lines.append(f"  {len(plan['shards'])} shards hold their bytes")
    lines.append(f"  {len(plan['stages'])} stages to run again: {_by_name(plan['stages'])}")
    lines.append(f"  withdrawn: {', '.join(plan['checkpoints']) or 'no checkpoint'}")
    for variant, cost in plan["cost"].items():
        seconds = sum(cost["recorded_seconds"].values())
        text = f"  {variant}: {seconds:,.0f} s as recorded here"
        hours = cost["gpu_hours"]
        if hours and None not in hours.values():
            text += f"; planned: {sum(hours.values()):,.4g} {cost['gpu']} GPU hours"
        lines.append(text + (f"; no plan: {cost['not_planned']}" if "not_planned" in cost else ""))
    return "\n".join([*lines, *(f"{number}. {step}" for number, step in enumerate(plan["steps"], 1))])


def _by_name(stages: list[str]) -> str:
    counted: dict[str, int] = {}
    for stage in stages:
        counted[stage.partition("@")[0]] = counted.get(stage.partition("@")[0], 0) + 1
    return ", ".join(f"{name} x {count}" if count > 1 else name for name, count in counted.items())
