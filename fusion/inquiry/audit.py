"""The command `fusion audit`: is everything what it is said to be?"""

from __future__ import annotations

import json as json_module
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fusion.errors import FusionError
from fusion.files import write_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusion.lineage.audit.findings import Report
    from fusion.lineage.records import Record

REPORT, PAGE = Path("reports/audit.json"), Path("reports/audit.html")


def audit(
    commit: Annotated[
        str | None, typer.Option(metavar="COMMIT", help="What is committed there, and the cache; not the working tree.")
    ] = None,
    anchor: Annotated[
        Path | None, typer.Option(metavar="PACKAGE", help="Compare the records with a package's lineage.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="With --anchor: the key that has to have signed the package.")
    ] = None,
    evict: Annotated[
        bool, typer.Option("--evict", help="Remove damaged objects from DVC's cache, to be fetched again.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings count as errors.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The report for machines.")] = REPORT,
    html: Annotated[Path, typer.Option(metavar="FILE", help="The report for people, one page.")] = PAGE,
) -> None:
    """Check every artifact, cache object, record, lock and licence; exit code 1 when something is wrong."""
    from fusion.inquiry.checks import check_signature
    from fusion.lineage.audit.anchor import check_anchor
    from fusion.lineage.audit.page import page
    from fusion.lineage.audit.run import audit as run_audit
    from fusion.lineage.lock import cache_of

    report, current = run_audit(Path("."), commit)
    check_licences(current, report)
    if key is not None and anchor is None:
        raise FusionError("--key goes with --anchor: it says who signed the package")
    if anchor is not None:
        check_anchor(anchor, current, report)
    if anchor is not None and key is not None:
        signature = check_signature(anchor, key, signed=True)
        if signature.state == "FAILED":
            report.error("anchor-unsigned", str(anchor), signature.what, "fetch the package again from its publisher")
    write_json(report.document, output)
    html.parent.mkdir(parents=True, exist_ok=True)
    html.write_text(page(report), encoding="utf-8")
    print(json_module.dumps(report.document, indent=1, ensure_ascii=False) if json else f"{tell(report)}\n{html}")
    if evict:
        cache = cache_of(Path("."))
        for md5 in sorted(report.damaged_objects):
            cache.object(md5).unlink(missing_ok=True)
            print(f"removed {cache.object(md5)}: `dvc fetch` or `dvc commit` brings it back", file=sys.stderr)
    if report.errors or (strict and report.findings):
        sys.exit(1)


def check_licences(current: Mapping[str, Record], report: Report, root: Path = Path(".")) -> None:
    """Names the sources and benchmarks whose licence nobody knows, and the sources whose licence forbids publishing.

    What a person has put aside in data/licence-overrides.yaml of `root` is not named.
    """
    from fusion.data.catalog import Licence
    from fusion.lineage.family import Member
    from fusion.lineage.view import group_of, licence_of, source_of
    from fusion.publish.terms import OVERRIDES, against

    for record in current.values():
        member = Member(record.path, record, {}, {}, ())
        licence = licence_of(member)
        if licence is None:
            continue
        report.count("licences")
        if not licence.get("declared") and not licence.get("verified"):
            what = f"the licence of {record.stage.partition('@')[2]} is not known"
            report.warn("licence-unknown", record.stage, what, "find it out and state it in data/catalog/")
        if source_of(member) is None:
            continue  # Nothing is trained on a benchmark.
        name = f"{group_of(member).removeprefix('data set ')}/{source_of(member)}"
        for conflict in against(name, Licence.model_validate(licence), root):
            kind = conflict.id.partition(":")[0]
            if kind == "unread":
                report.warn("licence-unread", record.stage, conflict.what, "`fusion licence VARIANT` has all of them")
            elif kind != "unknown" and conflict.reason is None:
                remedy = f"leave the source out, or have a person decide: `{conflict.id}: REASON` in {OVERRIDES}"
                report.error("licence-forbids", record.stage, conflict.what, remedy)


def tell(report: Report) -> str:
    """The report for people: what was looked at, what is wrong, what to do."""
    counts = report.counts
    lines = [
        f"audit of commit {(report.commit or 'unknown')[:12]}: {counts.get('artifacts', 0)} artifacts of "
        f"{counts.get('stages', 0)} stages, {counts.get('records', 0)} records, {counts.get('cache objects', 0)} cache "
        f"objects, {counts.get('bytes hashed', 0) / 1e6:,.0f} MB hashed"
    ]
    for finding in report.sorted:
        lines.append(f"{finding.severity}: {finding.kind}: {finding.what}")
        lines.append(f"       {finding.remedy}")
    errors = len(report.errors)
    warnings = len(report.sorted) - errors
    if not errors:
        lines.append("everything is what it is said to be" + (f"; {warnings} warnings" if warnings else ""))
    else:
        lines.append(f"{errors} errors, {warnings} warnings")
    return "\n".join(lines)
