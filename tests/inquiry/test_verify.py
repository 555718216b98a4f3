"""`fusion verify` and `fusion sign`: what a person who downloads a package can find out, and what an edit shows."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fusion.cli import app
from fusion.errors import FusionError
from fusion.hashing import json_sha256
from fusion.inquiry.checks import check_folder
from fusion.lineage.errors import LineageError
from fusion.lineage.files import sha256_path
from tests.hub_server import Repository, hub_server


def keys(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    make = ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(private)]
    subprocess.run(make, check=True, capture_output=True)
    show = ["openssl", "ec", "-in", str(private), "-pubout", "-out", str(public)]
    subprocess.run(show, check=True, capture_output=True)
    return private, public


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package as `fusion package` leaves it, with weights of eight bytes."""
    folder = tmp_path / "package"
    folder.mkdir()
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"12345678")
    (folder / "config.json").write_text("{}\n")
    made = sha256_path(folder)
    stages = {}
    for stage, inputs, outputs in (
        ("train_stage2@tiny", {"fusion/train": "1" * 64}, {"checkpoints/tiny/stage2": made}),
        ("evaluate@tiny", {"checkpoints/tiny/stage2": made}, {"results/tiny/scores.json": "2" * 64}),
    ):
        core = {"stage": stage, "command": "fusion", "params": {}, "inputs": inputs, "outputs": outputs}
        stages[stage] = {**core, "digest": json_sha256(core)}
    digest = json_sha256({name: core["digest"] for name, core in stages.items()})
    (folder / "lineage.json").write_text(json.dumps({"format": 1, "digest": digest, "stages": stages}))
    (folder / "README.md").write_text(f"# Tiny\n\nLineage digest `{digest}`\n")
    return folder


def states(folder: Path, key: Path | None = None, signed: bool = False) -> dict[str, str]:
    return {check.name: check.state for check in check_folder(folder, key, signed)}


def test_an_unsigned_package_can_be_checked_without_the_repository(package: Path):
    found = {check.name: check for check in check_folder(package, None, False)}
    assert {name for name, check in found.items() if check.state == "passed"} == {"files", "lineage", "weights", "card"}
    assert "which were evaluated" in found["weights"].what
    assert states(package, signed=True)["signature"] == "FAILED"


EDITS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit of the weights": (lambda p: _flip(p / "model.safetensors"), "weights"),
    "weights cut short": (lambda p: _cut(p / "model.safetensors"), "files"),
    "a configuration": (lambda p: (p / "config.json").write_text('{"a": 1}\n'), "weights"),
    "another tokenizer": (lambda p: (p / "tokenizer.json").write_text("{}"), "weights"),
    "a pickle": (lambda p: (p / "model.bin").write_bytes(b"\x80"), "files"),
    "code": (lambda p: (p / "modeling.py").write_text("import os"), "files"),
    "no weights": (lambda p: (p / "model.safetensors").unlink(), "files"),
    "no lineage": (lambda p: (p / "lineage.json").unlink(), "lineage"),
    "an edited lineage": (lambda p: _replace(p / "lineage.json", "1" * 64, "3" * 64), "lineage"),
    "the card of another model": (lambda p: (p / "README.md").write_text("# Better\n"), "card"),
    "no card": (lambda p: (p / "README.md").unlink(), "card"),
}


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_found_without_a_signature(package: Path, name: str):
    edit, check = EDITS[name]
    edit(package)
    assert states(package)[check] == "FAILED"


def test_a_signature_covers_every_file_and_belongs_to_a_key(package: Path, tmp_path: Path):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    private, public = keys(tmp_path, "mine")
    _, other = keys(tmp_path, "other")
    before = sha256_path(package)
    out = tmp_path / "signed"
    done = CliRunner().invoke(app, ["sign", str(package), str(out), "--key", str(private)])
    assert done.exit_code == 0, done.output
    assert sha256_path(package) == before, "an output of DVC was touched"
    assert json.loads((out / "mlbom.cdx.json").read_text())["metadata"]["component"]["name"] == "signed"
    moved = shutil.copytree(out, tmp_path / "elsewhere/by another name")
    assert set(states(moved, public).values()) == {"passed"}
    assert states(moved, other)["signature"] == "FAILED"
    (moved / "README.md").write_text((moved / "README.md").read_text() + "\nThe best of all models.\n")
    assert states(moved, public) == {
        "files": "passed", "lineage": "passed", "weights": "passed", "card": "passed", "provenance": "FAILED",
        "signature": "FAILED",
    }  # fmt: skip
    (out / "notes.txt").write_text("x")
    assert states(out, public)["signature"] == "FAILED"
    done = CliRunner().invoke(app, ["verify", str(out), "--key", str(public)])
    assert done.exit_code == 1 and "FAILED" in done.output
    with pytest.raises(LineageError, match="is there already"):
        CliRunner().invoke(app, ["sign", str(package), str(out), "--key", str(private)], catch_exceptions=False)


def test_a_key_that_cannot_sign_leaves_nothing_and_a_password_is_not_shown(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    monkeypatch.setenv("FUSION_SIGNING_PASSWORD", "correct horse")
    (tmp_path / "no.pem").write_text("no key\n")
    with pytest.raises(LineageError, match="cannot sign") as caught:
        CliRunner().invoke(
            app,
            ["sign", str(package), str(tmp_path / "out"), "--key", str(tmp_path / "no.pem")],
            catch_exceptions=False,
        )
    assert "correct horse" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.pem", "package"]


def test_what_is_no_package_is_told(tmp_path: Path):
    assert states(tmp_path)["files"] == "FAILED"
    with pytest.raises(FusionError, match="is not there"):
        CliRunner().invoke(app, ["verify", str(tmp_path), "--key", "nowhere.pub"], catch_exceptions=False)


def test_a_package_on_the_hub_is_downloaded_and_checked(package: Path, tmp_path: Path):
    pytest.importorskip("model_signing", reason="the extra `sign` is not installed")
    private, public = keys(tmp_path, "mine")
    CliRunner().invoke(app, ["sign", str(package), str(tmp_path / "signed"), "--key", str(private)])
    commit = "0123456789abcdef0123456789abcdef01234567"
    with hub_server({"org/tiny": Repository(tmp_path / "signed", commit)}) as hub:
        places = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hub"), "HF_HUB_DISABLE_XET": "1"}
        command = [sys.executable, "-m", "fusion.cli"]
        shown = {**os.environ, **places, "PYTHONPATH": str(Path(__file__).parents[2])}

        def ask(*words: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run([*command, *words], cwd=tmp_path, env=shown, capture_output=True, text=True)

        done = ask("verify", "org/tiny", "--key", str(public), "--signed")
        assert done.returncode == 0 and done.stdout.count("passed") == 6, done.stdout + done.stderr
        assert "train_stage2@tiny" in ask("lineage", "org/tiny").stdout
        done = ask("verify", "org/nobody")
        assert done.returncode == 1 and "neither a folder nor a repository" in done.stderr
