"""A schedule starts a run by itself: at the pinned commit, in a worktree, its data pushed, its results on a branch."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml

from tests.e2e.project import copy_project
from tests.flows.flow_project import wait_for
from tests.flows.service import PATIENCE, Service, service

pytestmark = [pytest.mark.long, pytest.mark.timeout(3600)]


def runs_of(ui: Service, deployment: str) -> list[dict[str, Any]]:
    """Its runs that have begun."""
    begun = {"deployments": {"id": {"any_": [deployment]}}, "flow_runs": {"start_time": {"is_null_": False}}}
    return list(ui.api("POST", "/flow_runs/filter", begun))


def test_a_schedule_starts_a_run_that_leaves_its_results_on_a_branch(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project", "micro")
    project.run("dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    git = lambda *words: project.run("git", *words).stdout.strip()  # noqa: E731
    pinned = git("rev-parse", "HEAD")
    with service(project.root) as ui:
        before = git("status", "--porcelain")
        (nightly,) = [one for one in ui.api("POST", "/deployments/filter", {}) if one["name"] == "nightly"]
        soon = datetime.now(UTC) + timedelta(seconds=30)
        schedule = {"interval": 86400, "anchor_date": soon.isoformat(), "timezone": "UTC"}
        made = [{"active": True, "schedule": schedule, "parameters": {"push": True}, "slug": "soon"}]
        ui.api("POST", f"/deployments/{nightly['id']}/schedules", made)
        assert wait_for(lambda: runs_of(ui, nightly["id"]), PATIENCE), ui.log.read_text()
        (run,) = runs_of(ui, nightly["id"])
        assert run["auto_scheduled"]
        ui.ends_as(UUID(run["id"]), "COMPLETED")

    (branch,) = git("branch", "--list", "--format=%(refname:short)", "runs/*").splitlines()
    assert git("rev-parse", f"{branch}~1") == pinned and git("rev-parse", "HEAD") == pinned
    assert git("rev-parse", "--abbrev-ref", "HEAD") == "main" and git("status", "--porcelain") == before
    changed = set(git("diff", "--name-only", pinned, branch).splitlines())
    assert "dvc.lock" in changed and {path.split("/")[0] for path in changed} <= {"dvc.lock", "records", "data"}
    stages = yaml.safe_load(git("show", f"{branch}:dvc.lock"))["stages"]
    assert "validate@micro-stage1" in stages
    kept = {path.parent.name + path.name for path in (tmp_path / "store/files/md5").glob("*/*")}
    assert {out["md5"] for facts in stages.values() for out in facts.get("outs", []) if out.get("cache", True)} <= kept
