"""A lineage in the forms that others read; each is one file with one function of a `Family`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fusion.inquiry.exports.eu_summary import eu_summary
from fusion.inquiry.exports.mlbom import mlbom
from fusion.inquiry.exports.openlineage import openlineage
from fusion.inquiry.exports.prov import prov
from fusion.inquiry.exports.slsa import slsa
from fusion.lineage.family import Family

EXPORTS: dict[str, Callable[[Family, Path], str]] = {
    "slsa": slsa,
    "cyclonedx": mlbom,
    "openlineage": openlineage,
    "prov": prov,
    "eu-summary": eu_summary,
}
"""Name -> the text of the lineage in that form; the folder is where files lie that it may look at."""
