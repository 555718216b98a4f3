"""docs/operations.md: its commands are run as they stand, in a project whose data stages were run and committed.

A block's mark says how: `sh` has to succeed; `sh any` may fail, which depends on the machine; `sh s3` is run beside a
real S3-compatible server where one can be had; `sh elsewhere` needs another machine or server.
"""

import os
import re
import textwrap
from pathlib import Path

import pytest

from tests.e2e.project import ROOT, Project, copy_project
from tests.storage.s3_server import missing, serve

PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
BLOCKS = [
    (mark.strip(), textwrap.dedent(text))
    for mark, text in re.findall(r"^ *```sh( \w+)?\n(.*?)^ *```$", PAGE, re.DOTALL | re.MULTILINE)
]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = copy_project(tmp_path_factory.mktemp("operations") / "project", "micro")
    for name in ("Makefile", ".gitignore"):
        (made.root / name).write_bytes((ROOT / name).read_bytes())
    made.repro("validate@micro-stage1")
    made.run("git", "add", "--all")
    made.run("git", "commit", "--quiet", "--message", "the data of micro")
    # `make` takes this environment for the project's own, and for up to date.
    (made.root / ".venv").symlink_to(ROOT / ".venv", target_is_directory=True)
    with (made.root / ".git/info/exclude").open("a") as exclude:
        exclude.write("/.venv\n")
    for name in ("requirements.txt", "pyproject.toml"):
        os.utime(made.root / name, (0, 0))
    return made


def run(project: Project, text: str, **environment: str) -> tuple[int, str]:
    done = project.run("bash", "-euo", "pipefail", "-c", text, check=False, **environment)
    return done.returncode, done.stdout + done.stderr


def test_every_block_says_how_it_is_run() -> None:
    assert {mark for mark, _ in BLOCKS} == {"", "any", "s3", "elsewhere"}
    assert PAGE.count("```sh") == len(BLOCKS)


@pytest.mark.long
def test_the_commands_of_the_page(project: Project) -> None:
    printed = {}
    for mark, text in BLOCKS:
        if mark in ("", "any"):
            code, output = run(project, text)
            assert mark == "any" or code == 0, f"{text}\n{output}"
            printed[text] = output
    everything = "\n".join(printed.values())
    assert "files pushed" in everything and "sha256 as in their records" in everything
    assert "the remote store: " in everything and "validate@micro-stage1" in everything
    doctor = next(output for text, output in printed.items() if text == "fusion doctor\n")
    assert "ok    storage" in doctor
    assert list((project.root / "worktrees").glob("*/data/validation/micro-stage1/validation.json"))


@pytest.mark.long
@pytest.mark.skipif(missing() is not None, reason=f"a real S3-compatible server is needed: {missing()}")
def test_the_commands_for_s3(project: Project, tmp_path: Path) -> None:
    with serve(tmp_path / "served") as server:
        for mark, text in BLOCKS:
            if mark == "s3":
                code, output = run(project, text, S3_ADDRESS=server.address, **server.environment)
                assert code == 0 and "files pushed" in output, f"{text}\n{output}"
