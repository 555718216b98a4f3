"""Publishing as a task of a flow: it is `fusion publish`, tried again where that may help, and a reason where not."""

from pathlib import Path

import pytest

from tests.hub_server import Hub
from tests.hub_writes import Account
from tests.release.conftest import account, hub, shared_project  # noqa: F401 - fixtures
from tests.release.published import PublishedProject


@pytest.mark.long
def test_the_task_publishes_to_the_hub_and_tries_again(
    server: str,
    shared_project: PublishedProject,  # noqa: F811
    hub: Hub,  # noqa: F811
    account: Account,  # noqa: F811
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
):
    """Long, because it starts a server of Prefect."""
    from prefect import flow

    import flows.parts  # noqa: F401 - reads Prefect's settings
    from flows import extra

    project = shared_project.copy(tmp_path / "project")

    @flow
    def publishing(where: str):
        return extra.publish(str(project.root), "run-1", ["tiny"], where, return_state=True)

    commits = 0

    def refused_once(path: str) -> int | None:
        nonlocal commits
        commits += "/commit/" in path
        return 503 if "/commit/" in path and commits == 1 else None

    account.refused = refused_once  # type: ignore[method-assign]
    assert publishing("hub", return_state=True).is_completed()
    assert len(hub.repositories) == 6 and commits == 7, "one was refused, and came again"
    shown = capfd.readouterr().err
    assert shown.count("the upload broke off") == 1 and shown.count("downloaded again") == 6

    project.set("run.seed", 1)
    state = publishing("folder", return_state=True)
    assert state.is_failed()
    assert "the tree differs from the commit in params.yaml" in capfd.readouterr().err
