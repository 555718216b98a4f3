"""Classes that are known as soon as their file is there: kinds of origin, blocks of curation."""

import importlib
import pkgutil
from typing import Any


def find_classes(package: str, base: type, key: str) -> dict[str, Any]:
    """The subclasses of `base` in the modules of `package` that set the class attribute `key`, by its value."""
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__):
        for value in vars(importlib.import_module(f"{package}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, base) and key in vars(value):
                found[getattr(value, key)] = value
    return found
