"""The whole chain on the micro variant, through DVC and through the flow, with real DeepSpeed ranks."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import yaml

from tests.e2e.project import Project, copy_project, executed

STAGES = ("stage1", "stage1_5", "stage2")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project in which `dvc repro` has built micro; its lock file of then stands beside it."""
    project = copy_project(tmp_path_factory.mktemp("micro") / "project", "micro")
    project.repro()
    shutil.copy(project.root / "dvc.lock", project.root.parent / "first.lock")
    return project


def test_every_part_is_there(built: Project) -> None:
    package = built.root / "packages" / "micro"
    assert {"config.json", "model.safetensors", "README.md", "tokenizer.json"} <= {
        path.name for path in package.iterdir()
    }
    scores = json.loads((built.root / "results/micro/evaluation/scores.json").read_text(encoding="utf-8"))
    assert set(scores["benchmarks"]) == {"micro-test"}
    systems = {row["system"] for row in scores["benchmarks"]["micro-test"]["rows"]}
    assert systems == {"micro stage2", "micro stage1", "grey picture", "question-only prior"}
    for stage in STAGES:
        assert (built.root / "results/micro" / stage / "loss.csv").read_text(encoding="utf-8").count("\n") > 2


def test_the_loss_of_a_step_is_that_of_its_sources(built: Project) -> None:
    """Stages of micro have so few steps that each is a stretch of its own."""
    for stage in STAGES:
        folder = built.root / "results/micro" / stage
        by_source = pl.read_csv(folder / "loss_by_source.csv")
        sums = by_source.group_by("step").agg(
            ((pl.col("loss") * pl.col("tokens")).sum() / pl.col("tokens").sum()).alias("of_sources")
        )
        joined = pl.read_csv(folder / "loss.csv").join(sums, on="step", how="left")
        assert joined["of_sources"].to_list() == pytest.approx(joined["cross_entropy"].to_list(), rel=2e-5)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        samples = sum(facts["samples"] for facts in summary["cross_entropy"]["by_source"].values())
        assert samples == summary["samples_per_epoch"] * summary["epochs"]


