"""Makes the Transformers library know FUSION as soon as both are imported, without importing either for the other.

Importing the model takes seconds, which every stage of the pipeline would pay with `import fusion`. So the Auto classes
are told when Transformers itself is imported: by whoever wants it, before or after `import fusion`.
"""

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_LIBRARY = "transformers"


def register_when_imported() -> None:
    """Registers now if Transformers is imported already, otherwise right after its import."""
    if _LIBRARY in sys.modules:
        _register()
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def _register() -> None:
    # A part of the model that is being imported itself cannot be imported from; it brings what it needs.
    parts = [module for name, module in sys.modules.items() if name.startswith("fusion.model.")]
    if not any(getattr(part.__spec__, "_initializing", False) for part in parts):
        importlib.import_module("fusion.model.auto")


class _Waiting(MetaPathFinder):
    """Steps aside at the first import of Transformers and runs `_register` after it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _LIBRARY:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register  # type: ignore[method-assign]
        return spec
