"""Which project files a stage's command reaches, read from the source without running it.

From the functions that a command names, through the names that they use and the imports behind those names, lazy ones
included. A file counts when something in it is used: to import a constant from a module does not take in what its
other functions need. Imports for type checkers alone do not count, annotations do.

Code that is loaded by its name as a text cannot be followed by names. Such texts are found, and `LOADED` says what they
load; one that is not there is an error, so that nothing is loaded unseen.
"""

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

NOT_FOLLOWED = {
    "fusion/errors.py": "the type of errors",
    "fusion/data/errors.py": "the type of errors",
    "fusion/lineage/errors.py": "the type of errors",
    "fusion/publish/errors.py": "the type of errors",
    "fusion/plan/flops.py": "how much work a step is: told, and in no output",
    "fusion/plan/load.py": "the same",
    "fusion/plan/gpus.py": "the same",
    "fusion/plan/memory.py": "whether there is room, asked before the first step: refuses, or changes nothing",
    "fusion/progress.py": "what is told while work goes on",
    "fusion/quiet.py": "what libraries print",
    "fusion/settings.py": "values reach a stage as params; a test pins the defaults that stand in no file",
    "fusion/evaluation_settings.py": "the same for its part about evaluation",
    "fusion/launch_settings.py": "the same for its part about starting ranks",
    "fusion/publish_settings.py": "the same for its part about publishing",
    "fusion/section.py": "the base of all four",
    "fusion/data/catalog.py": "the same for the catalog",
    "fusion/agreement.py": "lets settings pass or refuses them",
    "fusion/adopt/check.py": "lets an adopted parent pass or refuses it",
    "fusion/adopt/command.py": "DVC starts no stage with --from; what it adopts is an input with a hash of its own",
    "fusion/launchers/start.py": "where and by what ranks are started; how many there are, the recipe says",
    "fusion/train/checkup.py": "a benchmark asked while training goes on: told, and in no output",
    "fusion/scratch.py": "removes what earlier commands left",
    "fusion/shared_memory.py": "removes what ranks leave in memory",
    "fusion/startup.py": "how often Python looks for garbage",
    "fusion/zoo/rules.py": "lets a parent pass or refuses it",
}
"""Files that cannot change what a stage writes, each with the reason."""

JOB_OF_SETTINGS = (
    "fusion/agreement.py",
    "fusion/settings.py",
    "fusion/evaluation_settings.py",
    "fusion/launch_settings.py",
    "fusion/publish_settings.py",
    "fusion/section.py",
    "fusion/data/catalog.py",
)
"""Those of them that the stage `settings` is there for."""

LOADED = {
    # file: what its texts load. An empty tuple: nothing, or what the stage's own entry of the catalog names.
    "fusion/data/curate/base.py": ("fusion/data/curate/blocks",),
    "fusion/data/ingest/origin.py": (),
    "fusion/data/kinds.py": (),
    "fusion/evaluate/columns/entries.py": ("fusion/evaluate/columns",),
    "fusion/evaluate/records.py": (),
    "fusion/evaluate/scorers/known.py": ("fusion/evaluate/scorers",),
    "fusion/data/validate.py": ("fusion/data/validation/page.html",),
    "fusion/publish/licence.py": ("fusion/publish/licences", "fusion/publish/licences.yaml"),
    "fusion/publish/text.py": ("fusion/publish/templates/card.md",),
    "fusion/train/extensions.py": (),
    "fusion/train/launch.py": ("fusion/train/__main__.py",),
    "fusion/train/recipe.py": (),
    "fusion/zoo/entries.py": ("fusion/zoo/zoo.yaml",),
}
LOADERS = {"import_module", "PackageLoader", "FileSystemLoader", "files", "iter_modules"}


@dataclass
class Module:
    """One source file: its definitions and imports by local name, and the statements that merely run."""

    path: str
    name: str
    defined: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imported: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    run: list[ast.stmt] = field(default_factory=list)


def targets(statement: ast.stmt) -> list[str]:
    """The names that an assignment gives a value."""
    return [node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]


def imports_of(statement: ast.stmt) -> dict[str, tuple[str, str | None]]:
    """Local name -> (module, name in it); None for a module as such."""
    if isinstance(statement, ast.ImportFrom):
        assert statement.level == 0, "relative imports are not followed"
        return {alias.asname or alias.name: (statement.module or "", alias.name) for alias in statement.names}
    if isinstance(statement, ast.Import):
        return {alias.asname or alias.name.split(".")[0]: (alias.name, None) for alias in statement.names}
    return {}


