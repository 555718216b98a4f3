"""The command `fusion diff`: what differs between two checkpoints, the most likely cause of other scores first."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fusion.lineage.compare import ABSENT
from fusion.lineage.records import ADOPT

if TYPE_CHECKING:
    from fusion.inquiry.side import Side
    from fusion.lineage.compare import RunDiff

SHOWN = 6
WEIGHTS = ("base", ADOPT, "train")
"""How the roles begin whose outputs are weights."""


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="As for `fusion lineage`, or REF@COMMIT.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Tell what differs between two checkpoints: data by source, parameters, code, environment, scores."""
    document = diff_document(first, second)
    print(json_module.dumps(document, indent=1, ensure_ascii=False, default=str) if json else tell(document))


def diff_document(first: str, second: str, root: Path = Path(".")) -> dict[str, Any]:
    """The comparison as plain values; `causes` are sorted, the most likely first."""
    from fusion.inquiry.side import open_side
    from fusion.lineage.compare import compare

    with open_side(first, root) as a, open_side(second, root) as b:
        runs = compare(a.family, b.family)
        data = _data(a, b, runs)
        scores = _scores(a, b)
    causes = [_cause(run, data, runs) for run in runs if run.is_cause or run.is_unexplained]
    return {
        "first": {"name": first, "digest": a.family.digest},
        "second": {"name": second, "digest": b.family.digest},
        "same_weights": not any(run.role.startswith(WEIGHTS) and not run.same_outputs for run in runs),
        "causes": sorted(_gathered(causes), key=_rank),
        "data": data,
        "environment": {name: list(pair) for run in runs for name, pair in run.environment.items()},
        "without_effect": [_told(run) for run in runs if run.own and run.same_outputs],
        "consequences": [r.role for r in runs if not r.own and not r.same_outputs and not r.is_unexplained],
        "scores": scores,
    }


def _told(run: RunDiff) -> dict[str, Any]:
    return {
        "run": run.role,
        "params": {name: list(pair) for name, pair in run.params.items()},
        "code": list(run.sources),
        "only_in": "B" if run.first is None else "A" if run.second is None else None,
    }


