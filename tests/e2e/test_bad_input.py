"""Bad input at the command line: a clear error or a ledger entry, never only a traceback, never a silent drop."""

import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import polars as pl
import pytest
import yaml
from PIL import Image

from tests.e2e.project import Project, copy_project

QUESTION = {"from": "human", "value": "<image>\nwhat is this?"}
ANSWER = {"from": "gpt", "value": "a red square on white"}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project with one more data set, `mine`, in the published layout in a folder outside."""
    return project_with_data(tmp_path)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same, for commands that fail before they write anything."""
    return project_with_data(tmp_path_factory.mktemp("untouched"))


def project_with_data(folder: Path) -> Project:
    made = copy_project(folder / "project", "micro")
    outside = folder / "mine"
    (outside / "images").mkdir(parents=True)
    source = {
        "origin": {"kind": "published", "revision": None, "file": "web.json"},
        "sampling": "all",
        "category": "general",
        "profile": "rendered",
        "licence": {"declared": "CC0-1.0", "verified": None, "evidence": None},
    }
    dataset = {
        "title": "Mine",
        "for_stage": "stage2",
        "tokenizers": {"tiny": {"name": "data/tokenizers/tiny", "template": "phi_3"}},
        "sources": {"web": source},
    }
    catalog = {"datasets": {"mine": dataset}}
    (made.root / "data/catalog/mine.yaml").write_text(yaml.safe_dump(catalog, sort_keys=False), encoding="utf-8")
    made.set("data.roots", {"mine": str(outside)})
    return made


def picture(colour: str = "red") -> bytes:
    buffer = io.BytesIO()
    image = Image.new("RGB", (64, 64), "white")
    image.paste(colour, (16, 16, 48, 48))
    image.save(buffer, "PNG")
    return buffer.getvalue()


def assert_clear(result: subprocess.CompletedProcess[str], *words: str) -> None:
    """The command failed with one message that names what is wrong."""
    assert result.returncode != 0
    assert result.stderr.startswith("error: "), result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


def test_unreadable_samples_land_in_the_ledger(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "mine"
    (outside / "images" / "good.png").write_bytes(picture())
    (outside / "images" / "corrupt.png").write_bytes(picture()[:90])
    (tmp_path / "secret.png").write_bytes(picture("blue"))
    names = ["good.png", "corrupt.png", "missing.png", "../../secret.png"]
    samples = [{"id": name, "image": name, "conversations": [QUESTION, ANSWER]} for name in names]
    samples.append({"id": "roles", "image": "good.png", "conversations": [ANSWER, QUESTION]})
    (outside / "web.json").write_text(json.dumps(samples), encoding="utf-8")
    for command in ("ingest", "shard"):
        project.run("fusion", command, "mine", "web")
    project.run("fusion", "curate", "mine")
    manifest = pl.read_parquet(project.root / "data/manifests/mine/manifest.parquet")
    ledger = pl.read_parquet(project.root / "data/manifests/mine/ledger.parquet")
    assert manifest["sample_id"].to_list() == ["mine/web/00000000"]
    assert sorted(ledger["sample_id"]) == [f"mine/web/{row:08d}" for row in range(1, 5)]
    assert ledger["reason"].n_unique() == 4
    assert all(ledger["evidence"].str.len_chars() > 0)


def test_damaged_archives_and_impossible_names_land_in_the_ledger(project: Project, tmp_path: Path) -> None:
    images = tmp_path / "mine" / "images"
    with zipfile.ZipFile(images / "pictures.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("good.png", "damaged.png"):
            archive.writestr(name, picture())
        damaged = archive.getinfo("damaged.png")
    data = bytearray((images / "pictures.zip").read_bytes())
    start = damaged.header_offset + 30 + len(damaged.filename)
    data[start : start + damaged.compress_size] = bytes([0xFF]) * damaged.compress_size
    (images / "pictures.zip").write_bytes(data)
    names = ["good.png", "damaged.png", "x" * 300 + ".png", "nul\0.png"]
    samples = [{"image": name, "conversations": [QUESTION, ANSWER]} for name in names]
    (tmp_path / "mine" / "web.json").write_text(json.dumps(samples), encoding="utf-8")
    for command in (("ingest", "mine", "web"), ("shard", "mine", "web"), ("curate", "mine")):
        assert not project.run("fusion", *command).stderr
    ledger = pl.read_parquet(project.root / "data/manifests/mine/ledger.parquet")
    assert dict(ledger.select("sample_id", "reason").iter_rows()) == {
        "mine/web/00000001": "damaged-archive-member",
        "mine/web/00000002": "image-name-too-long",
        "mine/web/00000003": "bad-image-path",
    }


def test_folders_of_a_source_that_left_the_catalog_are_named_before_anything_runs(project: Project) -> None:
    for part in ("raw", "index", "shards"):
        (project.root / "data" / part / "mine" / "gone").mkdir(parents=True)
    named = [f"data/{part}/mine/gone" for part in ("raw", "index", "shards")]
    assert_clear(project.run("fusion", "settings", "--write", check=False), "rm -r", *named)
    assert_clear(project.run("fusion", "curate", "mine", check=False), "rm -r", *named)


def test_malformed_json_is_named_with_its_place(project: Project, tmp_path: Path) -> None:
    (tmp_path / "mine" / "web.json").write_text('[{"id": "a", "conversations": [}]', encoding="utf-8")
    assert_clear(project.run("fusion", "ingest", "mine", "web", check=False), "web.json")
    assert not (project.root / "data/raw/mine").exists() or not any((project.root / "data/raw/mine").iterdir())


def test_missing_annotations_are_named(project: Project) -> None:
    assert_clear(project.run("fusion", "ingest", "mine", "web", check=False), "web.json", "missing")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ingest", "nothing", "web"), ("data set", "nothing", "mine")),
        (("train", "tiny", "stage3"), ("stage3", "stage1_5")),
        (("base", "tinny"), ("tinny", "tiny")),
        (("train", "micro", "stage1"), ("checkpoints/micro/base", "dvc repro")),
        (("evaluate", "micro"), ("micro-test", "dvc repro")),
        (("chat", "nowhere.png", "what is this?"), ("nowhere.png",)),
    ],
)
def test_wrong_names_are_clear(untouched: Project, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert_clear(untouched.run("fusion", *arguments, check=False), *words)


def test_unknown_setting_stops_dvc_before_anything_runs(project: Project) -> None:
    project.set("data.shard_size_gb", 1)
    result = project.run("fusion", "settings", check=False)
    assert_clear(result, "data.shard_size_gb", "unknown key")
    repro = project.repro("ingest@micro-stage1-clipart", check=False)
    assert repro.returncode != 0
    assert "data.shard_size_gb: unknown key" in repro.stdout + repro.stderr
    assert not (project.root / "data/raw").exists() or not list((project.root / "data/raw").rglob("*.parquet"))


def test_changed_variants_say_how_to_go_on(project: Project) -> None:
    project.set("run.variants", ["tiny"])
    repro = project.repro("settings", check=False)
    assert repro.returncode != 0
    assert "fusion settings --write" in repro.stdout + repro.stderr


def test_full_disk_is_named(project: Project) -> None:
    """The output folder lies on a small file system of its own, in a mount namespace that ends with the command."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "--mount", "true"], check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    (project.root / "data/raw").mkdir(exist_ok=True)
    script = "mount -t tmpfs -o size=256k tmpfs data/raw && exec fusion ingest micro-stage1 clipart"
    result = project.run("unshare", "--mount", "bash", "-c", script, check=False)
    assert_clear(result, "no space left", "data/raw")
    assert not any((project.root / "data/raw").iterdir())