def is_for_type_checkers(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and ast.unparse(statement.test) == "TYPE_CHECKING"


@cache
def read_module(path: str) -> Module:
    """The module in file `path`, relative to the project's folder."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    module = Module(path, name)

    def take(statements: Iterable[ast.stmt]) -> None:
        for statement in statements:
            if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                module.defined.setdefault(statement.name, []).append(statement)
            elif isinstance(statement, (ast.Import, ast.ImportFrom)):
                module.imported |= imports_of(statement)
            elif isinstance(statement, (ast.Assign, ast.AnnAssign)):
                for target in targets(statement):
                    module.defined.setdefault(target, []).append(statement)
            elif is_for_type_checkers(statement):
                take(statement.orelse)  # type: ignore[attr-defined]
            elif not (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
                module.run.append(statement)

    take(ast.parse((ROOT / path).read_text(encoding="utf-8")).body)
    return module


@cache
def file_of(module: str) -> str | None:
    """The file of a project module, None for one that is not the project's."""
    base = module.replace(".", "/")
    return next((path for path in (f"{base}.py", f"{base}/__init__.py") if (ROOT / path).is_file()), None)


class Reach:
    """The files reached so far."""

    def __init__(self, not_followed: Iterable[str] = NOT_FOLLOWED) -> None:
        self.files: set[str] = set()
        self._not_followed = set(not_followed)
        self._seen: set[tuple[str, str]] = set()

    def name(self, module: str, name: str) -> None:
        """What `name` of `module` reaches."""
        path = file_of(module)
        if path is None or path in self._not_followed or (path, name) in self._seen:
            return
        self._seen.add((path, name))
        if file_of(f"{module}.{name}"):
            self.whole(f"{module}.{name}")
            return
        found = read_module(path)
        if name in found.imported:
            self._import(*found.imported[name])
        if name in found.defined:
            self._file(found)
            for statement in found.defined[name]:
                self.statement(found, statement)

    def whole(self, module: str) -> None:
        """A module of which everything counts: it is started, or loaded by its name."""
        path = file_of(module)
        if path is None or path in self._not_followed:
            return
        found = read_module(path)
        self._file(found)
        for name in found.defined:
            self.name(module, name)

    def statement(self, module: Module, statement: ast.stmt) -> None:
        """What one statement of a module reaches."""
        for node in ast.walk(statement):
            if isinstance(node, (ast.Import, ast.ImportFrom)):
                for place in imports_of(node).values():
                    self._import(*place)
            elif isinstance(node, ast.Name):
                if node.id in module.defined:
                    self.name(module.name, node.id)
                elif node.id in module.imported:
                    self._import(*module.imported[node.id])

    def path(self, path: str) -> None:
        """A file or folder that is loaded by its name."""
        if (ROOT / path).is_dir():
            for file in sorted((ROOT / path).rglob("*")):
                if file.is_file() and "__pycache__" not in file.parts:
                    self.path(file.relative_to(ROOT).as_posix())
        elif path.endswith(".py"):
            self.whole(read_module(path).name)
        else:
            self.files.add(path)

    def _import(self, module: str, name: str | None) -> None:
        if name is None:
            self.whole(module)
        else:
            self.name(module, name)

    def _file(self, module: Module) -> None:
        if module.path in self.files:
            return
        self.files.add(module.path)
        for statement in module.run:
            self.statement(module, statement)
        for path in LOADED.get(module.path, ()):
            self.path(path)


def loads_by_name(path: str) -> list[str]:
    """The places of a file that load something by its name as a text: calls of loaders, and names of modules."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in LOADERS:
                found.append(f"{path}:{node.lineno}: {called}()")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
            if text.startswith(("fusion.", "fusion/")) and " " not in text and "\n" not in text:
                found.append(f"{path}:{node.lineno}: {text!r}")
    return found


def command_reach(command: str, not_followed: Iterable[str] = NOT_FOLLOWED) -> Reach:
    """What subcommand `command` of fusion/cli.py reaches; its reading of the settings and its recorder apart."""
    cli = read_module("fusion/cli.py")
    reach = Reach({*not_followed, "fusion/cli.py"})
    (function,) = cli.defined[command]
    assert isinstance(function, ast.FunctionDef) and any("command" in ast.unparse(d) for d in function.decorator_list)
    reach.statement(cli, function)
    return reach
