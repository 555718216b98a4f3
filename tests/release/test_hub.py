"""`fusion publish --push`: upload, interruption, continuing, and what somebody elsewhere gets. The Hub is on loopback,
its client is the real one."""

import itertools
import os
import random
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fusion.hashing import file_sha256
from fusion.publish.errors import PublishError
from fusion.release.errors import BrokenOffError, HubError, RefusedError
from tests.hub_server import Hub
from tests.hub_writes import Account, Written
from tests.publish.finished_run import picture
from tests.release.published import HERE, PublishedProject

MODELS = ("fusion/FUSION-Tiny-Stage1", "fusion/FUSION-Tiny-Stage1.5", "fusion/FUSION-Tiny")
CARDS = ("fusion/tiny-stage1", "fusion/tiny-stage1_5", "fusion/tiny-stage2")


def written(hub: Hub, name: str) -> Written:
    repository = hub.repositories[name]
    assert isinstance(repository, Written)
    return repository


def elsewhere(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """A command of somebody who has the package `fusion` and the Hub, and no project."""
    folder.mkdir(exist_ok=True)
    variables = {**os.environ, "PYTHONPATH": str(HERE), "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], cwd=folder, env=variables, capture_output=True, text=True)


def test_everything_is_uploaded_verified_tagged_and_linked_once(
    project: PublishedProject, hub: Hub, account: Account, tmp_path: Path
):
    *told, release = project.publish(push=True)
    assert list(hub.repositories) == [*CARDS, *MODELS], "the model comes when all that its card links is there"
    assert not any(account.token in line for line in told)
    for name in (*CARDS, *MODELS):
        repository = written(hub, name)
        assert repository.private and repository.kind == ("dataset" if name in CARDS else "model")
        assert len(repository.history) == 2 and repository.tags == {release: repository.commit}
        folder = project.root / "published" / ("datasets" if name in CARDS else "") / name
        files = repository.contents(repository.commit)
        del files[".gitattributes"]
        assert files == {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}  # fmt: skip  # noqa: E501
    (collection,) = account.collections.values()
    assert [(one["id"], one["type"]) for one in collection["items"]] == [
        *((name, "model") for name in reversed(MODELS)), *((name, "dataset") for name in reversed(CARDS)),
    ]  # fmt: skip
    assert project.git("tag", "--list", "published/*") == f"published/tiny/{release}"
    assert sum(line.startswith("verify ") for line in told) == 6

    sent, asked = len(account.uploads), len(hub.ranges)
    again = project.publish(push=True)
    assert again[-1] == release and f"nothing new was uploaded: {hub.address} has {release} already" in again
    assert len(account.uploads) == sent and len(hub.ranges) == asked, "nothing was sent, nothing fetched"
    assert all(len(written(hub, name).history) == 2 for name in (*CARDS, *MODELS))
    done = elsewhere(tmp_path / "elsewhere", "-m", "fusion.cli", "verify", MODELS[-1])
    assert done.returncode == 0 and done.stdout.count("passed") == 5, done.stdout + done.stderr


def test_without_push_the_hub_is_only_compared(project: PublishedProject, hub: Hub):
    told = project.publish(hub=True)
    assert hub.repositories == {} and any("add --push" in line for line in told)
    assert any(re.match(r"would go up fusion/FUSION-Tiny: 14 files, 0\.\d MB new", line) for line in told)
    assert not project.git("tag", "--list", "published/*"), "the Hub was meant, and has nothing"


@pytest.mark.long
def test_a_changed_release_becomes_a_commit_and_a_tag_of_its_own(project: PublishedProject, hub: Hub, account: Account):
    *_, first = project.publish(push=True)
    uploads = len(account.uploads)
    path = project.root / "data/catalog/tiny.yaml"
    path.write_text(path.read_text().replace("title: Captions, short and long", "title: Short and long captions"))
    project.commit()
    *_, second = project.publish(push=True)
    model = written(hub, MODELS[-1])
    assert set(model.tags) == {first, second} and model.tags[second] == model.commit and len(model.history) == 3
    assert len(account.uploads) == uploads, "the weights were there"
    changed = {name for name, data in model.contents(model.commit).items() if model.history[1][2].get(name) != data}
    assert changed == {"README.md", "croissant/tiny-stage1.json", "provenance.json", "mlbom.cdx.json"} - (
        {"mlbom.cdx.json"} if model.history[1][2]["mlbom.cdx.json"] == model.history[2][2]["mlbom.cdx.json"] else set()
    )


def test_a_killed_upload_is_continued(project: PublishedProject, hub: Hub, account: Account):
    reached, go_on = threading.Event(), threading.Event()

    weights = file_sha256(project.root / "checkpoints/tiny/stage1_5/model.safetensors")

    def hold(sha256: str) -> bool:
        if sha256 != weights:
            return True
        reached.set()
        return not go_on.wait(60)

    account.put = hold
    process = project.fusion("publish", "tiny", "--push")
    assert reached.wait(300), process.communicate(timeout=5)
    process.kill()
    process.communicate()
    go_on.set()
    stored, history = set(account.stored), {name: len(written(hub, name).history) for name in hub.repositories}
    assert (
        len(stored) >= 2
        and weights not in stored
        and history == {**dict.fromkeys((*CARDS, MODELS[0]), 2), MODELS[1]: 1}
    )
    assert not any(".staging" in path.name for path in (project.root / "published").iterdir())

    account.put = lambda _: True
    account.uploads.clear()
    *told, release = project.publish(push=True)
    assert not set(account.uploads) & stored, "what had arrived was sent again"
    assert all(written(hub, name).tags == {release: written(hub, name).commit} for name in (*CARDS, *MODELS))
    assert "upload fusion/FUSION-Tiny-Stage1: nothing new" in "\n".join(told)


@pytest.mark.long
def test_a_connection_that_breaks_once_is_made_again(project: PublishedProject, hub: Hub, account: Account):
    asked = itertools.count()  # Files go up side by side.
    account.put = lambda _: next(asked) > 0
    *_, release = project.publish(push=True)
    assert written(hub, MODELS[-1]).tags == {release: written(hub, MODELS[-1]).commit}
    assert len(account.uploads) == len(set(account.uploads)) + 1


@pytest.mark.long
def test_a_server_that_fails_is_told_apart_and_the_next_call_continues(
    project: PublishedProject, hub: Hub, account: Account
):
    account.refuse = {f"{MODELS[0]}/commit": 503}
    with pytest.raises(BrokenOffError, match="run the same command again to continue") as caught:
        project.publish(push=True)
    assert caught.value.exit_code == 75, "the flow tries again"
    uploads = list(account.uploads)
    account.refuse = {}
    project.publish(push=True)
    assert not set(account.uploads[len(uploads) :]) & set(uploads)


def test_what_comes_back_otherwise_is_not_tagged(project: PublishedProject, hub: Hub, account: Account):
    account.refuse = {f"{MODELS[0]}/tag": 403}
    with pytest.raises(HubError, match="has not the right to"):
        project.publish(push=True)
    assert set(hub.repositories) == {*CARDS, MODELS[0]}
    account.refuse = {}
    written(hub, MODELS[0]).corrupt = {"lineage.json"}
    with pytest.raises(PublishError, match=r"is not what was published: lineage\.json differ"):
        project.publish(push=True)
    assert written(hub, MODELS[0]).tags == {}


@pytest.mark.long
def test_a_file_that_somebody_put_there_is_taken_away(project: PublishedProject, hub: Hub):
    project.publish(push=True)
    model = written(hub, MODELS[-1])
    model.add("by hand", {**model.contents(model.commit), "modeling.py": b"import os\n"})
    *_, release = project.publish(push=True)
    assert "modeling.py" not in model.contents(model.commit) and model.tags == {release: model.commit}


@pytest.mark.long
def test_somebody_elsewhere_verifies_loads_and_generates(project: PublishedProject, hub: Hub, tmp_path: Path):
    project.publish(push=True)
    there = tmp_path / "elsewhere"
    done = elsewhere(there, "-m", "fusion.cli", "verify", MODELS[-1])
    assert done.returncode == 0, done.stdout + done.stderr
    states = dict(line.split()[:2] for line in done.stdout.splitlines())
    assert {name for name, state in states.items() if state == "passed"} == {
        "files", "lineage", "weights", "card", "provenance",
    }  # fmt: skip
    (there / "PICTURE").write_bytes(picture(random.Random(1))[0])
    card = next((there / "cache").rglob("README.md")).read_text()
    codes = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(codes) == 2 and all(MODELS[-1] in code and "trust_remote_code" not in code for code in codes)
    done = elsewhere(there, "-c", "".join(codes))
    assert done.returncode == 0, done.stderr
    mine, through_transformers = done.stdout.splitlines()
    assert mine == through_transformers.strip()


@pytest.mark.long
def test_a_signed_release_keeps_its_signature_and_is_verified_with_the_key(
    project: PublishedProject, hub: Hub, account: Account, key: Path, tmp_path: Path
):
    *told, release = project.publish(push=True, key=key)
    assert any(line.startswith("signature model.sig") for line in told)
    done = elsewhere(tmp_path / "there", "-m", "fusion.cli", "verify", MODELS[0], "--key", str(key.with_suffix(".pub")), "--signed")  # fmt: skip  # noqa: E501
    assert done.returncode == 0 and done.stdout.count("passed") == 6, done.stdout + done.stderr
    history = {name: len(written(hub, name).history) for name in hub.repositories}
    # In another folder everything is signed anew; the Hub's signatures hold for the same files and are taken over.
    again = project.publish("another folder", push=True, key=key)
    assert again[-1] == release and "nothing new was uploaded" in "\n".join(again)
    assert {name: len(written(hub, name).history) for name in hub.repositories} == history


@pytest.mark.long
def test_the_token_is_shown_nowhere(project: PublishedProject, hub: Hub, account: Account):
    token = account.token
    said = []
    for refuse in ({}, {"/commit/": 500}, {"/commit/": 403}):
        account.refuse = refuse
        for name in list(hub.repositories):
            del hub.repositories[name]
        process = project.fusion("publish", "tiny", "--push")
        out, err = process.communicate(timeout=300)
        said.append((process.returncode, out + err))
    assert [code for code, _ in said] == [0, 75, 1], said
    assert not any(token in text for _, text in said)
    for path in project.root.rglob("*"):
        assert not path.is_file() or token.encode() not in path.read_bytes(), path
    for name in hub.repositories:
        for data in written(hub, name).contents(written(hub, name).commit).values():
            assert token.encode() not in data


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda account: setattr(account, "token", "hf_another"), "does not take the token of HF_TOKEN"),
        (lambda account: setattr(account, "orgs", ()), "is one of somebody, not of fusion: change publish.owner"),
        (lambda account: setattr(account, "role", "read"), "may only read: make one with write access"),
    ],
)
def test_a_token_that_cannot_write_is_refused_before_any_work(
    project: PublishedProject, hub: Hub, account: Account, change, words: str
):
    change(account)
    with pytest.raises(RefusedError, match=words):
        project.publish(push=True)
    assert hub.repositories == {} and not (project.root / "published").exists()
