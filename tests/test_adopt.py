"""`fusion adopt`: a checkpoint comes in whole, verified and recorded, or not at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import fusion.adopt.source
from fusion.adopt import adopt_checkpoint
from fusion.adopt.command import adopt_parent
from fusion.adopt.errors import AdoptError
from fusion.errors import FusionError
from fusion.lineage.files import sha256_path
from fusion.lineage.records import read_records
from fusion.model.checkpoints import load_checkpoint, save_checkpoint
from fusion.publish.own_models import own_models
from fusion.settings import Settings, load_settings
from fusion.train.recipe import make_recipe
from fusion.zoo.entries import ZooError
from fusion.zoo.rules import check_parent
from tests.hub_server import Hub, Repository, hub_server
from tests.model.tiny import shared, text_config, vision_config

ROOT = Path(__file__).parents[1]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECRET = "hf_only-for-this-test"
DVC_YAML = "stages: {train: {cmd: 'true', outs: [checkpoints/micro/stage1]}}\n"
SHARDS = {"model.embed_tokens.weight": "a.safetensors"}


@pytest.fixture(scope="module")
def settings() -> Settings:
    """params.yaml with one more variant, whose base models are those of the small checkpoint."""
    known = load_settings(ROOT / "params.yaml")
    text, vision = text_config("phi_3").to_dict(), vision_config().to_dict()
    llm = {key: text[key] for key in ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size")}
    tower = {key: vision[key] for key in ("hidden_size", "num_hidden_layers", "image_size", "patch_size")}
    document = known.model_dump()
    document["variants"]["mine"] = json.loads(json.dumps(document["variants"]["micro"]))
    document["variants"]["mine"]["base"] = {"llm": {"config": llm}, "tower": {"config": tower}}
    return Settings.model_validate(document)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint with a card, and files that do not belong to one."""
    folder = tmp_path_factory.mktemp("made") / "model"
    save_checkpoint(*shared("phi_3"), folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit\n")
    return folder


@pytest.fixture
def checkpoint(made: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may spoil."""
    return Path(shutil.copytree(made, tmp_path / "from/model"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with git, DVC and one stage."""
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    shutil.copy(ROOT / ".dvc/config", root / ".dvc/config")
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, root / name)
    (root / "dvc.yaml").write_text(DVC_YAML)
    return root


def left(root: Path) -> list[str]:
    """What an adoption that failed left under checkpoints/ and records/."""
    return [str(path) for name in ("checkpoints", "records") for path in (root / name).rglob("*") if path.is_file()]


def dvc(root: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=root, check=True, capture_output=True)


def record_of(root: Path, name: str) -> dict[str, Any]:
    (record,) = read_records(f"adopt@{name}", root)  # Checks its digest as well.
    return record.document


def test_a_folder_comes_into_dvc_with_a_record(settings: Settings, made: Path, project: Path) -> None:
    told = adopt_checkpoint(settings, str(made), root=project)
    folder = project / "checkpoints/adopted/model"
    taken = {path.name: path.read_bytes() for path in made.iterdir() if path.suffix not in (".bin", ".py")}
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == taken
    assert "left out: modeling.py, training_args.bin" in told
    weights = shared("phi_3")[0].state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in load_checkpoint(folder)[0].state_dict().items())
    record = record_of(project, "model")
    assert record["outputs"] == {"checkpoints/adopted/model": sha256_path(folder)}
    facts = record["params"]["adopt"]
    assert facts["origin"] == {"kind": "folder", "name": "model"}
    assert facts["licence"]["declared"] == "apache-2.0" and facts["left_out"] == ["modeling.py", "training_args.bin"]
    assert set(facts["files"]) == {path.name for path in folder.iterdir()}
    # Git sees the small files only, and DVC gives the folder back.
    seen = subprocess.run(
        ["git", "-C", str(project), "status", "--porcelain", "--untracked-files=all", "checkpoints", "records"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [line.split()[1].split("/")[0] for line in seen] == ["checkpoints", "records"]
    assert seen[0] == "?? checkpoints/adopted/model.dvc"
    before = sha256_path(folder)
    shutil.rmtree(folder)
    dvc(project, "checkout", "--quiet", "checkpoints/adopted/model.dvc")
    assert sha256_path(folder) == before
    (own,) = own_models(settings, project)
    assert (own.name, own.kind, own.folder) == ("model", "adopted", "checkpoints/adopted/model")
    # Run again, it changes nothing; other content under the same name is refused.
    adopt_checkpoint(settings, str(made), root=project)
    assert record_of(project, "model") == record
    (folder / "README.md").write_text("another")
    with pytest.raises(AdoptError, match=r"is there already and is another checkpoint \(README\.md"):
        adopt_checkpoint(settings, str(made), root=project)


def test_an_adopted_stage_is_the_parent_of_the_next(settings: Settings, made: Path, project: Path) -> None:
    told = adopt_checkpoint(settings, str(made), target="mine/stage1", root=project)
    assert "not recommended for downstream tasks" in told
    recipe = make_recipe(settings, "mine", "stage1_5", project)
    assert recipe.parent == project / "checkpoints/mine/stage1" and (recipe.parent / "config.json").is_file()
    check_parent(recipe.parent, settings.variant("mine"), "stage1_5", project)
    assert record_of(project, "mine-stage1")["params"]["adopt"]["stage"] == "stage1"
    with pytest.raises(ZooError, match=r"its base LLM is .*width 64.*, wanted is .*width 96"):
        check_parent(recipe.parent, settings.variant("tiny"), "stage1_5", ROOT)


def test_a_parent_that_is_not_what_was_adopted_is_refused_before_training(
    settings: Settings, made: Path, checkpoint: Path, project: Path
) -> None:
    place, file = project / "checkpoints/mine/stage1", "checkpoints/mine/stage1.dvc"
    recipe = make_recipe(settings, "mine", "stage1_5", project)

    def git(*arguments: str) -> None:
        who = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
        subprocess.run(["git", "-C", str(project), *who, *arguments], check=True, capture_output=True)

    def commit() -> None:
        git("add", "--all")
        git("commit", "--quiet", "--message", "as it is")

    adopt_checkpoint(settings, str(made), target="mine/stage1", root=project)
    adopt_parent(settings, recipe, None, None, None, None)
    commit()
    old = (project / file).read_bytes()
    shutil.rmtree(place)
    (checkpoint / "README.md").write_text("# A newer model\n")
    adopt_checkpoint(settings, str(checkpoint), target="mine/stage1", root=project)
    adopt_parent(settings, recipe, None, None, None, None)
    commit()

    # Another clone after `git pull`: the file is the new one, the folder that of before.
    (project / file).write_bytes(old)
    dvc(project, "checkout", "--quiet", "--force", file)
    git("checkout", "--quiet", "--", file)
    with pytest.raises(AdoptError, match=f"`dvc checkout --force {file}`"):
        adopt_parent(settings, recipe, None, None, None, None)
    dvc(project, "repro", "--quiet", file)
    assert (project / file).read_bytes() == old, "DVC took the folder for a new version, before any stage"
    with pytest.raises(AdoptError, match=f"`git checkout -- {file}`"):
        adopt_parent(settings, recipe, None, None, None, None)
    git("checkout", "--quiet", "--", file)
    dvc(project, "checkout", "--quiet", "--force", file)
    adopt_parent(settings, recipe, None, None, None, None)
    shutil.rmtree(place)
    with pytest.raises(AdoptError, match=f"is not there: get it with `dvc checkout {file}`"):
        adopt_parent(settings, recipe, None, None, None, None)

    # Whoever means the older one, commits that.
    (project / file).write_bytes(old)
    dvc(project, "checkout", "--quiet", "--force", file)
    commit()
    adopt_parent(settings, recipe, None, None, None, None)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("mine/stage3", "there is no stage `stage3`"),
        ("nobody/stage1", "params.yaml has no variant `nobody`"),
        ("micro/stage1", "checkpoints/micro/stage1 is what the stage train makes"),
        ("tiny/stage1", "its base LLM is an unnamed model"),
        ("fusion-phi35-3b/stage1", "wanted is microsoft/Phi-3.5-mini-instruct"),
        ("FUSION-X-Phi3.5-3B-Stage1", "wanted is microsoft/Phi-3.5-mini-instruct"),
        ("../outside", "there is no stage"),
        (".hidden", "a name has letters"),
    ],
)
def test_a_wrong_place_is_refused(settings: Settings, made: Path, project: Path, target: str, words: str) -> None:
    with pytest.raises(FusionError) as caught:
        adopt_checkpoint(settings, str(made), target=target, root=project)
    assert words in str(caught.value) and left(project) == []


