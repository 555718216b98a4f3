"""dvc.yaml names the code that each stage reaches: all of it, so that nothing stale stays, and no more."""

from functools import cache

import pytest

from fusion.data.catalog import load_catalog
from fusion.data.ingest.origin import Origin, PublishedOrigin
from fusion.lineage.records import source_inputs
from fusion.lineage.stages import Stage, ancestors_of, resolve_stages
from tests.reached_code import JOB_OF_SETTINGS, LOADED, NOT_FOLLOWED, ROOT, Reach, command_reach, loads_by_name

STAGES = resolve_stages(ROOT)
CATALOG = load_catalog(ROOT / "data/catalog")


def covers(dep: str, path: str) -> bool:
    """Whether dependency `dep` is the file `path` or a folder around it."""
    return path == dep or path.startswith(f"{dep}/")


def kinds_of(stage: Stage) -> list[type[Origin]]:
    """The kinds of origin whose code runs in a stage: that of the entry of the catalog that its command names.

    A source is sharded from its folder in data/raw/; only where the pictures lie elsewhere, its kind finds them again.
    """
    _, command, *names = stage.command.split()
    if command == "benchmark":
        return [type(CATALOG.benchmark(names[0]).origin)]
    if command in ("ingest", "shard"):
        kind = type(CATALOG.source(names[0], names[1]).origin)
        return [kind] if command == "ingest" or issubclass(kind, PublishedOrigin) else []
    return []


@cache
def reached(name: str) -> frozenset[str]:
    """The project's code files that the command of stage `name` reaches."""
    stage = STAGES[name]
    command = stage.command.split()[1]
    reach: Reach = command_reach(
        command, set(NOT_FOLLOWED) - (set(JOB_OF_SETTINGS) if command == "settings" else set())
    )
    for kind in kinds_of(stage):
        reach.name(kind.__module__, kind.__name__)
    files = set(reach.files)
    if command == "package":
        # lineage.json holds the hashes of the code of all stages before.
        files |= {path for before in ancestors_of(stage.name, STAGES) for path in source_inputs(before, STAGES)}
    return frozenset(files)


@pytest.mark.parametrize("name", list(STAGES))
def test_deps_are_the_code_that_the_stage_reaches(name: str) -> None:
    stage = STAGES[name]
    files = reached(name)
    missing = sorted(path for path in files if not any(covers(dep, path) for dep in stage.deps))
    assert not missing, f"dvc.yaml: {name} reaches {', '.join(missing)}: name it in deps"
    idle = {
        dep
        for dep in stage.deps
        if dep.startswith("fusion/") and dep != Origin.input and not any(covers(dep, path) for path in files)
    }
    assert not idle, f"dvc.yaml: {name} does not reach {', '.join(sorted(idle))}: take it out of deps"
    assert len(set(stage.deps)) == len(stage.deps), f"dvc.yaml: {name} names a dependency twice"


def test_no_dependency_is_missing_from_the_repository() -> None:
    outs = {out for stage in STAGES.values() for out in stage.outs}
    for stage in STAGES.values():
        for dep in stage.deps:
            made = any(covers(dep, out) or covers(out, dep) for out in outs)
            assert made or (ROOT / dep).exists(), f"dvc.yaml: {stage.name}: {dep} is not there"


def test_nothing_is_loaded_by_its_name_unseen() -> None:
    """Code and files that are loaded by a text cannot be followed: `LOADED` in tests/reached_code.py names them."""
    files = {path for name in STAGES for path in reached(name)}
    loading = {path for path in files if path.endswith(".py") and (ROOT / path).is_file() and loads_by_name(path)}
    assert loading <= set(LOADED), [place for path in sorted(loading - set(LOADED)) for place in loads_by_name(path)]
    assert set(LOADED) <= loading, "LOADED names files that load nothing by name"


def test_files_that_are_not_followed_are_there() -> None:
    assert all((ROOT / path).is_file() for path in NOT_FOLLOWED)


def test_what_is_used_lazily_or_through_a_constant_is_found() -> None:
    """The reader itself: a lazy import counts, an import for type checkers and an unused function do not."""
    package = command_reach("package").files
    assert "fusion/model/checkpoints.py" in package, "imported inside a function"
    assert "fusion/publish/report.py" not in package and "fusion/publish/summary.py" not in package
    train = command_reach("train").files
    assert "fusion/train/rank.py" in train, "started as a module by its name"
    assert "fusion/train/base.py" not in train
    curate = command_reach("curate").files
    assert "fusion/data/ingest/__init__.py" in curate, "a constant is imported from it"
    assert "fusion/data/ingest/json_stream.py" not in curate, "what its functions need is not used"
    assert "fusion/data/curate/blocks/text.py" in curate, "blocks are loaded by the names of their files"
