"""Where a checkpoint comes from: a folder, or a repository of the Hub at one commit."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from fusion.adopt.errors import AdoptError
from fusion.data.store.folders import read_json
from fusion.hashing import file_sha256
from fusion.zoo.entries import ZooCheckpoint, load_zoo

KEPT_ENDINGS = (".safetensors", ".json", ".txt", ".model", ".jinja", ".md")
KEPT_NAMES = re.compile(r"^(licen[cs]e|notice|copying|use_policy)(\..*)?$", re.IGNORECASE)
PICKLE_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5", ".msgpack")
REPO = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


class Source(Protocol):
    """A checkpoint somewhere else."""

    @property
    def name(self) -> str:
        """What it is called where it is."""
        ...

    @property
    def entry(self) -> ZooCheckpoint | None:
        """The zoo's entry that it is, or is said to be."""
        ...

    def describe(self) -> dict[str, Any]:
        """Where it is, for the record: equal for equal checkpoints, wherever this runs."""
        ...

    def listing(self) -> list[str]:
        """The names of all its files; those in folders have a slash."""
        ...

    def holds(self, name: str, path: Path) -> bool:
        """Whether the file at `path` is this source's file `name`."""
        ...

    def fetch(self, names: list[str], folder: Path) -> None:
        """Puts files into `folder`."""
        ...

    def clean(self) -> None:
        """Removes what was only needed for fetching."""
        ...


@dataclass(frozen=True)
class FolderSource:
    """A folder on this machine. Links in it are followed (the Hub's client keeps its files that way)."""

    folder: Path
    name: str
    entry: ZooCheckpoint | None = None

    def describe(self) -> dict[str, Any]:
        """The folder's name; the lineage digest too when it is a package of this project."""
        described = {"kind": "folder", "name": self.name}
        if (self.folder / "lineage.json").is_file():
            described["lineage_digest"] = read_json(self.folder / "lineage.json", "fusion package")["digest"]
        return described

    def listing(self) -> list[str]:
        """All files below the folder."""
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.rglob("*") if path.is_file())

    def holds(self, name: str, path: Path) -> bool:
        """Compares sha256."""
        return file_sha256(self.folder / name) == file_sha256(path)

    def fetch(self, names: list[str], folder: Path) -> None:
        """Copies."""
        for name in names:
            shutil.copyfile(self.folder / name, folder / name)

    def clean(self) -> None:
        """Nothing to remove."""


def find_source(checkpoint: str, revision: str | None, target: str | None, root: Path) -> Source:
    """The source of a zoo name, a folder, or a repository ORG/NAME of the Hub; raises `AdoptError` for others.

    A folder that bears a name of the zoo, by itself or through `target`, is said to be that checkpoint.
    """
    from fusion.adopt.hub import HubSource

    zoo = load_zoo()
    entry = zoo.checkpoint(checkpoint)
    folder = Path(checkpoint).expanduser()
    if entry is None and folder.is_dir():
        if revision is not None:
            raise AdoptError(f"{checkpoint} is a folder: --revision is for repositories of the Hub")
        name = folder.resolve().name
        return FolderSource(folder, name, zoo.checkpoint(target or name))
    if entry is not None or REPO.match(checkpoint):
        return HubSource.at(entry.repo if entry else checkpoint, revision, entry, root / "scratch/adopt")
    raise AdoptError(
        f"{checkpoint} is no folder, no repository ORG/NAME of the Hub and no checkpoint of the zoo "
        f"({', '.join(entry.name for entry in zoo.checkpoints)})"
    )


def choose_files(source: Source) -> tuple[list[str], list[str]]:
    """The files to take and those that are left out; raises `AdoptError` unless the weights are safetensors."""
    names = source.listing()
    plain = [name for name in names if "/" not in name and not name.startswith(".")]
    kept = [name for name in plain if name.endswith(KEPT_ENDINGS) or KEPT_NAMES.match(name)]
    if "config.json" not in kept:
        raise AdoptError(f"{source.name} has no config.json, so it is no checkpoint")
    if not any(name.endswith(".safetensors") for name in kept):
        pickles = [name for name in names if name.endswith(PICKLE_ENDINGS)]
        if pickles:
            raise AdoptError(
                f"{source.name} has its weights as {', '.join(pickles[:3])}: such files can run code when they are "
                "read, so only safetensors are adopted. Convert them where you trust them, and adopt the folder"
            )
        raise AdoptError(f"{source.name} has no .safetensors file, so there are no weights to adopt")
    return kept, [name for name in names if name not in kept]
