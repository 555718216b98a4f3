"""A source in the published layout: in a local folder, or on the Hub at a pinned revision."""

import glob
import json
import re
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from fusion.data.errors import IngestError
from fusion.data.ingest.origin import Layout, PublishedOrigin
from fusion.files import write_json

SCRATCH = Path("scratch/hub")
"""Listings of Hub revisions: a commit does not change, so each is asked for once."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


class Published(PublishedOrigin):
    """`repo`@`revision` of the Hub's data sets; `file` = annotations, `images` = image folders or archives in it.

    A folder given for the data set in params.yaml (data.roots) goes before the Hub.
    """

    kind: ClassVar[str] = "published"
    repo: str | None = None
    revision: str | None
    file: str
    images: list[str] = Field(default=["images"], min_length=1)

    def layout(self, folder: str | None) -> Layout:
        if folder is None:
            return self._from_hub()
        base = Path(folder)
        if not base.is_dir():
            raise IngestError(f"data.roots in params.yaml names {base}, which is not a folder")
        if not (base / self.file).is_file():
            raise IngestError(f"the annotation file {base / self.file} is missing")
        return Layout(base, {"kind": "folder"}, self.file, self._images(base), (self.file,))

    def _images(self, base: Path) -> tuple[str, ...]:
        # What the entry names must be there; the usual folder may be absent, as it is for text-only sources.
        return tuple(name for name in self.images if "images" in self.model_fields_set or (base / name).exists())

    def _from_hub(self) -> Layout:
        if self.repo is None:
            raise IngestError(f"{self.file}: give the folder of this data set in params.yaml (data.roots), or a `repo`")
        if self.revision is None:
            raise IngestError(
                f"{self.file} of {self.repo}: the catalog pins no revision. Write the commit to use as `revision` in "
                "data/catalog/, or download the repository and give its folder in params.yaml (data.roots)"
            )
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
            RevisionNotFoundError,
        )

        where = f"{self.repo}@{self.revision}"
        patterns = [pattern for name in (self.file, *self.images) for pattern in _patterns(name)]
        try:
            listed = _listing(self.repo, self.revision)
            if self.file not in listed:
                raise IngestError(f"{where} has no file {self.file}")
            # A download that was broken off is continued by the library, file by file.
            base = Path(
                snapshot_download(self.repo, repo_type="dataset", revision=self.revision, allow_patterns=patterns)
            )
        except RevisionNotFoundError as error:
            raise IngestError(
                f"{where}: the Hub has no such revision (any more): its history was rewritten, or the commit is "
                "mistyped. Pin one that is there as `revision` in data/catalog/"
            ) from error
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise IngestError(f"{where} cannot be downloaded: {error}") from error
        if not (base / self.file).is_file():
            raise IngestError(f"{where} has no file {self.file}")
        location = {"kind": "hub", "repo": self.repo, "revision": self.revision}
        return Layout(base, location, self.file, self._images(base), (self.file,), listed)


def _patterns(name: str) -> tuple[str, str]:
    """A file of that name, and all files in a folder of that name."""
    return glob.escape(name), f"{glob.escape(name)}/**"


def _listing(repo: str, revision: str) -> dict[str, str | None]:
    """The files of a data set at a commit, each with its sha256 where the Hub says one (files stored apart from git).

    Raises:
        IngestError: the revision is a branch or tag, which may be another one tomorrow.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    if not _COMMIT.fullmatch(revision):
        commit = HfApi().dataset_info(repo, revision=revision).sha
        raise IngestError(
            f"{repo}@{revision}: a branch or tag can move. Pin the commit that it means now: `revision: {commit}` in "
            "data/catalog/"
        )
    saved = SCRATCH / repo.replace("/", "--") / f"{revision}.json"
    if saved.is_file():
        listed: dict[str, str | None] = json.loads(saved.read_text(encoding="utf-8"))
        return listed
    tree = HfApi().list_repo_tree(repo, recursive=True, revision=revision, repo_type="dataset")
    listed = {each.path: each.lfs.sha256 if each.lfs else None for each in tree if isinstance(each, RepoFile)}
    write_json(listed, saved)
    return listed