def spoil(folder: Path, how: str) -> None:
    """Makes a checkpoint wrong in one way."""
    weights = folder / "model.safetensors"
    if how == "pickle":
        torch.save({}, folder / "pytorch_model.bin")
        weights.unlink()
    elif how == "no weights":
        weights.unlink()
        (folder / "training_args.bin").unlink()
    elif how == "no configuration":
        (folder / "config.json").unlink()
    elif how == "other model":
        (folder / "config.json").write_text('{"model_type": "llava"}')
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "cut off":
        weights.write_bytes(weights.read_bytes()[:-7])
    elif how == "index":
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": SHARDS}))
    else:
        tensors = load_file(weights)
        if how == "missing":
            del tensors["lm_head.weight"]
        elif how == "left over":
            tensors["model.extra"] = torch.zeros(2)
        else:
            tensors["model.norm.weight"] = torch.zeros(3)
        save_file(tensors, weights, {"format": "pt"})


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("pickle", r"weights as pytorch_model\.bin.*only safetensors"),
        ("no weights", r"no \.safetensors file"),
        ("no configuration", r"no config\.json"),
        ("other model", r"not that of a FUSION checkpoint: its model_type is 'llava'"),
        ("no tokenizer", "does not verify"),
        ("cut off", "no whole safetensors file"),
        ("index", r"lacks a\.safetensors"),
        ("missing", r"1 missing \(lm_head\.weight\)"),
        ("left over", r"1 left over \(model\.extra\)"),
        ("shape", r"model\.norm\.weight \[3\] instead of \[64\]"),
    ],
)
def test_what_does_not_verify_leaves_nothing(
    settings: Settings, checkpoint: Path, project: Path, how: str, words: str
) -> None:
    spoil(checkpoint, how)
    with pytest.raises((AdoptError, ZooError), match=words):
        adopt_checkpoint(settings, str(checkpoint), root=project)
    assert left(project) == []


