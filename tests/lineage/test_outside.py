"""Checkpoints adopted one after the other in the same place: the record counts that tells of what is there."""

import shutil

import pytest

from fusion.lineage.ancestry import ancestry_of, ancestry_through
from fusion.lineage.errors import LineageError
from fusion.lineage.family import Records
from fusion.lineage.reference import find_family
from tests.adopted import FOLDER, HUB, adopt
from tests.lineage.conftest import DVC_YAML, Project

STAGE = "adopt@tiny-stage1_5"


@pytest.fixture
def adopting(project: Project) -> Project:
    """The project whose first stage reads an adopted checkpoint."""
    deps = "deps: [fusion/words.py, source.txt"
    (project.root / "dvc.yaml").write_text(DVC_YAML.replace(deps, f"{deps}, checkpoints/tiny/stage1_5"))
    return project


def test_going_back_to_the_checkpoint_before_takes_its_record(adopting: Project):
    root = adopting.root
    first = adopt(root, b"first")
    adopting.run_all()
    digest = ancestry_of("package@tiny", root).digest
    adopt(root, b"second", FOLDER, started="2026-02-01T00:00:00.000+00:00")
    adopt(root, b"first", started="2026-03-01T00:00:00.000+00:00")  # As git and DVC bring it back.
    records = Records(root)
    (record,) = [one for one in records.of(STAGE) if one.path == first]
    assert records.differences(record) == []
    family = find_family("package@tiny", root)
    assert first in family.members and not family.notes
    assert ancestry_of("package@tiny", root).digest == digest


def test_of_equal_bytes_from_two_places_the_newest_record_counts(adopting: Project):
    root = adopting.root
    adopt(root, b"same", HUB)
    adopting.run_all()
    newest = adopt(root, b"same", FOLDER, started="2026-02-01T00:00:00.000+00:00")
    assert ancestry_of("package@tiny", root).records[STAGE].path == newest
    # Also where another checkpoint lies there by now: what is there was made from either.
    adopt(root, b"other", started="2026-03-01T00:00:00.000+00:00")
    assert ancestry_through("package@tiny", root).records[STAGE].path == newest


def test_an_adopted_checkpoint_that_is_missing_or_unknown_is_told_with_commands_that_exist(adopting: Project):
    root = adopting.root
    adopt(root, b"first")
    adopting.run_all()
    (root / "checkpoints/tiny/stage1_5/model.safetensors").write_bytes(b"changed")
    with pytest.raises(LineageError, match=r"`fusion adopt CHECKPOINT --as tiny/stage1_5`") as caught:
        ancestry_of("words", root)
    assert "dvc repro" not in str(caught.value)
    shutil.rmtree(root / "checkpoints/tiny/stage1_5")
    with pytest.raises(
        LineageError, match=r"stage1_5 is not there: .*`dvc checkout checkpoints/tiny/stage1_5`"
    ) as caught:
        ancestry_of("words", root)
    assert "dvc repro" not in str(caught.value)
