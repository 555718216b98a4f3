"""The report of an audit as one HTML page that opens offline: what was looked at, what was found, each artifact."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from fusion.lineage.audit.findings import Report


def page(report: Report) -> str:
    """The page's text. It has no time and no host in it: an equal audit gives an equal page."""
    environment = Environment(
        loader=PackageLoader("fusion.lineage.audit", "."), autoescape=True, undefined=StrictUndefined
    )
    counts = {name: f"{number:,}" for name, number in sorted(report.counts.items()) if name != "bytes hashed"}
    counts["MB hashed"] = f"{report.counts.get('bytes hashed', 0) / 1e6:,.0f}"
    return environment.get_template("page.html").render(
        commit=(report.commit or "unknown")[:12],
        errors=len(report.errors),
        findings=report.sorted,
        counts=counts,
        artifacts=report.artifacts,
        tree=any(one.tree for one in report.artifacts),
    )
