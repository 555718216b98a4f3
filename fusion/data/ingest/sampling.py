"""Which rows of an annotation file are used: all, first:N, end:N, random:N or N%, as published per file.

N% is rounded to whole rows, and to one row where it would be none: a source that the catalog names gives something.
"""

import hashlib

import numpy as np
import numpy.typing as npt

from fusion.data.errors import IngestError


def thinned(strategy: str, share: float | None) -> str:
    """The strategy that takes this share of what `strategy` takes, one row at least; None = `strategy` itself.

    Of `all` and N% it is a random part; of first:N, end:N and random:N as many fewer.
    """
    if share is None:
        return strategy
    if strategy == "all" or strategy.endswith("%"):
        percent = 100.0 if strategy == "all" else float(strategy.removesuffix("%"))
        return f"{percent * share:.12g}%"
    kind, count = strategy.split(":")
    return f"{kind}:{max(1, round(int(count) * share))}"


def needs_count(strategy: str) -> bool:
    """Whether the number of rows must be known before the first row can be chosen."""
    return not (strategy == "all" or strategy.startswith("first:"))


def chosen_rows(strategy: str, count: int | None, seed: int, name: str) -> npt.NDArray[np.bool_] | int | None:
    """Which rows to use.

    Args:
        strategy: as in the catalog, checked there.
        count: number of rows in the file; may be None where `needs_count` is false.
        seed, name: the random choices depend on these two alone, so they are the same on every rank and machine.

    Returns:
        None = all rows; an int = that many from the start; else a mask [count].

    Raises:
        IngestError: the strategy takes no row of any file (0%).
    """
    if strategy == "all":
        return None
    if strategy.startswith("first:"):
        return int(strategy.removeprefix("first:"))
    if count is None:
        raise ValueError(f"`{strategy}` needs the number of rows")
    if strategy.startswith("end:"):
        return np.arange(count) >= count - int(strategy.removeprefix("end:"))
    if strategy.startswith("random:"):
        wanted = int(strategy.removeprefix("random:"))
    else:
        share = float(strategy.removesuffix("%")) / 100
        if not share:
            raise IngestError(
                f"{name}: sampling {strategy} takes no row: write more, or take the source out of data/catalog/"
            )
        wanted = max(1, round(count * share))
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))
    mask = np.zeros(count, dtype=np.bool_)
    mask[generator.permutation(count)[: min(wanted, count)]] = True
    return mask
