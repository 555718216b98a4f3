"""A data set of the Hub at one commit, on this machine: its listing, asked for once, and downloads that continue.

The Hub's client starts a file anew when it was killed, and archives have tens of gigabytes. So large files are fetched
here, into the place where the client's cache expects them; it finds them there and does the rest.
"""

from __future__ import annotations

import fcntl
import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from fusion.data.errors import DataError, IngestError
from fusion.data.store.folders import full_disk_named, read_json
from fusion.files import write_json
from fusion.progress import Progress

_COMMIT = re.compile(r"[0-9a-f]{40}")
LARGE = 16 << 20
"""Bytes. Below, starting anew costs nothing."""
_CHUNK = 1 << 20
_ATTEMPTS = 6
_STALLED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class HubFile:
    """What the Hub says of a file: bytes, and its sha256 where it is stored apart from git (as large files are)."""

    size: int
    sha256: str | None


def list_files(repo: str, revision: str, scratch: Path) -> dict[str, HubFile]:
    """The files of a data set at a commit, from `scratch` if they were asked for before.

    Raises:
        IngestError: the revision is a branch or tag, which may be another one tomorrow.
        Errors of the Hub's client.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    if not _COMMIT.fullmatch(revision):
        commit = HfApi().dataset_info(repo, revision=revision).sha
        raise IngestError(
            f"{repo}@{revision}: a branch or tag can move. Pin the commit that it means now: `revision: {commit}` in "
            "data/catalog/"
        )
    saved = scratch / repo.replace("/", "--") / f"{revision}.json"
    if not saved.is_file():
        tree = HfApi().list_repo_tree(repo, recursive=True, revision=revision, repo_type="dataset")
        found = {
            each.path: HubFile(each.size, each.lfs.sha256 if each.lfs else None)
            for each in tree
            if isinstance(each, RepoFile)
        }
        write_json({name: asdict(file) for name, file in found.items()}, saved)
    return {name: HubFile(**file) for name, file in read_json(saved, "fusion ingest").items()}


def fetch_large(repo: str, revision: str, files: dict[str, HubFile], names: Iterable[str]) -> None:
    """Downloads those of `names` that are large into the cache of the Hub's client; what is there is continued.

    Raises:
        DataError: another process downloads the same file, or the disk is full.
        Errors of the Hub's client: it cannot be reached, or refuses.
    """
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import repo_folder_name

    blobs = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="dataset") / "blobs"
    for name in names:
        file = files[name]
        # The client names what is stored apart from git by its sha256.
        if file.sha256 is None or file.size < LARGE or (blobs / file.sha256).exists():
            continue
        blobs.mkdir(parents=True, exist_ok=True)
        with full_disk_named(blobs):
            _fetch(hf_hub_url(repo, name, repo_type="dataset", revision=revision), name, file, blobs / file.sha256)


def _fetch(url: str, name: str, file: HubFile, target: Path) -> None:
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    partial = target.with_name(f"{target.name}.partial")
    with partial.open("ab") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataError(f"another process downloads {name} (it holds {partial}): wait for it") from None
        with Progress(f"download {name}", "bytes", file.size, stream.tell()) as progress:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    _continue(url, stream, file.size, progress)
                    break
                except HfHubHTTPError:
                    raise
                except HTTPError:
                    # The line was cut: what has come is kept, and a new start asks for the rest.
                    if attempt == _ATTEMPTS:
                        raise
                    stream.flush()
                    time.sleep(attempt)
        if stream.tell() != file.size:
            partial.unlink()
            raise IngestError(f"{name} came with {stream.tell()} bytes, {file.size} were announced: run it again")
        partial.rename(target)


def _continue(url: str, stream: IO[bytes], size: int, progress: Progress) -> None:
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    start = stream.tell()
    if start >= size:
        return
    headers = {**build_hf_headers(), **({"Range": f"bytes={start}-"} if start else {})}
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=_STALLED_SECONDS) as response:
        hf_raise_for_status(response)
        if start and response.status_code != 206:
            stream.truncate(0)  # this server cannot continue
        for chunk in response.iter_bytes(_CHUNK):
            stream.write(chunk)
            progress.advance(len(chunk))
