"""The result that a finished stage keeps: whoever forces the stage gets it trained."""

import subprocess
import sys

import pytest

CHILD = "import sys; from fusion.train.result import forced; sys.exit(0 if forced() else 3)"
PARENT = "import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', sys.argv[1]]).returncode)"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dvc repro --force train_stage1@micro", True),
        ("/usr/bin/dvc repro -sf train_stage1@micro", True),
        ("-m dvc --wait-for-lock repro --single-item --force train_stage1@micro", True),
        ("dvc repro --single-item train_stage1@micro", False),
        ("dvc status --force", False),
        ("other repro --force", False),
    ],
)
def test_a_forced_stage_is_known_by_the_command_that_started_it(words: str, expected: bool) -> None:
    code = subprocess.run([sys.executable, "-c", PARENT, CHILD, *words.split()]).returncode
    assert code == (0 if expected else 3)
