"""Every hostile or broken input ends in the ledger with its own reason, or is refused with what to do.

One run in a process of its own takes all cases through the stages; the tests look at what it left.
"""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fusion.data.checkup.told import ADVICE
from fusion.data.curate.blocks.scores import ScoreBlock
from fusion.data.explain.rules import RULES
from fusion.data.kinds import find_classes
from tests.data import (  # noqa: F401  (they add cases)
    hostile_archives,
    hostile_files,
    hostile_pictures,
    hostile_records,
    hostile_tables,
)
from tests.data.hostile import CASES, Case
from tests.data.workshop import DATASET

DOCUMENT = Path("docs/curation.md")
NOT_MADE = {"shard/out-of-memory", "shard/unreadable-image"}
"""Reasons that no input gives by itself: the machine has no memory, or the system refuses to read a file."""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all cases were run."""
    folder = tmp_path_factory.mktemp("hostile")
    command = [sys.executable, "-B", "-m", "tests.data.hostile_run", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def report(ran: Path) -> dict[str, Any]:
    """What the run told."""
    return json.loads((ran / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def ledger(ran: Path) -> pl.DataFrame:
    """The ledger of all cases whose source could be used."""
    return pl.read_parquet(ran / "project/data/manifests" / DATASET / "ledger.parquet")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_becomes_of(case: Case, report: dict[str, Any], ledger: pl.DataFrame, ran: Path):
    told = report["refused"].get(case.name)
    if isinstance(case.expected, str):
        assert told is not None, "the source was used"
        assert re.search(case.expected, told)
        assert case.name in told, "the message does not name the file"
        return
    assert told is None
    mine = ledger.filter(pl.col("source") == case.name)
    rows = [int(sample.rsplit("/", 1)[1]) for sample in mine["sample_id"]]
    reasons = (mine["block"] + "/" + mine["reason"]).to_list()
    assert dict(zip(rows, reasons, strict=True)) == case.expected
    assert all(0 < len(evidence) <= 300 for evidence in mine["evidence"])
    summary = json.loads((ran / "project/data/manifests" / DATASET / "summary.json").read_text(encoding="utf-8"))
    counts = summary["sources"][case.name]
    assert counts["kept"] + len(case.expected) == counts["ingested"]


def test_nothing_outside_is_read_written_or_started(report: dict[str, Any], ran: Path):
    assert report["touched"] == {}
    assert report["outside_is_as_it_was"]
    # The witness is awake: it saw the run itself read a file there at the end.
    assert any("secret.png" in seen for seen in report["witness_sees"])
    assert sorted(path.name for path in ran.iterdir()) == ["outside", "project", "report.json"]
    assert not Path("/tmp/was-here").exists()


def test_no_input_takes_much_memory_or_time(report: dict[str, Any]):
    """A bomb of 3 GB, a file of 64 GB, captions of 100 MB: imports and all, far below what the stages may take."""
    assert report["peak_mb"] < 700
    assert max(report["seconds"].values()) < 60


def _documented() -> set[str]:
    """Block and reason of every row of the tables in the document."""
    found, block = set(), ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if heading := re.match(r"### `([a-z-]+)`", line):
            block = heading.group(1)
        elif row := re.match(r"\| `([a-z-]+)` \|", line):
            found.add(f"{block}/{row.group(1)}")
    return found


def _reasons_in(path: str) -> set[str]:
    """The reason codes that a file gives: first arguments of Reject and its like, and values of `reason`."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8"))):
        texts: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("Reject", "ImageError", "SampleError", "_pass_over"):
                texts = node.args[:1]
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "reason":
            texts = [node.value.body, node.value.orelse] if isinstance(node.value, ast.IfExp) else [node.value]
        found |= {text.value for text in texts if isinstance(text, ast.Constant) and isinstance(text.value, str)}
    return {reason.replace("_", "-") for reason in found}


def test_every_reason_is_documented_and_every_documented_one_exists():
    ingest = _reasons_in("fusion/data/ingest/record.py") | _reasons_in("fusion/data/ingest/json_stream.py")
    ingest |= _reasons_in("fusion/data/ingest/csv_rows.py")
    shard = _reasons_in("fusion/data/store/images.py") | _reasons_in("fusion/data/store/pixels.py")
    turns = _reasons_in("fusion/model/template.py") | {"control-token-in-text"}
    known = {f"ingest/{reason}" for reason in ingest} | {f"shard/{reason}" for reason in shard}
    scores = [block for block in find_classes("fusion.data.curate.blocks", ScoreBlock, "name").values()]
    known |= {f"{block.name}/{block.reason}" for block in scores}
    known |= {f"schema/{reason}" for reason in turns} | {f"{rule.block}/{rule.reason}" for rule in RULES}
    assert _documented() == known
    advised = {reason.replace("_", "-") for reason in ADVICE}
    assert advised == {reason for reason in ingest | shard | turns}


def test_every_reason_of_ingest_sharding_and_the_template_has_a_case():
    expected = {
        reason for case in CASES.values() if isinstance(case.expected, dict) for reason in case.expected.values()
    }
    missing = {reason for reason in _documented() if reason.split("/")[0] in ("ingest", "shard", "schema")} - expected
    assert missing == NOT_MADE
    assert len(CASES) >= 60