def test_an_interrupted_copy_leaves_nothing_and_can_be_run_again(
    settings: Settings, made: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []

    def interrupted(source: Path, target: Path) -> None:
        if copied:
            raise KeyboardInterrupt
        copied.append(str(target))
        Path(target).write_bytes(Path(source).read_bytes()[:100])

    with monkeypatch.context() as patch:
        patch.setattr(fusion.adopt.source.shutil, "copyfile", interrupted)
        with pytest.raises(KeyboardInterrupt):
            adopt_checkpoint(settings, str(made), root=project)
    assert copied and left(project) == []
    # Half a copy whose process was killed, and a DVC that fails afterwards.
    (project / "checkpoints/adopted/.model.partial").mkdir(parents=True)
    (project / "checkpoints/adopted/.model.partial/rubbish").write_text("x")
    config = project / ".dvc/config"
    good = config.read_text()
    resolved = (project / "dvc.yaml").read_text()
    config.write_text(good + "[cache]\n    dir = /dev/null/nowhere\n")
    with pytest.raises(AdoptError, match="is whole, but DVC did not take it"):
        adopt_checkpoint(settings, str(made), root=project)
    assert (project / "checkpoints/adopted/model/config.json").is_file() and not (project / "records").exists()
    config.write_text(good)
    adopt_checkpoint(settings, str(made), root=project)
    assert (project / "dvc.yaml").read_text() == resolved and record_of(project, "model")
    assert not list(project.rglob("*.partial")) and not list(project.rglob("rubbish"))


@pytest.fixture
def hub(made: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A Hub with an open, a gated and a corrupt repository, and one under a name of the zoo."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    repositories = {
        "org/open": Repository(made, COMMIT, {"v1": COMMIT}),
        "org/gated": Repository(made, COMMIT, token=SECRET),
        "org/corrupt": Repository(made, COMMIT, corrupt={"model.safetensors"}),
        "starriver030515/FUSION-Phi3.5-3B-Stage1": Repository(made, COMMIT),
    }
    with hub_server(repositories) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


def test_a_tag_of_a_repository_is_recorded_as_its_commit(settings: Settings, project: Path, hub: Hub) -> None:
    with pytest.raises(AdoptError, match=f"which revision of org/open.*--revision {COMMIT}"):
        adopt_checkpoint(settings, "org/open", root=project)
    with pytest.raises(AdoptError, match="org/open has no revision v9"):
        adopt_checkpoint(settings, "org/open", revision="v9", root=project)
    adopt_checkpoint(settings, "org/open", revision="v1", root=project)
    facts = record_of(project, "open")["params"]["adopt"]
    assert facts["origin"] == {"kind": "hub", "repo": "org/open", "revision": COMMIT, "requested": "v1"}
    assert all(f"/resolve/{COMMIT}/" in path for method, path, _ in hub.requests if "resolve" in path)
    assert not any("modeling.py" in path or ".bin" in path for _, path, _ in hub.requests)
    assert not (project / "scratch/adopt/org--open" / COMMIT).exists()


def test_a_file_that_is_not_what_the_hub_lists_is_refused(settings: Settings, project: Path, hub: Hub) -> None:
    with pytest.raises(AdoptError, match=r"model\.safetensors of org/corrupt is not what the Hub lists"):
        adopt_checkpoint(settings, "org/corrupt", revision="main", root=project)
    assert left(project) == []
    hub.repositories["org/corrupt"].corrupt.clear()
    hub.requests.clear()
    adopt_checkpoint(settings, "org/corrupt", revision="main", root=project)
    fetched = [path.rpartition("/")[2] for method, path, _ in hub.requests if method == "GET" and "resolve" in path]
    assert fetched[0] == "model.safetensors" and "config.json" not in fetched


def test_a_gated_repository_needs_a_token_of_the_environment(
    settings: Settings, project: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AdoptError, match=r"org/gated is gated.*no token in the environment \(HF_TOKEN\)"):
        adopt_checkpoint(settings, "org/gated", revision="main", root=project)
    with pytest.raises(AdoptError, match="the Hub has no repository org/none"):
        adopt_checkpoint(settings, "org/none", revision="main", root=project)
    assert {token for _, _, token in hub.requests} == {None}
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(AdoptError, match="the token in HF_TOKEN gives no access"):
        adopt_checkpoint(settings, "org/gated", revision="main", root=project)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    adopt_checkpoint(settings, "org/gated", revision="main", root=project)
    written = [path for path in project.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert written == []


def test_a_name_of_the_zoo_is_that_repository_and_has_to_be_that_model(
    settings: Settings, project: Path, hub: Hub
) -> None:
    with pytest.raises(ZooError, match=r"FUSION-Phi3\.5-3B-Stage1 does not fit: its base LLM .* microsoft/Phi-3\.5"):
        adopt_checkpoint(settings, "FUSION-Phi3.5-3B-Stage1", revision="main", root=project)
    assert left(project) == []
    with pytest.raises(AdoptError, match="is a stage1 checkpoint"):
        adopt_checkpoint(
            settings, "FUSION-Phi3.5-3B-Stage1", revision="main", target="fusion-phi35-3b/stage1_5", root=project
        )


def test_a_hub_out_of_reach_and_a_wrong_name_are_clear(
    settings: Settings, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(AdoptError, match="the Hub does not answer for org/open"):
        adopt_checkpoint(settings, "org/open", revision="main", root=project)
    with pytest.raises(AdoptError, match="is no folder, no repository"):
        adopt_checkpoint(settings, "nowhere", root=project)


def test_the_command_prints_errors_without_a_traceback(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "fusion.cli", "adopt", "nowhere"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 1 and result.stderr.startswith("error: nowhere is no folder")
