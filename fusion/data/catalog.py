"""data/catalog/*.yaml, merged, typed and checked: every data set, source and benchmark as one entry of data.

A new source is one more entry; nothing else has to know. A wrong key, type or range raises `CatalogError`, whose
message names the file and the key.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fusion.data.combined import FILLED_IN, combine
from fusion.data.errors import CatalogError
from fusion.data.ingest.origin import Origin, parse_origin
from fusion.documents import did_you_mean, dotted, faults, read_yaml

T = TypeVar("T")
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
SECTIONS = ("datasets", "benchmarks")
COMMIT = re.compile(r"[0-9a-f]{40}")
Name = Annotated[str, Field(pattern=NAME.pattern)]
SAMPLING = re.compile(r"^(all|(first|end|random):[1-9][0-9]*|(100|[1-9]?[0-9])(\.[0-9]+)?%)$")


class Entry(BaseModel):
    """Base of all entries: unknown keys are errors, values never change after reading, no silent type conversion."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )


class Licence(Entry):
    """`declared`: what the source says of itself; `verified`: what somebody has checked (null = nobody); `evidence`."""

    declared: str | None
    verified: str | None = None
    evidence: str | None = None


class TokenizerEntry(Entry):
    """A tokenizer whose token counts the index holds: a folder or Hub repo, and the template to count with."""

    name: str
    revision: str | None = None
    template: Literal["phi_3", "llama_3"]

    def unpinned(self, root: Path = Path()) -> str | None:
        """What to say of a tokenizer that the Hub has and no commit is named of; None for a pinned one or a folder."""
        if (root / self.name).exists() or self.name.startswith(("data/", "./", "/")):
            return None
        if self.revision is None:
            told = f"the catalog pins no revision of {self.name}"
        elif not COMMIT.fullmatch(self.revision):
            told = f"`{self.revision}` of {self.name} is no commit of 40 digits, and a branch or tag can move"
        else:
            return None
        return (
            f"{told}: which tokens were counted could not be told later. Write the commit to use as `revision`, or "
            "download the tokenizer and give its folder as `name`"
        )


class Source(Entry):
    """One source of a data set. `count` is in thousands, as published; `weight` = draws of each sample per epoch."""

    origin: Origin
    sampling: str
    count: int | None = Field(default=None, gt=0)
    category: str
    profile: str
    licence: Licence
    weight: int = Field(default=1, ge=1)

    @field_validator("origin", mode="before")
    @classmethod
    def _origin(cls, value: Any) -> Origin:
        return parse_origin(value)

    @field_validator("sampling")
    @classmethod
    def _sampling(cls, value: str) -> str:
        if not SAMPLING.match(value):
            raise ValueError("use all, first:N, end:N, random:N or N%")
        return value


