"""Folders of sources and benchmarks that left the catalog are refused with what to remove, never read in silently."""

import shlex
import subprocess
from pathlib import Path

import pytest

from fusion.data.errors import DataError
from fusion.data.leftovers import check_leftovers
from tests.data.workshop import DATASET, Workshop, picture, sample, talk


def test_a_source_that_left_the_catalog_stops_curation_until_it_is_removed(workshop: Workshop):
    workshop.add("stays", [sample(number) for number in range(3)], {f"{n}.png": picture(n) for n in range(3)})
    workshop.add("goes", [{"conversations": talk("two and two?", "four")}])
    workshop.curate()
    del workshop.sources["goes"]
    (workshop.folder / "data/benchmarks/old exam").mkdir(parents=True)
    with pytest.raises(DataError) as caught:
        workshop.curate_only()
    command = str(caught.value).splitlines()[-1].strip()
    named = {Path(name).relative_to(workshop.folder).as_posix() for name in shlex.split(command)[2:]}
    folders = {f"data/{part}/{DATASET}/goes" for part in ("raw", "index", "shards")}
    assert named == {*folders, "data/benchmarks/old exam"}
    subprocess.run(command, shell=True, check=True)
    manifest, _, _ = workshop.curate_only()
    assert manifest["source"].unique().to_list() == ["stays"]


def test_hidden_folders_files_and_other_data_sets_are_left_alone(workshop: Workshop):
    workshop.add("s", [{"conversations": talk("q?", "a")}])
    for name in (f"data/raw/{DATASET}/s", f"data/raw/{DATASET}/.t.partial", "data/raw/other/t"):
        (workshop.folder / name).mkdir(parents=True)
    (workshop.folder / "data/raw" / DATASET / "notes").write_text("x")
    check_leftovers(workshop.catalog, workshop.catalog.datasets, workshop.folder)
