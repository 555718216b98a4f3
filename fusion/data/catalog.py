"""data/catalog/*.yaml, merged, typed and checked: every data set, source and benchmark as one entry of data.

A new source is one more entry; nothing else has to know. A wrong key, type or range raises `CatalogError`, whose
message names the file and the key.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from fusion.data.errors import CatalogError
from fusion.data.ingest.origin import Origin, parse_origin

T = TypeVar("T")
NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]*$")
Name = Annotated[str, Field(pattern=NAME.pattern)]
SAMPLING = re.compile(r"^(all|(first|end|random):[1-9][0-9]*|(100|[1-9]?[0-9])(\.[0-9]+)?%)$")


class Entry(BaseModel):
    """Base of all entries: unknown keys are errors, values never change after reading, no silent type conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


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


class Dataset(Entry):
    """The training set of one stage. `file` is filled in: the catalog file that holds the entry."""

    file: str
    title: str
    for_stage: Literal["stage1", "stage1_5", "stage2"]
    tokenizers: dict[Name, TokenizerEntry]
    contamination: list[Name] = []
    expect: Expectations = Expectations()
    sources: dict[Name, Source] = Field(min_length=1)


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

    @model_validator(mode="after")
    def _benchmarks_exist(self) -> "Catalog":
        for name, dataset in self.datasets.items():
            for benchmark in dataset.contamination:
                if benchmark not in self.benchmarks:
                    raise ValueError(f"datasets.{name}.contamination: there is no benchmark `{benchmark}`")
        return self

    def dataset(self, name: str) -> Dataset:
        """The data set `name`; raises `CatalogError` naming the known ones."""
        return _known(self.datasets, name, "data set")

    def source(self, dataset: str, name: str) -> Source:
        """The source `name` of a data set; raises `CatalogError` naming the known ones."""
        return _known(self.dataset(dataset).sources, name, f"source of `{dataset}`")

    def benchmark(self, name: str) -> Benchmark:
        """The benchmark `name`; raises `CatalogError` naming the known ones."""
        return _known(self.benchmarks, name, "benchmark")


def _known(entries: dict[str, T], name: str, what: str) -> T:
    if name not in entries:
        raise CatalogError(f"data/catalog/ has no {what} named `{name}`; known: {', '.join(sorted(entries))}")
    return entries[name]


def load_catalog(folder: Path = Path("data/catalog")) -> Catalog:
    """Reads and merges all YAML files of `folder`; raises `CatalogError` with one line per wrong key."""
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise CatalogError(f"{folder} holds no .yaml file: run the command in the project's folder")
    merged: dict[str, dict[str, Any]] = {"datasets": {}, "benchmarks": {}}
    origin: dict[tuple[str, str], Path] = {}
    for file in files:
        for section, entries in _sections(file).items():
            for name, entry in entries.items():
                if (section, name) in origin:
                    raise CatalogError(f"{file}: {section}.{name} stands in {origin[section, name]} already")
                origin[section, name] = file
                merged[section][name] = _with_file(entry, file, f"{section}.{name}")
    try:
        return Catalog.model_validate(merged)
    except ValidationError as error:
        lines = []
        for item in error.errors():
            location = item["loc"]
            file = origin.get((str(location[0]), str(location[1])), folder) if len(location) > 1 else folder
            lines.append(f"  {file}: {'.'.join(map(str, location)) or '(references)'}: {_reason(item)}")
        raise CatalogError(
            "\n".join([f"{folder} has {len(lines)} wrong entr{'y' if len(lines) == 1 else 'ies'}:", *lines])
        ) from None


def _with_file(entry: Any, file: Path, key: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise CatalogError(f"{file}: {key}: must be a mapping")
    if "file" in entry:
        raise CatalogError(f"{file}: {key}.file: unknown key")
    return {**entry, "file": file.as_posix()}


def _sections(file: Path) -> dict[str, dict[str, Any]]:
    try:
        document = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CatalogError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(document, dict):
        raise CatalogError(f"{file} must be a mapping with `datasets` and/or `benchmarks`")
    for section, entries in document.items():
        if section not in ("datasets", "benchmarks"):
            raise CatalogError(f"{file}: {section}: unknown key; known: datasets, benchmarks")
        if not isinstance(entries, dict):
            raise CatalogError(f"{file}: {section}: must be a mapping of names to entries")
    return document


class _Loader(yaml.SafeLoader):
    """The safe loader, but a key that stands twice in one mapping is an error instead of a silent loss."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key `{key.value}` stands twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _reason(item: Any) -> str:
    if item["type"] == "extra_forbidden":
        return "unknown key"
    if item["type"] == "missing":
        return "missing"
    return f"{item['msg']}, got {item['input']!r}" if not isinstance(item["input"], dict) else str(item["msg"])
