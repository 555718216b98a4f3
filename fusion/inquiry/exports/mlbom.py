"""A CycloneDX 1.6 ML-BOM: the model with its card, its data sets with their sources, its base models and
adopted checkpoints, its packages.

Source: https://cyclonedx.org/docs/1.6/json/. Written as JSON: the Python library drops `modelCard` when it reads one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fusion.inquiry.exports.common import PRODUCER, catalog_entries, identifier, spdx, subject_files, text_of
from fusion.lineage.family import Family, Member
from fusion.lineage.outside import adopted_of
from fusion.lineage.records import ADOPT
from fusion.lineage.view import group_of, licence_of, licence_text, source_of


def mlbom(family: Family, root: Path) -> str:
    """The bill of materials as JSON."""
    last = family.last
    sets = _data_sets(family)
    bases = [*_base_models(family), *_adopted(family)]
    packages = _packages(family)
    files = subject_files(family, root)
    model: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": Path(family.target).name,
        "version": family.digest[:16],
        "description": f"Made by {len(family.members)} recorded runs; lineage digest {family.digest}",
        "hashes": [{"alg": "SHA-256", "content": family.digest}],
        "components": [
            {"type": "file", "bom-ref": f"file:{name}", "name": name, "hashes": [{"alg": "SHA-256", "content": sha}]}
            for name, sha in sorted(files.items())
        ],
        "modelCard": {
            "modelParameters": {
                "task": "image-text-to-text",
                "architectureFamily": "vision-language model",
                "datasets": [{"ref": one["bom-ref"]} for one in sets],
                "inputs": [{"format": "image"}, {"format": "text"}],
                "outputs": [{"format": "text"}],
            }
        },
        "properties": [{"name": "fusion:command", "value": str(last.record.document["command"])}],
    }
    metrics = _metrics(family, root)
    if metrics:
        model["modelCard"]["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    components = [*bases, *sets, *packages]
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{identifier('mlbom', family.digest)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "fusion", "version": PRODUCER.rsplit(":", 1)[1]}]},
            "component": model,
        },
        "components": components,
        "dependencies": [{"ref": "model", "dependsOn": sorted(one["bom-ref"] for one in components)}],
    }
    return text_of(document)


def _data_sets(family: Family) -> list[dict[str, Any]]:
    """A component for each data set, with a component for each source inside."""
    groups: dict[str, list[Member]] = {}
    for member in family.members.values():
        if group_of(member).startswith("data set"):
            groups.setdefault(group_of(member).removeprefix("data set "), []).append(member)
    found = []
    for name, members in sorted(groups.items()):
        sources = [m for m in members if source_of(m) and licence_of(m) is not None]
        kept = [m for m in members if m.stage.startswith("curate")]
        component: dict[str, Any] = {
            "type": "data",
            "bom-ref": f"data:{name}",
            "name": name,
            "data": [{"type": "dataset", "name": name}],
            "components": [_source(name, member) for member in sorted(sources, key=lambda one: one.stage)],
        }
        if kept:
            component["hashes"] = [
                {"alg": "SHA-256", "content": sha} for sha in sorted(kept[0].record.outputs.values())[:1]
            ]
        found.append(component)
    return found


def _source(dataset: str, member: Member) -> dict[str, Any]:
    licence = licence_of(member) or {}
    name = licence.get("verified") or licence.get("declared")
    origin: Any = next(iter(catalog_entries(member, "origin").values()), {})
    component: dict[str, Any] = {
        "type": "data",
        "bom-ref": f"data:{dataset}/{source_of(member)}",
        "name": f"{dataset}/{source_of(member)}",
        "hashes": [
            {"alg": "SHA-256", "content": sha}
            for p, sha in member.record.outputs.items()
            if p.startswith("data/shards/")
        ],
        "data": [{"type": "dataset", "name": f"{dataset}/{source_of(member)}"}],
        "properties": [
            {"name": "fusion:licence", "value": licence_text(licence or None)},
            {"name": "fusion:origin", "value": json.dumps(origin, sort_keys=True)},
        ],
    }
    if name:
        component["licenses"] = [{"license": spdx(name)}]
    return component


def _base_models(family: Family) -> list[dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for member in family.members.values():
        for values in member.record.document["params"].values():
            for key, value in values.items():
                if key.endswith(".base") and isinstance(value, dict):
                    for part in ("llm", "tower"):
                        entry = value.get(part) or {}
                        name = entry.get("name")
                        if name:
                            found[name] = {
                                "type": "machine-learning-model", "bom-ref": f"base:{name}", "name": name,
                                "version": str(entry.get("revision") or "unknown"),
                            }  # fmt: skip
    return [found[name] for name in sorted(found)]


def _adopted(family: Family) -> list[dict[str, Any]]:
    """A component for each checkpoint that was made elsewhere, as its record tells of it."""
    found = []
    for member in family.members.values():
        adopted = adopted_of(member.record)
        if adopted is None:
            continue
        facts = member.record.document["params"][ADOPT]
        ((path, sha256),) = member.record.outputs.items()
        component: dict[str, Any] = {
            "type": "machine-learning-model",
            "bom-ref": f"adopted:{path}",
            "name": adopted.name,
            "version": adopted.commit or sha256[:16],
            "description": "A checkpoint that was trained elsewhere; its data are not known here",
            "hashes": [{"alg": "SHA-256", "content": sha256}],
            "components": [
                {
                    "type": "file", "bom-ref": f"adopted:{path}/{name}", "name": name,
                    "hashes": [{"alg": "SHA-256", "content": file["sha256"]}],
                }
                for name, file in sorted(facts["files"].items())
            ],
            "properties": [
                {"name": "fusion:licence", "value": adopted.licence},
                {"name": "fusion:origin", "value": json.dumps(facts["origin"], sort_keys=True)},
                {"name": "fusion:stage", "value": str(facts["stage"])},
            ],
        }  # fmt: skip
        licences = [
            {"license": {**spdx(name), "acknowledgement": how}}
            for name, how in ((adopted.declared, "declared"), (adopted.follows, "concluded"))
            if name
        ]
        if licences:
            component["licenses"] = licences
        found.append(component)
    return sorted(found, key=lambda one: str(one["bom-ref"]))


def _packages(family: Family) -> list[dict[str, Any]]:
    versions: dict[str, str] = {}
    for member in family.members.values():
        for name, version in ((member.run.get("environment") or {}).get("packages") or {}).items():
            if version:
                versions[name] = str(version)
    return [
        {
            "type": "library", "bom-ref": f"pkg:{name}", "name": name, "version": version,
            "purl": f"pkg:pypi/{name}@{version.replace('+', '%2B')}",
        }
        for name, version in sorted(versions.items())
    ]  # fmt: skip


def _metrics(family: Family, root: Path) -> list[dict[str, Any]]:
    for member in family.members.values():
        for path in member.record.outputs:
            if path.endswith("scores.json") and (root / path).is_file():
                scores = json.loads((root / path).read_text(encoding="utf-8"))
                return [
                    {
                        "type": "accuracy", "slice": f"{name}: {row['group']}, {row['system']}",
                        "value": f"{row['accuracy']:.6f}",
                        "confidenceInterval": {"lowerBound": f"{row['low']:.6f}", "upperBound": f"{row['high']:.6f}"},
                    }
                    for name, value in sorted(scores["benchmarks"].items())
                    for row in value["rows"]
                ]  # fmt: skip
    return []
