"""The ancestry: every stage before an artifact, found by content, and its digest."""

import json

import pytest

from fusion.lineage.ancestry import ancestry_of, lineage_digest
from fusion.lineage.errors import LineageError
from fusion.lineage.stages import ancestors_of, resolve_stages
from fusion.lineage.times import stage_times


def test_stages_are_resolved_by_dvc_and_kept_until_their_files_change(project):
    stages = resolve_stages(project.root)
    assert list(stages) == ["words", "count@vowels", "count@others", "package@tiny"]
    assert stages["count@others"].deps == ("fusion/count.py", "made/words")
    assert stages["count@others"].outs == ("counts/others.txt",)
    assert resolve_stages(project.root) == stages
    (cached,) = project.root.glob("scratch/lineage/stages-*.json")
    (project.root / "params.yaml").write_text("run: {seed: 9}\ncount: {limit: 3}\n")
    assert resolve_stages(project.root)["count@others"].params["params.yaml"]["run.seed"] == 9
    assert not cached.exists()


def test_ancestors_come_parents_first(project):
    names = [stage.name for stage in ancestors_of("package@tiny", resolve_stages(project.root))]
    assert names == ["words", "count@others", "count@vowels"] or names == ["words", "count@vowels", "count@others"]
    with pytest.raises(LineageError, match="no stage `package@big`"):
        ancestors_of("package@big", resolve_stages(project.root))


def test_the_digest_is_equal_for_equal_results_and_covers_code(project):
    project.run_all()
    first = lineage_digest("tiny", project.root)
    project.run_all()
    assert lineage_digest("tiny", project.root) == first
    (project.root / "fusion/words.py").write_text("# lower case, always\n")
    project.run("words")
    other = lineage_digest("tiny", project.root)
    assert other != first
    # From scratch, without the old records, it is the same: it depends on what is there, not on its history.
    for path in project.root.glob("records/*/*.json"):
        path.unlink()
    project.run_all()
    assert lineage_digest("tiny", project.root) == other
    (project.root / "fusion/words.py").write_text("# lower case\n")
    project.run_all()
    assert lineage_digest("tiny", project.root) == first


def test_the_document_names_all_stages_and_holds_no_time(project):
    project.run_all()
    document = ancestry_of("package@tiny", project.root).document
    assert set(document["stages"]) == {"words", "count@vowels", "count@others"}
    assert "started" not in json.dumps(document)


def test_a_missing_record_or_output_is_named(project):
    project.run_all()
    for path in project.root.glob("records/count-vowels/*.json"):
        path.unlink()
    with pytest.raises(LineageError, match=r"records/count-vowels/ .*--single-item count@vowels"):
        lineage_digest("tiny", project.root)
    project.run("count@vowels")
    (project.root / "counts/vowels.txt").unlink()
    with pytest.raises(LineageError, match=r"counts/vowels.txt is not there"):
        lineage_digest("tiny", project.root)


def test_files_that_no_recorded_run_wrote_are_found(project):
    project.run_all()
    (project.root / "counts/vowels.txt").write_text("3")
    with pytest.raises(LineageError, match="count-vowels"):
        lineage_digest("tiny", project.root)


def test_a_half_updated_tree_is_refused(project):
    project.run_all()
    (project.root / "source.txt").write_text("aeiou aeiou xyz\n")
    project.run("words", "count@vowels")
    with pytest.raises(LineageError, match="made from another made/words"):
        lineage_digest("tiny", project.root)


def test_times_are_those_of_the_last_execution_here(project):
    project.run_all()
    (project.root / "runs/stages.jsonl").rename(project.root / "runs/old.jsonl")
    ancestry = ancestry_of("package@tiny", project.root)
    assert [time.here for time in stage_times(ancestry, project.root)] == [False] * 3
    project.run("words")
    times = {time.stage: time for time in stage_times(ancestry, project.root)}
    assert times["words"].here and not times["count@vowels"].here
    assert times["words"].peak_memory_bytes > 1_000_000


def test_under_dvc_itself(project):
    project.dvc("repro")
    before = project.records()
    assert {path.split("/")[1] for path in before} == {"words", "count-vowels", "count-others", "package-tiny"}
    assert len(lineage_digest("tiny", project.root)) == 64
    project.dvc("repro", "--force")
    assert project.records() == before
