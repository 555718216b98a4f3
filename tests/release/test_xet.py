"""`fusion publish --push` where large files go to Xet, as they do on the Hub; the client is the real one."""

import threading

import pytest

from fusion.hashing import file_sha256
from tests.hub_server import Hub
from tests.hub_writes import Written
from tests.hub_xet import XetAccount
from tests.release.published import PublishedProject

MODELS = ("FUSION-Tiny-Stage1", "FUSION-Tiny-Stage1.5", "FUSION-Tiny")


def pushed(project: PublishedProject) -> tuple[int, str]:
    process = project.fusion("publish", "tiny", "--push")
    out, err = process.communicate(timeout=300)
    return process.returncode, out + err


def finished(hub: Hub) -> set[str]:
    """The repositories whose newest commit has the release's tag."""
    return {
        name for name, one in hub.repositories.items() if isinstance(one, Written) and one.commit in one.tags.values()
    }


def test_everything_goes_up_by_chunks_and_comes_back_the_same(
    project: PublishedProject, xet_hub: Hub, xet_account: XetAccount
):
    code, said = pushed(project)
    assert code == 0 and said.count("downloaded again") == 6, said
    for name in MODELS:
        repository = xet_hub.repositories[f"fusion/{name}"]
        files = repository.contents(repository.commit)
        folder = project.root / "published/fusion" / name
        assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
        assert file_sha256(folder / "model.safetensors") in xet_account.stored
    assert not any(path.startswith("/lfs/") for _, path, _ in xet_hub.requests), "it went up without Xet"
    storage = [given for _, path, given in xet_hub.requests if path.startswith(("/v1/", "/v2/"))]
    assert storage and set(storage) == {f"Bearer {xet_account.xet_token}"}, "the Hub's token is not for the storage"
    assert not any("telemetry" in path for _, path, _ in xet_hub.requests)

    sent = len(xet_account.uploads)
    code, said = pushed(project)
    assert code == 0 and "nothing     new was uploaded" in said and len(xet_account.uploads) == sent, said


@pytest.mark.long
def test_a_killed_upload_is_continued(project: PublishedProject, xet_hub: Hub, xet_account: XetAccount):
    reached, go_on = threading.Event(), threading.Event()

    def hold(_: str) -> bool:
        if len(finished(xet_hub)) < 4:
            return True
        reached.set()
        return not go_on.wait(60)

    xet_account.put = hold
    process = project.fusion("publish", "tiny", "--push")
    assert reached.wait(300), process.communicate(timeout=5)
    process.kill()
    process.communicate()
    go_on.set()
    done = finished(xet_hub)
    assert len(done) == 4 and len(xet_hub.repositories["fusion/FUSION-Tiny-Stage1.5"].history) == 1

    xet_account.put = lambda _: True
    history = {name: len(xet_hub.repositories[name].history) for name in done}
    code, said = pushed(project)
    assert code == 0 and len(finished(xet_hub)) == 6, said
    assert {name: len(xet_hub.repositories[name].history) for name in done} == history


@pytest.mark.parametrize(
    ("path", "status", "code", "words"),
    [
        ("/v1/xorbs/", 403, 1, "the token of HF_TOKEN has not the right to"),
        pytest.param("/v1/shards", 400, 1, "400 Bad Request", marks=pytest.mark.long),
        pytest.param("/v1/xorbs/", 503, 75, "run the same command again to continue", marks=pytest.mark.long),
    ],
)
def test_what_the_storage_refuses_is_told_apart_from_what_may_be_tried_again(
    project: PublishedProject, xet_hub: Hub, xet_account: XetAccount, path: str, status: int, code: int, words: str
):
    xet_account.refuse = {path: status}
    got, said = pushed(project)
    assert got == code and words in said and "Traceback" not in said, said
    assert xet_account.token not in said and xet_account.xet_token not in said
    assert "fusion/FUSION-Tiny" not in finished(xet_hub)
