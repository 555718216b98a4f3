"""The stages of dvc.yaml, resolved: what each runs, reads, writes, and the values of its parameters.

DVC itself resolves the file (matrices, templates, parameters), so that this can never disagree with what DVC runs.
Importing DVC and resolving takes about a second, which every stage process would pay; so the answer is kept under
scratch/ for as long as the files it was made from stay the same.
"""

import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fusion.files import write_json
from fusion.hashing import json_sha256
from fusion.lineage.errors import LineageError
from fusion.lineage.files import sha256_path

SOURCES: tuple[str, ...] = ("dvc.yaml", "params.yaml", "data/pipeline.yaml", "data/catalog")
"""What the resolved stages depend on: when one of these changes, they are resolved anew."""

CACHE = "scratch/lineage"
CACHE_FORMAT = 1


@dataclass(frozen=True)
class Stage:
    """One stage of dvc.yaml. Paths are relative to the project's root, with forward slashes."""

    name: str
    command: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: Mapping[str, Mapping[str, Any]]
    """File -> key -> value. A key is as dvc.yaml names it, with dots for nesting."""


def resolve_stages(root: Path = Path(".")) -> dict[str, Stage]:
    """All stages of `root`/dvc.yaml by name, in DVC's running order; raises `LineageError` when DVC cannot read it."""
    if not (root / "dvc.yaml").is_file():
        raise LineageError(f"{root / 'dvc.yaml'} is not here: run the command in the project's folder")
    key = json_sha256([CACHE_FORMAT, {name: sha256_path(root / name) for name in SOURCES if (root / name).exists()}])
    cached = root / CACHE / f"stages-{key[:16]}.json"
    if cached.is_file():
        documents = json.loads(cached.read_text(encoding="utf-8"))
        return {item["name"]: _from_document(item) for item in documents}
    stages = _ask_dvc(root)
    for old in cached.parent.glob("stages-*.json"):
        old.unlink(missing_ok=True)
    write_json([asdict(stage) for stage in stages], cached)
    return {stage.name: stage for stage in stages}


def _from_document(item: dict[str, Any]) -> Stage:
    return Stage(item["name"], item["command"], tuple(item["deps"]), tuple(item["outs"]), item["params"])


def _ask_dvc(root: Path) -> list[Stage]:
    from dvc.dependency.param import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

    stages = []
    try:
        with Repo(str(root)) as repo:
            # In the order in which `dvc repro` runs them, which decides the order of dvc.lock.
            for stage in plan_repro(get_active_graph(repo.index.graph)):
                if stage.path_in_repo != "dvc.yaml":
                    continue
                params: dict[str, dict[str, Any]] = {}
                deps = []
                for dependency in stage.deps:
                    path = posixpath.normpath(dependency.def_path)
                    if isinstance(dependency, ParamsDependency):
                        params[path] = _plain(dependency.read_params())
                    else:
                        deps.append(path)
                outs = (posixpath.normpath(out.def_path) for out in stage.outs)
                command = stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd or [])
                stages.append(Stage(stage.name, command, tuple(sorted(deps)), tuple(sorted(outs)), params))
    except DvcException as error:
        cause = f": {error.__cause__}" if error.__cause__ is not None else ""
        raise LineageError(f"DVC cannot read {root / 'dvc.yaml'}: {error}{cause}") from error
    return stages


def _plain(value: Any) -> Any:
    """`value` as it comes back from JSON, so that a cached answer equals a fresh one."""
    return json.loads(json.dumps(value, default=str))


def producers(stages: Iterable[Stage]) -> dict[str, Stage]:
    """The stage that writes each output path."""
    return {path: stage for stage in stages for path in stage.outs}


def producer_of(path: str, outputs: Mapping[str, Stage]) -> tuple[str, Stage] | None:
    """The output that is `path` or a folder around it, and its stage; None when no stage writes it."""
    parts = path.split("/")
    for length in range(len(parts), 0, -1):
        candidate = "/".join(parts[:length])
        if candidate in outputs:
            return candidate, outputs[candidate]
    return None


def parents_of(stage: Stage, outputs: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages whose outputs `stage` reads, by name. A dependency on a folder takes in all outputs below it."""
    found: dict[str, Stage] = {}
    for path in stage.deps:
        hit = producer_of(path, outputs)
        if hit is not None:
            found[hit[1].name] = hit[1]
        for out, producer in outputs.items():
            if out.startswith(path + "/"):
                found[producer.name] = producer
    found.pop(stage.name, None)
    return found


def ancestors_of(name: str, stages: Mapping[str, Stage]) -> list[Stage]:
    """All stages that `name` needs, parents before children, without itself; raises `LineageError` if unknown."""
    if name not in stages:
        raise LineageError(f"dvc.yaml has no stage `{name}`; known: {', '.join(stages)}")
    outputs = producers(stages.values())
    ordered: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        for parent in parents_of(stage, outputs).values():
            if parent.name not in ordered:
                visit(parent)
                ordered[parent.name] = parent

    visit(stages[name])
    return list(ordered.values())
