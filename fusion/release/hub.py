"""The Hub: what of a release is there, uploading the rest, verifying what came back, tags, and the collection.

Files go up first, content-addressed, and become visible in one commit; so what a broken connection leaves is not seen,
and what had arrived is not sent again. The release's tag is set when what comes back has been verified: a repository
with the tag at its newest commit is finished.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusion.inquiry.checks import SIGNATURE
from fusion.publish.errors import PublishError
from fusion.release.contents import Repository, sha256_once
from fusion.release.errors import BrokenOffError, HubError
from fusion.release.folder import failed_checks, verify_copy
from fusion.secrecy import mask

MAIN = "main"
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_XET_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")
"""Xet's part of the client has no answer in its errors, only words, and calls a refusal a ConnectionError as well."""


@dataclass(frozen=True)
class Sent:
    """What an upload did: the repository's newest commit, the files and bytes that were new, the files taken away."""

    commit: str
    files: int
    bytes: int
    removed: int


class Hub:
    """A Hub with a token. Nothing is read from a login on this machine, and the token is in no message."""

    def __init__(self, token: str, private: bool) -> None:
        """Asks nothing yet; the address is that of HF_ENDPOINT, if set."""
        from huggingface_hub import HfApi
        from huggingface_hub.utils import disable_progress_bars

        if not sys.stderr.isatty():
            disable_progress_bars()
        self._token = token
        self._private = private
        self._api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
        self.address = str(self._api.endpoint)

    def check_account(self, owner: str) -> None:
        """Raises `HubError` when the token is refused or is not one of `owner`."""
        with _told(f"{self.address} does not take the token of HF_TOKEN"):
            account: dict[str, Any] = self._api.whoami()
        mine = [account["name"], *(one["name"] for one in account.get("orgs") or ())]
        role = ((account.get("auth") or {}).get("accessToken") or {}).get("role")
        if owner not in mine:
            raise HubError(
                f"the token of HF_TOKEN is one of {', '.join(mine)}, not of {owner}: change publish.owner in "
                "params.yaml, or use another token"
            )
        if role == "read":
            raise HubError("the token of HF_TOKEN may only read: make one with write access on the Hub")

    def upload(self, one: Repository, release: str) -> Sent:
        """Makes the repository's newest commit hold exactly these files; nothing is sent when it does already."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        with _told(f"{one.id}: the upload broke off"):
            head = self._head(one)
            there = self._listed(one, head)
            new = [name for name in one.files if not _equal(one.folder / name, there.get(name))]
            gone = [name for name in there if name not in one.files and name != ".gitattributes"]
            if not new and not gone:
                return Sent(head, 0, 0, 0)
            operations: list[Any] = [
                *(CommitOperationAdd(name, str(one.folder / name)) for name in new),
                *(CommitOperationDelete(name) for name in gone),
            ]
            made = self._api.create_commit(
                one.id, operations, repo_type=one.kind, commit_message=f"{release}: {one.about}", parent_commit=head
            )
        size = sum((one.folder / name).stat().st_size for name in new)
        return Sent(str(made.oid), len(new), size, len(gone))

    def missing(self, one: Repository) -> tuple[int, int]:
        """Files and bytes that an upload would send, but for a new signature; nothing is made for it."""
        from huggingface_hub.errors import RepositoryNotFoundError

        with _told(f"{one.id} cannot be looked at"):
            try:
                there = self._listed(one, MAIN)
            except RepositoryNotFoundError:
                there = {}
        new = [
            name
            for name in one.files
            if not _equal(one.folder / name, there.get(name)) and not (name == SIGNATURE and name in there)
        ]
        return len(new), sum((one.folder / name).stat().st_size for name in new)

    def keep_signature(self, one: Repository, public: bytes | None) -> None:
        """Takes the signature that is there already, where it holds for the same files: each signing gives another."""
        if public is None or one.kind == "dataset":
            return
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError

        with tempfile.TemporaryDirectory() as folder, _told(f"{one.id}: its signature cannot be read"):
            try:
                there = self._listed(one, MAIN)
                if any(not _equal(one.folder / n, there.get(n)) for n in one.files if n != SIGNATURE):
                    return
                file = hf_hub_download(
                    one.id, SIGNATURE, cache_dir=folder, token=self._token, endpoint=self.address
                )  # fmt: skip
            except (EntryNotFoundError, RepositoryNotFoundError):
                return
            own = (one.folder / SIGNATURE).read_bytes()
            (one.folder / SIGNATURE).write_bytes(Path(file).read_bytes())
            if failed_checks(one.folder, public):
                (one.folder / SIGNATURE).write_bytes(own)

    def is_finished(self, one: Repository, commit: str, release: str) -> bool:
        """Whether the release's tag is at that commit: what is there was verified."""
        with _told(f"{one.id}: its tags cannot be read"):
            tags = {tag.name: tag.target_commit for tag in self._api.list_repo_refs(one.id, repo_type=one.kind).tags}
        return tags.get(release) == commit

    def verify(self, one: Repository, commit: str, public: bytes | None) -> None:
        """Downloads the commit to an empty place and checks every byte; raises `PublishError` for what differs."""
        from huggingface_hub import snapshot_download

        with tempfile.TemporaryDirectory(prefix=".verify-", dir=one.folder.parent) as folder:
            with _told(f"{one.id}: what was uploaded could not be downloaded"):
                copy = snapshot_download(
                    one.id, repo_type=one.kind, revision=commit, cache_dir=folder, token=self._token,
                    endpoint=self.address,
                )  # fmt: skip
            verify_copy(Path(copy), one, public, f"{self.address}/{one.id} at {commit[:12]}")

    def tag(self, one: Repository, commit: str, release: str) -> None:
        """Sets the release's tag; one of the same name is at a commit with the same content, and moves."""
        with _told(f"{one.id}: the tag {release} could not be set"):
            tags = {tag.name for tag in self._api.list_repo_refs(one.id, repo_type=one.kind).tags}
            if release in tags:
                self._api.delete_tag(one.id, tag=release, repo_type=one.kind)
            self._api.create_tag(one.id, tag=release, revision=commit, repo_type=one.kind)

    def collect(self, owner: str, title: str, repositories: list[Repository]) -> tuple[str, int]:
        """The collection that links them, made where it is missing; its name, and how many items were new."""
        with _told(f"the collection {title} could not be made"):
            found = self._api.create_collection(title, namespace=owner, private=self._private, exists_ok=True)
            items = {(item.item_type, item.item_id) for item in found.items}
            new = [one for one in reversed(repositories) if (one.kind, one.id) not in items]
            for one in new:
                self._api.add_collection_item(found.slug, one.id, one.kind, note=one.about, exists_ok=True)
        return str(found.slug), len(new)

    def _head(self, one: Repository) -> str:
        """The newest commit of a repository, which is made where it is missing."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return str(self._api.repo_info(one.id, repo_type=one.kind, revision=MAIN).sha)
        except RepositoryNotFoundError:
            self._api.create_repo(one.id, repo_type=one.kind, private=self._private)
        return str(self._api.repo_info(one.id, repo_type=one.kind, revision=MAIN).sha)

    def _listed(self, one: Repository, revision: str) -> dict[str, Any]:
        tree = self._api.list_repo_tree(one.id, repo_type=one.kind, revision=revision, recursive=True)
        return {entry.path: entry for entry in tree if hasattr(entry, "size")}


def _equal(path: Path, there: Any) -> bool:
    """Whether the Hub's entry is this file: by sha256 for large files, by git's hash for small ones."""
    if there is None or there.size != path.stat().st_size:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == sha256_once(path))
    data = path.read_bytes()
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of the Hub's client in words, without secrets, and told apart: try again, or not."""
    try:
        yield
    except PublishError:
        raise
    except Exception as error:
        chain = list(_chain(error))
        kinds = {kind.__name__ for one in chain for kind in type(one).__mro__}
        if not kinds & {"HTTPError", "OSError", "ValueError", "RuntimeError"}:
            raise
        reason = mask(" ".join(str(error).split()) or type(error).__name__)
        answers = [answer for one in chain if (answer := getattr(one, "response", None)) is not None]
        said = _XET_STATUS.search(str(error))
        status = answers[0].status_code if answers else int(said[1]) if said else None
        # By name: the Hub's client has changed its HTTP library between releases.
        broken = status is None and bool(kinds & {"TransportError", "ConnectionError", "TimeoutError"})
        if status in TRANSIENT or broken:
            raise BrokenOffError(
                f"{what} ({reason}). What had arrived stays; run the same command again to continue"
            ) from error
        if status in (401, 403):
            raise HubError(
                f"{what} ({reason}): the token of HF_TOKEN has not the right to; make one with write access, of an "
                "account that publish.owner of params.yaml belongs to"
            ) from error
        raise HubError(f"{what} ({reason})") from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__ or one.__context__
