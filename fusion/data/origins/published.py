"""A source in the published layout: in a local folder, or on the Hub at a pinned revision."""

import glob
from collections.abc import Collection
from pathlib import Path
from typing import ClassVar

from pydantic import Field

from fusion.data.errors import IngestError
from fusion.data.ingest.faults import check_file
from fusion.data.ingest.hub import fetch_large, list_files
from fusion.data.ingest.origin import Layout, PublishedOrigin
from fusion.data.ingest.places import missing_place, told_there

SCRATCH = Path("scratch/hub")
"""Listings of Hub revisions: a commit does not change, so each is asked for once."""


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
        check_file(base / self.file)
        return Layout(base, {"kind": "folder"}, self.file, self._images(base), (self.file,))

    def _named_images(self) -> list[str]:
        # What the entry names must be there; the usual folder may be absent, as it is for text-only sources.
        return [name.rstrip("/") for name in self.images] if "images" in self.model_fields_set else []

    def _images(self, base: Path) -> tuple[str, ...]:
        return tuple(self._named_images() or (name for name in self.images if (base / name).exists()))

    def _check_listed(self, where: str, listed: Collection[str]) -> None:
        """Raises `IngestError` for a place that the entry names and the repository lacks, before anything is loaded."""
        for name in self._named_images():
            if name not in listed and not any(file.startswith(f"{name}/") for file in listed):
                key = f"`images` of the source with the file {self.file} in data/catalog/"
                raise IngestError(f"{where}: {missing_place(name, told_there(listed), key)}")

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
            HTTPError,
            LocalEntryNotFoundError,
            RevisionNotFoundError,
        )

        where = f"{self.repo}@{self.revision}"
        patterns = [pattern for name in (self.file, *self.images) for pattern in _patterns(name)]
        try:
            listed = list_files(self.repo, self.revision, SCRATCH)
            if self.file not in listed:
                raise IngestError(f"{where} has no file {self.file}")
            self._check_listed(where, listed)
            inside = tuple(f"{name.rstrip('/')}/" for name in self.images)
            wanted = [name for name in listed if name in (self.file, *self.images) or name.startswith(inside)]
            fetch_large(self.repo, self.revision, listed, wanted)
            base = Path(
                snapshot_download(self.repo, repo_type="dataset", revision=self.revision, allow_patterns=patterns)
            )
        except RevisionNotFoundError as error:
            raise IngestError(
                f"{where}: the Hub has no such revision (any more): its history was rewritten, or the commit is "
                "mistyped. Pin one that is there as `revision` in data/catalog/"
            ) from error
        except (HTTPError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise IngestError(f"{where} cannot be downloaded: {error}") from error
        if not (base / self.file).is_file():
            raise IngestError(f"{where} has no file {self.file}")
        location = {"kind": "hub", "repo": self.repo, "revision": self.revision}
        return Layout(
            base,
            location,
            self.file,
            self._images(base),
            (self.file,),
            {name: file.sha256 for name, file in listed.items()},
        )


def _patterns(name: str) -> tuple[str, str]:
    """A file of that name, and all files in a folder of that name."""
    return glob.escape(name), f"{glob.escape(name)}/**"
