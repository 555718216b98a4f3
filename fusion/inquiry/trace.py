"""The command `fusion trace`: from a sample, a picture, a source or a licence to everything that saw it."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fusion.inquiry.find import Found, Query
    from fusion.inquiry.seen import Run


def trace(
    what: Annotated[
        str,
        typer.Argument(metavar="WHAT", help="Sample id, sha256, a picture file, SOURCE, DATASET/SOURCE, or a licence."),
    ],
    near: Annotated[
        int,
        typer.Option(
            min=0, max=60, help="Of a picture: also those that differ in so many of 256 bits (PDQ; its authors use 31)."
        ),
    ] = 31,
    limit: Annotated[int, typer.Option(min=1, help="Samples that are listed of each data set.")] = 20,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Follow a sample, a picture, a source or a licence to each shard, training step and checkpoint that saw it."""
    document = trace_document(what, near, limit)
    print(json_module.dumps(document, indent=1, ensure_ascii=False) if json else tell(document))


def trace_document(what: str, near: int = 31, limit: int = 20, root: Path = Path(".")) -> dict[str, Any]:
    """All that is known, as plain values: `query`, and `datasets` with samples, shards, dropped ones, training runs."""
    from fusion.inquiry.find import find_samples, nearest, parse_query
    from fusion.inquiry.seen import runs_that_saw
    from fusion.lineage.family import Records
    from fusion.settings import load_settings

    query = parse_query(what, near, load_settings(root / "params.yaml").data.max_image_pixels, root)
    records = Records(root)
    datasets = []
    for found in find_samples(query, limit, root):
        runs = runs_that_saw(found.dataset, found.rows, records, root) if len(found.rows) else []
        datasets.append(_document(found, runs))
    closest = nearest(query, root) if not datasets else None
    return {"query": _asked(query), "datasets": datasets, "nearest": closest and list(closest)}


def _asked(query: Query) -> dict[str, Any]:
    asked: dict[str, Any] = {"kind": query.kind, "text": query.text}
    if query.sha256:
        asked["sha256"] = query.sha256
    if query.pdq is not None:
        asked |= {"pdq": query.pdq.hex(), "distance": query.distance}
    return asked


def _document(found: Found, runs: list[Run]) -> dict[str, Any]:
    from fusion.inquiry.seen import as_ranges

    return {
        "dataset": found.dataset,
        "kept": len(found.rows),
        "samples": found.samples,
        "shards": found.shards,
        "dropped": found.dropped,
        "runs": [
            {
                "stage": run.stage,
                "record": run.record,
                "checkpoint": run.checkpoint,
                "descendants": list(run.descendants),
                "steps": run.steps,
                "seen_at": None if run.spread else list(run.seen_at),
                "seen": "throughout" if run.spread and not run.note else as_ranges(run.seen_at) or None,
                "note": run.note,
            }
            for run in runs
        ],
    }


def tell(document: dict[str, Any]) -> str:
    """The same for people."""
    query, datasets = document["query"], document["datasets"]
    lines = [f"{query['kind']} {query['text']}"]
    if not datasets:
        lines.append("nothing here has seen it: no manifest, index or ledger of data/ knows it")
        if document["nearest"]:
            sample, bits = document["nearest"]
            looked = f"nor a picture that differs in at most {query['distance']} of 256 bits"
            lines.append(f"{looked}; the nearest one, {sample}, differs in {bits} (two unlike pictures: about 128)")
        return "\n".join(lines)
    for found in datasets:
        total = found["kept"]
        lines.append(f"\n{found['dataset']}: {total:,} {'sample' if total == 1 else 'samples'} kept for training")
        for sample in found["samples"][: total if total <= 20 else None]:
            near = f"  {sample['distance']} bits away" if sample["distance"] else ""
            licence = sample["licence_verified"] or f"{sample['licence_declared'] or 'unknown'}, unverified"
            place = f"{sample['file']} row {sample['row']}"
            lines.append(f"  {sample['sample_id']}{near}  {place}  {sample['image_path'] or 'no picture'}  ({licence})")
        if total > len(found["samples"]):
            lines.append(f"  ... and {total - len(found['samples']):,} more")
        shards = list(found["shards"].items())
        lines += [f"  in {shard}: {count:,}" for shard, count in shards[:8]]
        if len(shards) > 8:
            lines.append(f"  in {len(shards) - 8} more shards")
        for one in found["dropped"]:
            why = f"{one['block']}/{one['reason']} ({one['evidence']})"
            lines.append(f"  {one['sample_id']} was read and dropped, nothing was trained on it: {why}")
        for run in found["runs"]:
            seen = run["note"] or (
                f"throughout its {run['steps']:,} steps"
                if run["seen"] == "throughout"
                else f"at step {run['seen']} of {run['steps']:,}"
            )
            if run["seen_at"] == []:
                seen = "not drawn: too long for the stage, or its weight is 0"
            lines.append(f"  {run['stage']} saw it {seen}" if run["seen_at"] != [] else f"  {run['stage']}: {seen}")
            lines.append(
                f"    checkpoint {run['checkpoint']}; made from it: {', '.join(run['descendants']) or 'nothing'}"
            )
        if total and not found["runs"]:
            lines.append("  no recorded training stage has read this data set")
    return "\n".join(lines)
