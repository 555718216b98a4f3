"""A draft of the public summary of training content that the EU's AI Act, Article 53(1)(d), asks of providers.

It fills in what manifests, records and the catalog know, in the order of the template of the AI Office, and says what
a person has to add. It is a working paper, not legal advice.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fusion.inquiry.exports.common import catalog_entries
from fusion.lineage.family import Family, Member
from fusion.lineage.outside import adopted_of
from fusion.lineage.view import group_of, licence_of, licence_text, source_of

TODO = "**to be filled in**"
NOTICE = (
    "> Draft, made by a program from the pipeline's records. It is no legal advice and no statement of conformity. A\n"
    f"> person who is responsible has to check it and to complete what is marked {TODO}."
)
_KINDS = {
    "published": "publicly available data set",
    "table": "data set of the provider",
    "clipart": "publicly available data set",
    "easy_vqa": "publicly available data set",
    "scenes": "synthetic data, drawn by a program of the provider",
    "text": "synthetic data, written by a program of the provider",
}


def eu_summary(family: Family, root: Path) -> str:
    """The draft as Markdown."""
    sets: dict[str, list[Member]] = {}
    for member in family.members.values():
        if source_of(member) and licence_of(member) is not None:
            sets.setdefault(group_of(member).removeprefix("data set "), []).append(member)
    lines = [
        f"# Summary of the content used for training: {family.target}", "", NOTICE, "",
        "## 1. General information", "",
        f"- Provider, contact, authorised representative: {TODO}",
        f"- Model, version: {family.target}, lineage digest `{family.digest}`",
        f"- Date of placing on the market: {TODO}",
        "- Modalities of the training data: text, images",
        f"- Latest date of acquisition of data: {TODO}", "",
    ]  # fmt: skip
    lines += ["| data set | samples read | used for training | removed by curation |", "|---|---:|---:|---:|"]
    summaries = {name: _summary(name, root) for name in sets}
    for name, summary in summaries.items():
        counts = [f"{summary[key]:,}" if summary else "unknown here" for key in ("ingested", "kept", "rejected")]
        lines.append(f"| {name} | {' | '.join(counts)} |")
    lines += ["", "## 2. List of data sources", ""]
    for name, members in sorted(sets.items()):
        lines += [f"### {name}", "", "| source | kind | origin | samples used | licence |", "|---|---|---|---:|---|"]
        summary = summaries[name]
        for member in sorted(members, key=lambda one: one.stage):
            source = str(source_of(member))
            origin: dict[str, Any] = next(iter(catalog_entries(member, "origin").values()), {})
            counts = (summary or {"sources": {}})["sources"].get(source)
            kind = _KINDS.get(str(origin.get("kind")), TODO)
            where = origin.get("repo") or origin.get("folder") or origin.get("kind") or TODO
            used = f"{counts['kept']:,}" if counts else "unknown here"
            lines.append(f"| {source} | {kind} | {where} | {used} | {licence_text(licence_of(member))} |")
        lines.append("")
    for member in family.members.values():
        adopted = adopted_of(member.record)
        if adopted is not None:
            lines += [
                "### Data of a checkpoint that was trained elsewhere", "",
                f"- Training began with {adopted.told} (licence: {adopted.licence}). It was trained elsewhere, on data "
                f"that stands in no table here: {TODO}, from its publisher", "",
            ]  # fmt: skip
    lines += [
        f"- Data crawled or scraped from the web by the provider: none recorded; {TODO} whether that is all",
        f"- Data of users of the provider's services: none recorded; {TODO} whether that is all",
        f"- Content of synthetic sources that other models wrote, and their licences: {TODO}", "",
        "## 3. Data processing", "",
        f"- Respect of reservations of rights under Article 4(3) of Directive (EU) 2019/790: {TODO}",
        "- Removal of unwanted content, by reason:", "",
    ]  # fmt: skip
    for name, summary in sorted(summaries.items()):
        for block in (summary or {"blocks": []})["blocks"]:
            for reason, count in sorted(block["reasons"].items()):
                lines.append(f"  - {name}: {block['block']}/{reason}: {count:,} samples")
    unknown = [
        m.stage.partition("@")[2] for ms in sets.values() for m in ms if licence_text(licence_of(m)) == "unknown"
    ]
    lines += ["", f"- Sources without a known licence: {', '.join(sorted(unknown)) or 'none'}"]
    return "\n".join(lines)


def _summary(dataset: str, root: Path) -> dict[str, Any] | None:
    path = root / "data/manifests" / dataset / "summary.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
