"""The records of four variants, three stages and 79 sources, as a run of the published models would leave them."""

from pathlib import Path
from typing import Any

from fusion.data.catalog import load_catalog
from fusion.hashing import json_sha256
from fusion.lineage.family import Family, family_of_document

HERE = Path(__file__).parents[2]
VARIANTS = ("fusion-phi35-3b", "fusion-x-phi35-3b", "fusion-llama31-8b", "fusion-x-llama31-8b")
STAGES = {"stage1": "fusion-pretrain-10m", "stage1_5": "fusion-5m-stage1_5", "stage2": "fusion-7m-stage2"}


def published_families() -> list[Family]:
    """One lineage a variant."""
    catalog = load_catalog(HERE / "data/catalog")
    shared: dict[str, dict[str, Any]] = {}
    for stage in list(STAGES):
        name, entry = next((n, d) for n, d in catalog.datasets.items() if d.for_stage == stage and d.published)
        STAGES[stage] = name
        for source, facts in entry.sources.items():
            raw = _add(shared, f"ingest@{name}-{source}", {}, [f"data/raw/{name}/{source}"])
            params = {entry.file: {f"datasets.{name}.sources.{source}.licence": facts.licence.model_dump()}}
            outs = [f"data/shards/{name}/{source}", f"data/index/{name}/{source}"]
            _add(shared, f"shard@{name}-{source}", raw, outs, params)
        of_set = {p: h for s in list(shared.values()) for p, h in s["outputs"].items() if f"/{name}/" in p}
        kept = _add(shared, f"curate@{name}", of_set, [f"data/manifests/{name}"])
        _add(shared, f"validate@{name}", kept, [f"data/validation/{name}"])
    families = []
    for variant in VARIANTS:
        stages = dict(shared)
        before = _add(stages, f"base@{variant}", {}, [f"checkpoints/{variant}/base"])
        for stage, name in STAGES.items():
            read = {
                p: h for s in shared.values() for p, h in s["outputs"].items() if f"/{name}" in p and "raw" not in p
            }
            before = _add(stages, f"train_{stage}@{variant}", {**before, **read}, [f"checkpoints/{variant}/{stage}"])
        scores = _add(stages, f"evaluate@{variant}", before, [f"results/{variant}/evaluation/scores.json"])
        _add(stages, f"package@{variant}", {**before, **scores}, [f"packages/{variant}"])
        digest = json_sha256({stage: core["digest"] for stage, core in stages.items()})
        families.append(family_of_document({"digest": digest, "stages": stages}, f"packages/{variant}"))
    return families


def _add(
    stages: dict[str, dict[str, Any]],
    name: str,
    inputs: dict[str, str],
    outs: list[str],
    params: dict[str, Any] | None = None,
) -> dict[str, str]:
    core: dict[str, Any] = {
        "stage": name, "command": f"fusion {name.replace('@', ' ')}", "params": params or {},
        "inputs": {**inputs, "fusion/model": json_sha256("code")},
        "outputs": {path: json_sha256(path) for path in outs},
    }  # fmt: skip
    stages[name] = {**core, "digest": json_sha256(core)}
    return core["outputs"]