def test_curves_and_metrics_are_what_dvc_shows(built: Project, tmp_path: Path) -> None:
    shown = json.loads(built.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    ends = shown["results/micro/stage1/metrics.json"]["data"]
    assert set(ends["cross_entropy_by_category"]) == {"short captions"} and ends["loss"] > ends["cross_entropy"]
    built.run("dvc", "plots", "show", "--out", str(tmp_path / "plots"))
    page = (tmp_path / "plots/index.html").read_text(encoding="utf-8")
    for stage in STAGES:
        title = f"micro {stage.replace('stage', 'stage ').replace('_', '.')}"
        assert f"{stage}.png" in page and f"{stage}/loss_by_source.csv" in page
        assert f'"text": "{title}"' in page and f'"text": "{title}, by source"' in page
    assert "all.png" in page


def test_every_stage_that_makes_something_has_a_record(built: Project) -> None:
    recorded = {path.parent.name for path in (built.root / "records").glob("*/*.json")}
    assert {name.replace("@", "-") for name, outs in built.lock().items() if outs} == recorded


def test_kept_and_rejected_are_all_that_was_ingested(built: Project) -> None:
    for dataset in ("micro-stage1", "micro-stage2"):
        folder = built.root / "data/manifests" / dataset
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        kept, rejected = (
            len(pl.read_parquet(folder / "manifest.parquet")),
            len(pl.read_parquet(folder / "ledger.parquet")),
        )
        assert (summary["kept"], summary["rejected"]) == (kept, rejected)
        assert kept + rejected == summary["ingested"]


def test_git_stays_clean_but_for_lock_and_records(built: Project) -> None:
    changed = {line[3:].split("/")[0] for line in built.run("git", "status", "--porcelain").stdout.splitlines()}
    assert changed <= {"dvc.lock", "records"}


def test_second_run_runs_nothing(built: Project) -> None:
    assert executed(built.repro()) == []


def test_deleted_shard_comes_back_with_the_same_hash(built: Project) -> None:
    lock = built.lock()
    shard = next((built.root / "data/shards").rglob("*.tar"))
    content = shard.read_bytes()
    shutil.rmtree(shard.parent)
    built.repro()
    assert shard.read_bytes() == content
    assert built.lock() == lock


def test_only_stage_2_and_what_follows_run_for_its_learning_rate(built: Project) -> None:
    lock = built.lock()
    params = (built.root / "params.yaml").read_text(encoding="utf-8")
    built.set("variants.micro.stages.stage2.learning_rate", 3.0e-3)
    assert executed(built.repro()) == [
        "settings", "train_stage2@micro", "curves@micro", "evaluate@micro", "package@micro",
    ]  # fmt: skip
    (built.root / "params.yaml").write_text(params, encoding="utf-8")
    assert executed(built.repro()) in ([], ["settings"]), "going back takes everything from the cache"
    assert built.lock() == lock


def test_failed_validation_stops_everything_after_it(built: Project) -> None:
    catalog = built.root / "data/catalog/micro.yaml"
    text = catalog.read_text(encoding="utf-8")
    built.set("datasets.micro-stage1.expect", {"min_kept_share": 1.0}, "data/catalog/micro.yaml")
    result = built.repro(check=False)
    assert result.returncode != 0
    ran = executed(result)
    assert "validate@micro-stage1" in ran
    assert not [stage for stage in ran if stage.startswith(("train", "evaluate", "package"))]
    assert "error: " in result.stdout + result.stderr
    catalog.write_text(text, encoding="utf-8")
    built.repro()


def test_a_model_that_does_not_pass_the_gate_is_not_packaged(built: Project) -> None:
    params = (built.root / "params.yaml").read_text(encoding="utf-8")
    built.set("variants.micro.evaluation.gate.over_blind", {"micro-test": 0.9})
    result = built.repro(check=False)
    assert result.returncode != 0
    assert executed(result) == ["settings", "package@micro"], "the gate's settings are none of the evaluation's"
    assert "micro does not pass the gate: micro-test (FAIL)" in result.stdout + result.stderr
    judged = built.run("fusion", "gate", "micro", check=False)
    assert judged.returncode == 1 and "micro: does not pass: micro-test" in judged.stdout
    (built.root / "params.yaml").write_text(params, encoding="utf-8")
    built.repro()
    assert built.run("fusion", "gate", "micro").stdout.endswith("micro: passes\n")


def test_one_more_source_touches_no_other(built: Project) -> None:
    before = built.lock()
    catalog = built.root / "data/catalog/micro.yaml"
    text = catalog.read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    sources = document["datasets"]["micro-stage2"]["sources"]
    name = next(iter(sources))
    sources["one-more"] = {**sources[name], "sampling": "first:20"}
    catalog.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    built.run("fusion", "settings", "--write")
    ran = executed(built.repro("curate@micro-stage2", "shard@micro-stage2-one-more"))
    assert {stage for stage in ran if stage.startswith(("ingest", "shard"))} == {
        "ingest@micro-stage2-one-more", "shard@micro-stage2-one-more",
    }  # fmt: skip
    after = built.lock()
    assert all(after[stage] == outs for stage, outs in before.items() if stage.startswith(("ingest", "shard")))
    catalog.write_text(text, encoding="utf-8")
    refused = built.run("fusion", "settings", "--write", check=False)
    remove = next(line.split() for line in refused.stderr.splitlines() if line.strip().startswith("rm -r "))
    assert refused.returncode == 1 and len(remove) == 2 + 3, "what the source left behind is named"
    built.run(*remove)
    built.run("fusion", "settings", "--write")


def test_flow_gives_the_same_lock(built: Project, tmp_path: Path) -> None:
    other = copy_project(tmp_path / "flow", "micro")
    other.run("python", "-m", "flows.pipeline")
    first, second = (
        path.read_text(encoding="utf-8") for path in (built.root.parent / "first.lock", other.root / "dvc.lock")
    )
    assert yaml.safe_load(second) == yaml.safe_load(first)
