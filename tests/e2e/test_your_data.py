"""docs/your-data.md: its commands are run as they stand, and what it shows is what they print."""

import re
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.e2e.project import ROOT, Project, copy_project, executed

PAGE = (ROOT / "docs/your-data.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)( \w+)?\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PLACE = re.compile(r"# (\S+), under (\S+)\n")


def apply(project: Project, text: str) -> None:
    """Puts a YAML block where its first line says."""
    place = PLACE.match(text)
    assert place, text
    path = project.root / place[1]
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    section = document
    for key in place[2].split("."):
        section = section[key]
    section.update(yaml.safe_load(text))
    path.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def walk(project: Project, *, long: bool) -> list[str]:
    """Follows the page; returns what each block of commands printed."""
    printed: list[str] = []
    for language, mark, text in BLOCKS:
        if language == "yaml":
            apply(project, text)
        elif language == "text":
            assert text in printed[-1], f"{printed[-1]}\nis not what the page shows:\n{text}"
        elif language == "sh" and (mark != " long" or long):
            result = project.run("bash", "-euo", "pipefail", "-c", text, check=False)
            assert (result.returncode != 0) == (mark == " fails"), result.stdout + result.stderr
            printed.append(result.stdout)
    return printed


def check_outcome(project: Project) -> None:
    folder = project.root / "data/manifests/micro-stage1"
    manifest, ledger = (pl.read_parquet(folder / f"{name}.parquet") for name in ("manifest", "ledger"))
    food = pl.col("source") == "food"
    assert manifest.filter(food)["row"].to_list() == [0, 1, 2, 4]
    assert sorted(ledger.filter(food)["reason"]) == ["similar-text", "useless-text"]


def test_the_page_up_to_training(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", "micro")
    printed = walk(project, long=False)
    repro = next(text for text in printed if "Running stage" in text)
    assert "ingest@micro-stage1-food" in repro and "curate@micro-stage1" in repro
    check_outcome(project)


@pytest.mark.long
def test_the_whole_page_and_no_other_source_again(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", "micro")
    project.repro("curate@micro-stage1")
    walk(project, long=True)
    assert (project.root / "packages/micro/model.safetensors").is_file()
    check_outcome(project)
    assert executed(project.repro()) == []
