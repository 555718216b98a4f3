"""W3C PROV as PROV-JSON: entities (files by content), activities (runs), what used and what made what.

Source: https://www.w3.org/submissions/prov-json/.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fusion.inquiry.exports.common import PRODUCER, text_of
from fusion.lineage.family import Family


def prov(family: Family, root: Path) -> str:
    """The document as JSON. An entity is a path with a content: the same path with other bytes is another entity."""
    entities: dict[str, Any] = {}
    activities: dict[str, Any] = {}
    used: dict[str, Any] = {}
    made: dict[str, Any] = {}
    informed: dict[str, Any] = {}
    associated: dict[str, Any] = {}
    number = {key: f"fusion:run-{position}" for position, key in enumerate(family.members)}

    def entity(path: str, sha256: str) -> str:
        name = f"fusion:{sha256[:16]}-{path.replace('/', '.')}"
        entities[name] = {"prov:label": path, "fusion:sha256": sha256}
        return name

    for key, member in family.members.items():
        activity = number[key]
        activities[activity] = {"prov:label": member.stage, "fusion:command": member.record.document["command"]}
        for name, field in (("prov:startTime", "started"), ("prov:endTime", "ended")):
            if member.run.get(field):
                activities[activity][name] = member.run[field]
        for path, sha in sorted(member.record.inputs.items()):
            used[f"_:u{len(used)}"] = {"prov:activity": activity, "prov:entity": entity(path, sha)}
        for path, sha in sorted(member.record.outputs.items()):
            made[f"_:g{len(made)}"] = {"prov:entity": entity(path, sha), "prov:activity": activity}
        for parent in sorted(filter(None, member.parents.values())):
            informed[f"_:i{len(informed)}"] = {"prov:informed": activity, "prov:informant": number[parent]}
        associated[f"_:a{len(associated)}"] = {"prov:activity": activity, "prov:agent": "fusion:pipeline"}
    document = {
        "prefix": {"fusion": "urn:fusion-pipeline:"},
        "entity": entities,
        "activity": activities,
        "agent": {
            "fusion:pipeline": {"prov:label": PRODUCER, "prov:type": {"$": "prov:SoftwareAgent", "type": "xsd:QName"}}
        },
        "used": used,
        "wasGeneratedBy": made,
        "wasInformedBy": informed,
        "wasAssociatedWith": associated,
    }
    return text_of(document)
