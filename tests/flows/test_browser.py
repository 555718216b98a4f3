"""The page in a real browser: start a deployment, see its tasks and artifacts, cancel a second run during training.

FUSION_SCREENSHOTS=docs/flows keeps the pictures that docs/flows.md shows.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flows.lock import RUN_ID
from flows.supervisor import processes_with
from tests.e2e.project import Project, copy_project
from tests.flows.flow_project import wait_for
from tests.flows.service import PATIENCE, Service, service

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs the extra `browser`: pip install 'fusion-pipeline[browser]'"
)
BROWSER = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)
pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(BROWSER is None, reason="needs a Chromium on PATH: apt-get install chromium"),
]
QUIET = (
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Micro, not built yet; its first stage of training is long enough to be cancelled by hand."""
    made = copy_project(tmp_path_factory.mktemp("page") / "project", "micro")
    made.set("variants.micro.stages.stage1.epochs", 20)
    made.run("git", "commit", "--all", "--quiet", "--message", "more epochs")
    return made


@pytest.fixture(scope="module")
def ui(project: Project) -> Iterator[Service]:
    """`make ui` of it."""
    with service(project.root) as running:
        yield running


@pytest.fixture
def page() -> Iterator[Any]:
    """A page of a headless browser."""
    sandbox = ("--no-sandbox",) if os.geteuid() == 0 else ()
    with sync_api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=[*QUIET, *sandbox])
        made = browser.new_page(viewport={"width": 1360, "height": 900})
        made.set_default_timeout(PATIENCE * 1000)
        yield made
        browser.close()


def picture(page: Any, name: str, tmp_path: Path) -> None:
    """Keeps what the page shows now."""
    folder = Path(os.environ.get("FUSION_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    page.wait_for_timeout(1500)  # Pictures and transitions.
    page.screenshot(path=folder / f"{name}.png")


def open_run(page: Any, ui: Service, run: object) -> None:
    page.goto(f"{ui.page}/v2/runs/flow-run/{run}")
    page.get_by_role("tab", name=re.compile("Task Runs")).wait_for()


def test_a_deployment_from_the_button_to_the_artifacts(
    ui: Service, page: Any, project: Project, tmp_path: Path
) -> None:
    page.goto(f"{ui.page}/v2/deployments")
    page.get_by_role("link", name="weekly").first.wait_for()
    for name in ("nightly", "weekly", "on-demand"):
        assert page.get_by_role("link", name=name).count() >= 1
    picture(page, "deployments", tmp_path)
    page.get_by_role("link", name="weekly").first.click()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Custom run").click()
    page.get_by_text("Only what these of run.variants in params.yaml need").wait_for()
    picture(page, "form", tmp_path)
    page.go_back()
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Quick run").click()
    begun = {"state": {"type": {"not_any_": ["SCHEDULED"]}}}  # Not those that the schedule has planned.
    query = {"flow_runs": begun, "deployments": {"name": {"any_": ["weekly"]}}}
    assert wait_for(lambda: ui.api("POST", "/flow_runs/filter", query), 60)
    run = ui.api("POST", "/flow_runs/filter", query)[0]["id"]
    state = ui.ends_as(run, "COMPLETED")
    assert re.match(r"(\d+) of \1 stages ran", state["message"])

    tasks = ui.api("POST", "/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})
    # A scheduled run works in a working tree of its own, and leaves its results on a branch.
    stages = set(Project(project.root / "worktrees/runs").lock()) | {"scores", "report", "commit"}
    assert "runs/" in project.run("git", "branch", "--list", "runs/*").stdout
    assert {task["name"] for task in tasks} == stages
    assert {task["state"]["type"] for task in tasks} == {"COMPLETED"}
    open_run(page, ui, run)
    page.get_by_role("tab", name=re.compile("Task Runs")).click()
    page.get_by_text("train_stage1@micro").first.wait_for()
    assert page.get_by_text("Completed").count() > 1 and page.get_by_text("Failed").count() == 0
    picture(page, "tasks", tmp_path)

    page.goto(f"{ui.page}/v2/artifacts")
    keys = ("curation-micro-stage1", "rejected-micro-stage1", "validation-micro-stage1", "loss-micro-stage1", "scores",
            "model-zoo", "lineage-micro", "report-micro")  # fmt: skip
    page.get_by_text("loss-micro-stage1", exact=True).first.wait_for()
    shown = {made["key"]: made["latest_id"] for made in ui.api("POST", "/artifacts/latest/filter", {"limit": 200})}
    assert set(shown) >= set(keys)
    picture(page, "artifacts", tmp_path)
    page.goto(f"{ui.page}/v2/artifacts/artifact/{shown['loss-micro-stage1']}")
    curve = page.locator("img[src^='data:image/png']").first
    curve.wait_for()
    assert curve.evaluate("image => image.naturalWidth") > 300
    picture(page, "loss", tmp_path)
    page.goto(f"{ui.page}/v2/artifacts/artifact/{shown['curation-micro-stage1']}")
    page.get_by_text("near-duplicates").first.wait_for()
    picture(page, "curation", tmp_path)
    page.goto(f"{ui.page}/v2/artifacts/artifact/{shown['report-micro']}")
    link = page.get_by_role("link", name="Report of micro").first
    link.wait_for()
    page.goto(str(link.get_attribute("href")))
    assert "micro" in page.title() + page.inner_text("body")


def test_a_run_is_cancelled_during_training(ui: Service, page: Any, project: Project, tmp_path: Path) -> None:
    before = ui.start_run("pipeline/weekly", "commit=''", "until_stage=train_stage1")
    ui.ends_as(before, "COMPLETED")
    run = ui.start_run("stage/on-demand", "name=train_stage1@micro", "force=true")
    assert wait_for(
        lambda: [one for one in processes_with(RUN_ID, str(run)) if "fusion.train" in one.cmdline()], PATIENCE
    )
    open_run(page, ui, run)
    page.get_by_role("button", name="Open menu").first.click()
    page.get_by_role("menuitem", name="Cancel").click()
    page.get_by_role("button", name="Cancel Flow Run").click()
    ui.ends_as(run, "CANCELLED")
    assert wait_for(lambda: not processes_with(RUN_ID, str(run)), 60)
    page.get_by_text("Cancelled").first.wait_for()
    picture(page, "cancelled", tmp_path)
    assert "stages ran" in ui.ends_as(ui.start_run("pipeline/weekly", "commit=''"), "COMPLETED")["message"]
