"""A repository of the Hub at one commit: its listing, and files that are checked against it."""

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from fusion.adopt.errors import AdoptError
from fusion.hashing import file_sha256
from fusion.zoo.entries import ZooCheckpoint

TOKEN = "HF_TOKEN"
"""The only place that a token is taken from: a variable of the environment."""


@dataclass(frozen=True)
class HubFile:
    """What the Hub says of a file: bytes, and a sha256 where it is stored apart from git, else git's sha1."""

    size: int | None
    sha256: str | None
    git_sha1: str | None

    def fits(self, path: Path) -> bool:
        """Whether the file at `path` is the one that the Hub speaks of."""
        if self.size is not None and path.stat().st_size != self.size:
            return False
        if self.sha256 is not None:
            return file_sha256(path) == self.sha256
        if self.git_sha1 is not None:
            data = path.read_bytes()
            return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest() == self.git_sha1
        return False


@dataclass(frozen=True)
class HubSource:
    """A repository at `commit`; `requested` is the revision that was asked for. Downloads continue in `downloads`."""

    repo: str
    requested: str
    commit: str
    files: Mapping[str, HubFile]
    downloads: Path
    entry: ZooCheckpoint | None

    @classmethod
    def at(cls, repo: str, revision: str | None, entry: ZooCheckpoint | None, scratch: Path) -> Self:
        """Asks the Hub; raises `AdoptError` when it cannot answer or no revision is named (it tells the newest)."""
        with hub_errors(repo, revision):
            info = HfApi(endpoint=_endpoint(), token=_token()).model_info(repo, revision=revision, files_metadata=True)
        if revision is None:
            raise AdoptError(
                f"which revision of {repo}? Its newest is {info.sha}: run `fusion adopt {repo} --revision {info.sha}`"
            )
        if not info.sha or info.siblings is None:
            raise AdoptError(f"the Hub gave neither commit nor files of {repo} at {revision}")
        files = {
            each.rfilename: HubFile(each.size, each.lfs.sha256 if each.lfs else None, each.blob_id)
            for each in info.siblings
        }
        return cls(repo, revision, info.sha, files, scratch / repo.replace("/", "--") / info.sha, entry)

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo.partition("/")[2]

    def describe(self) -> dict[str, Any]:
        """Repository and commit; a branch or tag is kept beside the commit that it meant."""
        return {"kind": "hub", "repo": self.repo, "revision": self.commit, "requested": self.requested}

    def listing(self) -> list[str]:
        """All files of the commit."""
        return sorted(self.files)

    def holds(self, name: str, path: Path) -> bool:
        """Compares size and hash with what the Hub says."""
        return self.files[name].fits(path)

    def fetch(self, names: list[str], folder: Path) -> None:
        """Downloads all, checks each, then puts them there; started again, it continues.

        Raises `AdoptError` naming a file that is not what the Hub's listing says; it is deleted.
        """
        for name in names:
            with hub_errors(self.repo, self.commit):
                got = Path(
                    hf_hub_download(
                        self.repo, name, revision=self.commit, local_dir=self.downloads,
                        endpoint=_endpoint(), token=_token(),
                    )
                )  # fmt: skip
            if not self.holds(name, got):
                told, found = self.files[name], file_sha256(got)
                got.unlink()
                raise AdoptError(
                    f"{name} of {self.repo} is not what the Hub lists ({told.sha256 or told.git_sha1}): its sha256 is "
                    f"{found}. It was deleted; run the same command again"
                )
        for name in names:
            try:
                os.link(self.downloads / name, folder / name)
            except OSError:  # Another file system.
                shutil.copyfile(self.downloads / name, folder / name)

    def clean(self) -> None:
        """Removes the downloads, which are needed until the checkpoint has verified."""
        shutil.rmtree(self.downloads, ignore_errors=True)


def _endpoint() -> str | None:
    """Another Hub than the public one, named in the environment."""
    return os.environ.get("HF_ENDPOINT") or None


def _token() -> str | bool:
    """The token of the environment, or False: a token in a file of the Hub's client is not used."""
    return os.environ.get(TOKEN) or False


@contextmanager
def hub_errors(repo: str, revision: str | None) -> Iterator[None]:
    """Turns what the Hub's client raises into an `AdoptError` that says what to do."""
    have = f"the token in {TOKEN} gives no access" if _token() else f"there is no token in the environment ({TOKEN})"
    try:
        yield
    except GatedRepoError as error:
        raise AdoptError(f"{repo} is gated: accept its terms on its page; {have}") from error
    except RepositoryNotFoundError as error:
        raise AdoptError(f"the Hub has no repository {repo}, or it is private: {have}") from error
    except RevisionNotFoundError as error:
        raise AdoptError(f"{repo} has no revision {revision}") from error
    except (OfflineModeIsEnabled, HTTPError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AdoptError(
            f"the Hub does not answer for {repo} ({reason}): run again later, or download it elsewhere and adopt the "
            "folder"
        ) from error
