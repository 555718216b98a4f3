"""The gate after curation: a critical expectation that fails stops the pipeline; warnings are only reported.

`data/validation/<dataset>/`: validation.json, and validation.html, which opens offline. Training depends on them.
Keys of validation.json that others may rely on: `status`, "passed" or "failed", where only "passed" lets training
start; `manifest_sha256`, of the manifest.parquet that was looked at; `passed`, `warnings` and `failed`, counts of
expectations; `results`, one entry an expectation.
Source: design "From source to batch", item 4.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusion.data.errors import DataError
from fusion.data.store.folders import output_folder
from fusion.data.store.resume import sole_process
from fusion.data.store.workers import Workers
from fusion.data.validation.engine import run_suites
from fusion.data.validation.sources import run_sources
from fusion.data.validation.suites import suites
from fusion.data.validation.tables import Curated
from fusion.files import write_json

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog
    from fusion.settings import Settings


class ValidationError(DataError):
    """A curated data set does not hold what it must; the message lists what and says where all of it can be read."""


def validate_dataset(settings: Settings, catalog: Catalog, dataset: str, root: Path = Path(".")) -> Path:
    """Validates one curated data set; returns the folder of the result.

    Raises:
        ValidationError: a critical expectation failed; what was found is left in `runs/validation/<dataset>/`.
        DataError: the data set was not curated, or another process validates it.
    """
    with sole_process(root / "scratch/validate" / dataset):
        return _validate(settings, catalog, dataset, root)


def _validate(settings: Settings, catalog: Catalog, dataset: str, root: Path) -> Path:
    entry = catalog.dataset(dataset)
    # An older result says nothing about the manifest of now. It goes first, so that however this ends, no pass is left
    # of which somebody could think that it is this one.
    outputs, findings = root / "data/validation" / dataset, root / "runs/validation" / dataset
    for folder in (outputs, findings):
        if folder.exists():
            shutil.rmtree(folder)
    curated = Curated(root, dataset, entry, settings.run.pilot)
    data = settings.data
    with Workers(dataset, data.workers, data.runner, data.scheduler) as workers:
        results = run_suites(suites(curated)) + run_sources(curated, workers)
    failed = [result for result in results if not result["success"] and result["severity"] == "critical"]
    warned = [result for result in results if not result["success"] and result["severity"] != "critical"]
    document = {
        "dataset": dataset,
        "failed": len(failed),
        "manifest_sha256": curated.manifest_sha256,
        "passed": len(results) - len(failed) - len(warned),
        "results": results,
        "status": "failed" if failed else "passed",
        "warnings": len(warned),
    }
    # A failed stage leaves no output, so that nothing can go on from it; the findings are kept beside.
    target = findings if failed else outputs
    with output_folder(target) as folder:
        write_json(document, folder / "validation.json")
        (folder / "validation.html").write_text(_page(document, curated.summary), encoding="utf-8")
    if failed:
        lines = [f"  {result['suite']}: {_line(result)}" for result in failed[:20]]
        raise ValidationError(
            "\n".join(
                [f"{dataset}: {len(failed)} critical expectation(s) failed, see {target / 'validation.html'}:", *lines]
            )
        )
    return target


def _line(result: dict[str, Any]) -> str:
    arguments = result["arguments"]
    what = ", ".join(f"{key} {value}" for key, value in arguments.items() if key not in ("condition_parser",))
    found = result.get("error") or f"{result.get('unexpected', 0)} of {result['rows']} rows: {result.get('examples')}"
    return f"{result['why']} ({what}): {found}"


def _page(document: dict[str, Any], summary: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader

    counts = f"{document['warnings']} warnings, {document['failed']} critical failures"
    verdict = f"{document['passed']} expectations hold, {counts}."
    grouped: dict[str, list[dict[str, Any]]] = {}
    for result in document["results"]:
        grouped.setdefault(result["suite"], []).append(result)
    environment = Environment(
        loader=PackageLoader("fusion.data.validation", "."), autoescape=True, keep_trailing_newline=True
    )
    page = environment.get_template("page.html")
    return page.render(
        dataset=document["dataset"], status=document["status"], verdict=verdict, summary=summary, suites=grouped
    )
