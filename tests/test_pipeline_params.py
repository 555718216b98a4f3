"""dvc.yaml names the settings that each stage reads: recorded while the stages of micro run, at their real functions.

A key that is read and not named makes stale results; one that is named and not read makes stages run for nothing.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from fusion.data.benchmarks import build_benchmark
from fusion.data.catalog import Catalog, Entry, load_catalog
from fusion.data.curate import curate_dataset
from fusion.data.ingest import ingest_source
from fusion.data.sharding.shards import shard_source
from fusion.data.validate import validate_dataset
from fusion.evaluate.run import evaluate_variant
from fusion.lineage.stages import Stage, resolve_stages
from fusion.settings import STAGES, Section, Settings, load_settings
from fusion.train.base import build_base
from fusion.train.recipe import make_recipe

VARIANT = "micro"
NO_PARAMS = {
    f"variants.{VARIANT}.adopted": "which stages there are, and so which paths they read",
    "data.roots": "where data lies on this machine; what it is, ingest writes down by hash",
    "guards.max_loss_ratio": "stops a stage, changes no result",
    "guards.stall_minutes": "stops a stage, changes no result",
    "tracking.trackers": "where training is followed",
    "tracking.project": "the same",
    "tracking.every_steps": "how often something is told",
    "tracking.checkup": "a benchmark that is told while training goes on",
    "data.save_seconds": "how often unfinished work is saved",
    "data.workers": "how many processes share the work; the result is the same",
    "data.runner": "where they run",
    "data.scheduler": "where they run",
    "training.save_every_steps": "how often the state of a stage is saved",
    "training.keep_checkpoints": "how many of its states are kept",
    "data.loading.workers": "the same, in training",
    "data.loading.ahead": "how much they hold ready",
    "data.loading.shards": "where shards lie; their samples are the same",
    "data.loading.cache": "where on this machine fetched pieces of them lie",
    "data.loading.cache_gb": "and how many",
}
"""Settings that a stage reads and that outputs do not depend on."""
NO_FACTS = (".file", ".members")
"""Keys of the catalog that are filled in: the file that an entry stands in, and whose folder a source lies in."""
WHOLE = {"model_dump", "model_dump_json", "model_copy"}
"""Methods that read every field."""


class Reads:
    """Records which fields of settings and catalog are read, as dotted keys; a field that is a section, by its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, documents: dict[str, BaseModel]) -> None:
        self.keys: set[tuple[str, str]] = set()
        self.on = False
        self._paths: dict[int, tuple[str, str]] = {}
        for file, document in documents.items():
            self._name(document, file, ())
        for base in (Section, Entry):
            monkeypatch.setattr(base, "__getattribute__", lambda section, name: self._read(section, name))

    def _name(self, value: Any, file: str, path: tuple[str, ...]) -> bool:
        """Remembers the place of every section at and below `value`; returns whether there was one."""
        if isinstance(value, (Section, Entry)):
            file = getattr(value, "file", file)
            self._paths[id(value)] = (file, ".".join(path))
            for name in type(value).model_fields:
                self._name(getattr(value, name), file, (*path, name))
            return True
        if isinstance(value, dict):
            return any([self._name(item, file, (*path, str(key))) for key, item in value.items()])
        return False

    def _read(self, section: Any, name: str) -> Any:
        value = object.__getattribute__(section, name)
        if self.on and id(section) in self._paths:
            file, path = self._paths[id(section)]
            fields = object.__getattribute__(section, "__class__").model_fields
            if name in WHOLE:
                self.keys |= {(file, f"{path}.{field}") for field in fields}
            elif name in fields and not self._holds_sections(value):
                self.keys.add((file, f"{path}.{name}"))
        return value

    def _holds_sections(self, value: Any) -> bool:
        if isinstance(value, dict):
            return any(self._holds_sections(item) for item in value.values())
        return isinstance(value, (Section, Entry))

    @contextmanager
    def recorded(self) -> Iterator[set[tuple[str, str]]]:
        """The keys that are read inside, and only those."""
        self.keys, self.on = set(), True
        try:
            yield self.keys
        finally:
            self.on = False


def under(key: str, wider: str) -> bool:
    return key == wider or key.startswith(f"{wider}.")


def check(stage: Stage, read: set[tuple[str, str]]) -> None:
    """`read` and the stage's params cover each other."""
    named = [(file, key) for file, keys in stage.params.items() for key in keys]
    needed = {(file, key) for file, key in read if key not in NO_PARAMS and not key.endswith(NO_FACTS)}
    missing = sorted(key for file, key in needed if not any(file == f and under(key, k) for f, k in named))
    assert not missing, f"dvc.yaml: {stage.name} reads {', '.join(missing)}: name it in params"
    idle = sorted(k for f, k in named if not any(file == f and under(key, k) for file, key in needed))
    assert not idle, f"dvc.yaml: {stage.name} does not read {', '.join(idle)}: take it out of params"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project set to build micro, with a smaller amount of data."""
    from tests.e2e.project import copy_project

    return copy_project(tmp_path_factory.mktemp("params") / "project", VARIANT).root


def test_params_are_the_settings_that_the_stage_reads(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    stages = resolve_stages()
    settings, catalog = load_settings(), load_catalog()
    reads = Reads(monkeypatch, {"params.yaml": settings, "data/catalog": catalog})
    unread = dict(stages)
    for stage in stages.values():
        words = stage.command.split()[1:]
        if words[0] in ("settings", "package"):
            unread.pop(stage.name)  # the whole file; and tests/lineage/test_repository.py
            continue
        if words[0] == "evaluate":
            for name in ("stage1", "stage2"):
                shutil.copytree("checkpoints/micro/base", f"checkpoints/micro/{name}")
        with reads.recorded() as keys:
            run(words, settings, catalog)
        check(unread.pop(stage.name), keys)
    assert not unread


def run(words: list[str], settings: Settings, catalog: Catalog) -> None:
    """The function behind a stage's command; of training, what makes its recipe and reads all of it."""
    command, *names = words
    if command == "ingest":
        ingest_source(settings, catalog, *names)
    elif command == "shard":
        shard_source(settings, catalog, *names)
    elif command == "benchmark":
        build_benchmark(settings, catalog, *names)
    elif command == "curate":
        curate_dataset(settings, catalog, *names)
    elif command == "validate":
        validate_dataset(settings, catalog, *names)
    elif command == "base":
        build_base(settings, *names)
    elif command == "train":
        assert names[1] in STAGES
        make_recipe(settings, names[0], names[1]).as_dict()  # type: ignore[arg-type]
    elif command == "curves":
        assert len(names) == 1  # it reads files alone
    else:
        assert command == "evaluate"
        evaluate_variant(settings, *names)
