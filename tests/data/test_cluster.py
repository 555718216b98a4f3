"""Curation on a cluster gives the bytes that it gives here, and says what is wrong there."""

import importlib
import sys

import pytest

from fusion.data.errors import DataError
from fusion.data.store.workers import Workers
from fusion.hashing import file_sha256
from tests.data.test_curate import mixed
from tests.data.workshop import DATASET, Workshop


@pytest.mark.long
@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_local_cluster_changes_no_byte(kind: str, workshop: Workshop, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip(f"prefect_{kind}", reason=f"the extra `{kind}` is not installed")
    monkeypatch.setenv("PREFECT_HOME", str(workshop.folder / "prefect"))
    mixed(workshop)
    workshop.curate()
    folder = workshop.folder / "data/manifests" / DATASET
    here = {path.name: file_sha256(path) for path in folder.iterdir()}
    monkeypatch.setattr("fusion.data.curate.samples.PART_ROWS", 20)
    monkeypatch.setattr("fusion.data.store.workers.WORTH_PROCESSES", 0)
    data = workshop.settings.data.model_copy(update={"workers": 2, "runner": kind})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    workshop.curate_only()
    assert {path.name: file_sha256(path) for path in folder.iterdir()} == here
    (workshop.folder / "data/raw" / DATASET / "a/samples.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=f"run `fusion ingest {DATASET} a` again"):
        workshop.curate_only()


@pytest.mark.parametrize("kind", ["dask", "ray"])
def test_a_missing_package_is_named(kind: str, monkeypatch: pytest.MonkeyPatch):
    # Prefect reads its settings once, when it is imported: later tests need those without the address below.
    importlib.import_module("prefect")
    monkeypatch.setitem(sys.modules, f"prefect_{kind}", None)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr("fusion.data.store.workers.WORTH_PROCESSES", 0)
    with (
        pytest.raises(DataError, match=rf"data\.runner: `{kind}` needs the package prefect-{kind}.*\[{kind}\]"),
        Workers("d", 2, kind) as workers,  # type: ignore[arg-type]
    ):
        list(workers.map("nothing", int, [("1",)], [1]))
