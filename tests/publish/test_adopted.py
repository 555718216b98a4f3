"""What card and report say of a model that began with a checkpoint made elsewhere."""

import shutil
from pathlib import Path

import pytest

from fusion.publish.errors import PublishError
from fusion.publish.facts import collect_facts
from fusion.publish.package import build_package
from fusion.publish.report import write_report
from tests.adopted import FOLDER, HUB, adopt
from tests.publish.finished_run import finished_run

COMMIT = HUB["revision"]


def test_card_and_report_name_the_checkpoint_and_claim_only_what_was_done_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    root = Path(".")
    settings, catalog = finished_run(root, adopted=True)
    build_package(settings, catalog, "tiny", root)
    card = (root / "packages/tiny/README.md").read_text()
    assert f"a checkpoint of stage 1.5 that was made elsewhere (org/open at commit {COMMIT})" in card
    assert "in one stage" in card and "Every sample that it was trained on here was checked" in card
    assert f"org/open at commit {COMMIT}, are not checked here" in card
    assert "The prior knows no questions of the stages before" in card

    report = write_report(settings, catalog, "tiny", root).read_text()
    assert f"made elsewhere (org/open at commit {COMMIT}) in one stage on" in report
    assert "trained from raw data" not in report

    adopt(root, b"others", FOLDER, started="2026-02-01T00:00:00.000+00:00")
    adopted = collect_facts(settings, catalog, "tiny", root).adopted
    assert adopted is not None and adopted.told == "the folder elsewhere"
    adopt(root, b"weights")  # The first one is back.
    adopted = collect_facts(settings, catalog, "tiny", root).adopted
    assert adopted is not None and adopted.name == "org/open"
    shutil.rmtree(root / "records/adopt-tiny-stage1_5")
    with pytest.raises(PublishError, match="fusion adopt CHECKPOINT --as tiny/stage1_5"):
        collect_facts(settings, catalog, "tiny", root)


def test_a_model_that_was_trained_here_says_nothing_of_it(run):
    settings, catalog, root = run
    build_package(settings, catalog, "tiny", root)
    card = (root / "packages/tiny/README.md").read_text()
    assert "elsewhere" not in card and "Every sample was checked, and" in card
    assert "paired by question.\n\n**" in card and "has checked it.\n\n**" in card