def _gathered(causes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs that differ in the same way are one cause: new code trains all three stages."""
    found: dict[str, dict[str, Any]] = {}
    for cause in causes:
        key = json_module.dumps({name: value for name, value in cause.items() if name != "run"}, default=str)
        if key in found:
            found[key]["run"] += f", {cause['run']}"
        else:
            found[key] = dict(cause)
    return list(found.values())


def _cause(run: RunDiff, data: list[dict[str, Any]], runs: list[RunDiff]) -> dict[str, Any]:
    """What a run changed, how likely it is what one looks for (0 to 1), and why."""
    name = run.role.partition("@")[0]
    trained = any(one.role.startswith(WEIGHTS) and not one.same_outputs for one in runs)
    share, why = 0.1, "made anew from the rest"
    changed_values = any(ABSENT not in pair for pair in run.params.values())
    if run.first is None or run.second is None:
        share = {"train": 0.9, ADOPT: 0.9, "shard": 0.8}.get(name.split("_")[0], 0.05)
        why = f"only {'B' if run.first is None else 'A'} has it"
    elif run.is_unexplained:
        share, why = 0.6, "equal inputs gave other outputs: the environment, or something that is not deterministic"
    elif name in ("base", ADOPT):
        share, why = 1.0, "training began from other weights"
    elif name.startswith("train"):
        share = 0.95 if changed_values else 0.7
        why = "training was told otherwise" if changed_values else "the code that trains is another"
    elif name == "evaluate":
        share, why = (
            (0.5, "it was measured otherwise") if trained else (1.0, "the weights are equal: the measuring differs")
        )
    elif name == "benchmark":
        share, why = 0.5 if trained else 0.9, "other held-out questions"
    elif name in ("ingest", "shard", "curate"):
        changed = [one for one in data if one["set"] in run.role]
        share, why = 0.3, "data was prepared otherwise"
        if changed:
            part = max(one["share"] for one in changed)
            share, why = min(0.95, 0.3 + part), f"{part:.1%} of the training rows of the set differ"
    elif name in ("package", "validate", "settings"):
        share, why = 0.02, "it has no part in weights or scores"
    return {"likelihood": round(share, 3), "why": why, **_told(run)}


def _rank(cause: dict[str, Any]) -> tuple[float, str]:
    return -float(cause["likelihood"]), str(cause["run"])


def _data(a: Side, b: Side, runs: list[RunDiff]) -> list[dict[str, Any]]:
    """Rows added and dropped by source, for each data set whose manifest differs and is to be had on both sides."""
    found = []
    for run in runs:
        if not run.role.startswith("curate@") or run.same_outputs or run.first is None or run.second is None:
            continue
        files = [
            side.file(next(iter(member.record.outputs)), "manifest.parquet")
            for side, member in ((a, run.first), (b, run.second))
        ]
        name = run.role.removeprefix("curate@")
        if files[0] is None or files[1] is None:
            found.append({"set": name, "share": 0.5, "sources": None, "kept": None})
            continue
        sources, kept = _rows(files[0], files[1])
        moved = sum(one["added"] + one["dropped"] for one in sources)
        found.append({"set": name, "share": moved / max(sum(kept), 1), "sources": sources, "kept": kept})
    return found


def _rows(first: Path, second: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """A row is the same when source, text and picture are; how often it is drawn is compared as well."""
    import polars as pl

    key = ["source", "text_sha256", "image_sha256"]
    sides = [
        pl.scan_parquet(path).select(*key, "draws").group_by(key).agg(pl.len().alias("n"), pl.col("draws").sum())
        for path in (first, second)
    ]
    both = sides[0].join(sides[1], on=key, how="full", coalesce=True, nulls_equal=True, suffix="_b")
    n, m = pl.col("n").fill_null(0).cast(pl.Int64), pl.col("n_b").fill_null(0).cast(pl.Int64)
    table = (
        both.group_by("source")
        .agg(
            n.sum().alias("before"),
            m.sum().alias("after"),
            (m - n).clip(lower_bound=0).sum().alias("added"),
            (n - m).clip(lower_bound=0).sum().alias("dropped"),
            ((n == m) & (pl.col("draws") != pl.col("draws_b"))).sum().alias("drawn_otherwise"),
        )
        .sort("source")
        .collect(engine="streaming")
    )
    changed = table.filter((pl.col("added") + pl.col("dropped") + pl.col("drawn_otherwise")) > 0)
    return list(changed.iter_rows(named=True)), [int(table["before"].sum()), int(table["after"].sum())]


def _scores(a: Side, b: Side) -> list[dict[str, Any]]:
    """The last checkpoint's accuracy on all questions of each benchmark, on both sides, with intervals."""
    tables = []
    for side in (a, b):
        scores = side.scores() or {"benchmarks": {}}
        rows = {}
        for name, value in scores["benchmarks"].items():
            found = [r for r in value["rows"] if r["group"] == "all" and r["system"].endswith("stage2")]
            if found:
                rows[name] = found[0]
        tables.append(rows)
    found = []
    for name in sorted(tables[0].keys() & tables[1].keys()):
        one, other = tables[0][name], tables[1][name]
        found.append(
            {
                "benchmark": name,
                "first": [one["accuracy"], one["low"], one["high"]],
                "second": [other["accuracy"], other["low"], other["high"]],
                "difference": round(other["accuracy"] - one["accuracy"], 6),
                "intervals_overlap": one["low"] <= other["high"] and other["low"] <= one["high"],
            }
        )
    return found


def tell(document: dict[str, Any]) -> str:
    """The comparison for people."""
    a, b = document["first"], document["second"]
    lines = [f"A {a['name']}  lineage {a['digest'][:16]}", f"B {b['name']}  lineage {b['digest'][:16]}"]
    for one in document["scores"]:
        first, second = (
            f"{100 * v[0]:.1f} ({100 * v[1]:.1f} to {100 * v[2]:.1f})" for v in (one["first"], one["second"])
        )
        sure = "the intervals overlap" if one["intervals_overlap"] else "beyond both intervals"
        lines.append(f"{one['benchmark']}: {first} -> {second}, {100 * one['difference']:+.1f} points, {sure}")
    if a["digest"] == b["digest"] and not document["causes"]:
        return "\n".join([*lines, "both were made from the same data, weights, parameters and code"])
    lines.append("the weights are equal" if document["same_weights"] else "the weights differ")
    for number, cause in enumerate(document["causes"], 1):
        lines.append(f"{number}. {cause['run']}: {cause['why']}")
        lines += _details(cause)
    for one in document["data"]:
        lines.append(
            f"rows of {one['set']}" + ("" if one["sources"] is not None else ": a manifest is not to be had here")
        )
        for source in one["sources"] or []:
            drawn = f", {source['drawn_otherwise']:,} drawn otherwise" if source["drawn_otherwise"] else ""
            lines.append(
                f"   {source['source']}: {source['before']:,} -> {source['after']:,}, "
                f"{source['added']:,} added, {source['dropped']:,} dropped{drawn}"
            )
    for name, (first, second) in list(document["environment"].items())[:20]:
        lines.append(f"environment: {name}: {first} -> {second}")
    if document["without_effect"]:
        names = ", ".join(sorted({one["run"].partition("@")[0] for one in document["without_effect"]}))
        lines.append(f"changed without effect on what was made: {len(document['without_effect'])} runs of {names}")
    if document["consequences"]:
        lines.append(f"differ only because what they read does: {', '.join(document['consequences'])}")
    return "\n".join(lines)


def _details(cause: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    # A value that both sides have says more than a setting that one of them did not know.
    pairs = sorted(cause["params"].items(), key=lambda item: ABSENT in item[1])
    lines += [f"   {name}: {first} -> {second}" for name, (first, second) in pairs[:SHOWN]]
    if len(pairs) > SHOWN:
        lines.append(f"   and {len(pairs) - SHOWN} more parameters")
    if cause["code"]:
        lines.append(f"   files: {', '.join(cause['code'][:SHOWN])}")
    return lines
