"""All scorers by name. A new one is a file of this folder; nothing else has to know."""

import pkgutil
from functools import cache
from importlib import import_module

from fusion.documents import did_you_mean
from fusion.evaluate import scorers
from fusion.evaluate.scorers.base import Scorer, ScoringError


@cache
def scorers_by_name() -> dict[str, Scorer]:
    """Every scorer of this folder."""
    for module in pkgutil.iter_modules(scorers.__path__):
        import_module(f"{scorers.__name__}.{module.name}")
    found: dict[str, Scorer] = {}
    waiting = list(Scorer.__subclasses__())
    while waiting:
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if "name" in kind.__dict__:
            found[kind.name] = kind()
    return dict(sorted(found.items()))


def scorer(name: str) -> Scorer:
    """The scorer of that name; raises `ScoringError` naming the known ones."""
    known = scorers_by_name()
    if name not in known:
        raise ScoringError(f"there is no scorer `{name}`{did_you_mean(name, known)}")
    return known[name]