class Expectations(Entry):
    """What the validation of a data set holds its result to."""

    min_kept_share: float = Field(default=0.5, ge=0.0, le=1.0)
    category_shares: dict[str, tuple[float, float]] = {}

    @field_validator("category_shares", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        # YAML has no tuples: a pair arrives as a list.
        if not isinstance(value, dict):
            return value
        return {key: tuple(pair) if isinstance(pair, list) else pair for key, pair in value.items()}


class Published(Entry):
    """What is published of a data set besides its sources; `fusion data` checks the entries against it.

    `files` is their number, `total` their samples in thousands, `shares` the percentage of each category as printed.
    """

    files: int = Field(gt=0)
    total: int = Field(gt=0)
    shares: dict[str, Annotated[float, Field(gt=0, le=100)]]
    source: str
    notes: list[str] = []


class Dataset(Entry):
    """The training set of one stage. `file` is filled in: the catalog file that holds the entry.

    One that `combines` others has their sources (see fusion/data/combined.py). Filled in are then `members`, the data
    set and source that each is taken from, and `whole`, the entry as it would be written without `combines`.
    """

    file: str
    title: str
    for_stage: Literal["stage1", "stage1_5", "stage2"]
    tokenizers: dict[Name, TokenizerEntry]
    contamination: list[Name] = []
    expect: Expectations = Expectations()
    published: Published | None = None
    combines: list[Name] = []
    sources: dict[Name, Source] = Field(min_length=1)
    members: dict[str, str] = {}
    whole: dict[str, Any] = {}

    def folder(self, roots: dict[str, str], dataset: str, source: str) -> str | None:
        """Where the files of a source lie by `data.roots`: under this data set's name, or of that it is taken from."""
        return roots.get(dataset, roots.get(self.members.get(source, "").partition("/")[0]))


class Benchmark(Entry):
    """A held-out set of questions; `origin` is of a kind that can make one. `file` is filled in."""

    file: str
    title: str
    origin: Origin
    licence: Licence

    @field_validator("origin", mode="before")
    @classmethod
    def _origin(cls, value: Any) -> Origin:
        return parse_origin(value)


class Catalog(Entry):
    """All data sets and benchmarks."""

    datasets: dict[Name, Dataset] = {}
    benchmarks: dict[Name, Benchmark] = {}

    def dataset(self, name: str) -> Dataset:
        """The data set `name`; raises `CatalogError` naming the known ones."""
        return _known(self.datasets, name, "data set")

    def source(self, dataset: str, name: str) -> Source:
        """The source `name` of a data set; raises `CatalogError` naming the known ones."""
        return _known(self.dataset(dataset).sources, name, f"source of `{dataset}`")

    def unpinned_tokenizers(self, dataset: str, names: Iterable[str], root: Path = Path()) -> list[str]:
        """One line, with file and key, for each of the tokenizers `names` of a data set of which no commit is named."""
        entry = self.dataset(dataset)
        told = {name: entry.tokenizers[name].unpinned(root) for name in sorted(names)}
        return [f"{entry.file}: datasets.{dataset}.tokenizers.{name}: {line}" for name, line in told.items() if line]

    def benchmark(self, name: str) -> Benchmark:
        """The benchmark `name`; raises `CatalogError` naming the known ones."""
        return _known(self.benchmarks, name, "benchmark")


def _known(entries: dict[str, T], name: str, what: str) -> T:
    if name not in entries:
        raise CatalogError(f"data/catalog/ has no {what} named `{name}`{did_you_mean(name, sorted(entries))}")
    return entries[name]


def load_catalog(folder: Path = Path("data/catalog")) -> Catalog:
    """Reads and merges all YAML files of `folder`; raises `CatalogError` with one line per wrong key."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise CatalogError(f"{folder} holds no .yaml file: run the command in the project's folder")
    merged: dict[str, dict[str, Any]] = {"datasets": {}, "benchmarks": {}}
    origin: dict[tuple[str, str], Path] = {}
    lines: list[str] = []
    for file in files:
        for section, name, entry in _entries(file, lines):
            key = f"{section}.{name}"
            if (section, name) in origin:
                lines.append(f"{file}: {key} stands in {origin[section, name]} already")
            elif not isinstance(entry, dict):
                lines.append(f"{file}: {key}: must be a mapping")
            elif filled := [name for name in ("file", *FILLED_IN) if name in entry]:
                lines.append(f"{file}: {key}.{filled[0]}: unknown key")
            else:
                origin[section, name] = file
                merged[section][name] = {**entry, "file": file.as_posix()}
    lines += combine(merged["datasets"])
    try:
        catalog = Catalog.model_validate(merged)
    except ValidationError as error:
        for location, reason in faults(error, Catalog):
            entry = merged[str(location[0])].get(str(location[1]), {}) if len(location) > 2 else {}
            if location[2:3] and location[2] in ("sources", "tokenizers") and "combines" in entry:
                continue  # told where it comes from
            file = origin.get((str(location[0]), str(location[1])), folder) if len(location) > 1 else folder
            lines.append(f"{file}: {dotted(location)}: {reason}")
    else:
        lines += _unknown_benchmarks(catalog)
    if lines:
        count = f"{len(lines)} wrong entr{'y' if len(lines) == 1 else 'ies'}"
        raise CatalogError("\n".join([f"{folder} has {count}:", *(f"  {line}" for line in lines)]))
    return catalog


def _entries(file: Path, lines: list[str]) -> Iterator[tuple[str, str, Any]]:
    """Section, name and content of the entries of a file; what is no section goes to `lines`."""
    for section, entries in read_yaml(file, CatalogError).items():
        if section not in SECTIONS:
            lines.append(f"{file}: {section}: unknown key{did_you_mean(str(section), SECTIONS)}")
        elif not isinstance(entries, dict):
            lines.append(f"{file}: {section}: must be a mapping of names to entries")
        else:
            yield from ((section, str(name), entry) for name, entry in entries.items())


def _unknown_benchmarks(catalog: Catalog) -> list[str]:
    return [
        f"{entry.file}: datasets.{name}.contamination: there is no benchmark `{benchmark}`"
        + did_you_mean(benchmark, catalog.benchmarks)
        for name, entry in catalog.datasets.items()
        for benchmark in entry.contamination
        if benchmark not in catalog.benchmarks
    ]
