"""Identities as numbers: sha256 sums, and which of many rows of numbers are equal."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

Numbers = npt.NDArray[np.uint64]


class Groups(NamedTuple):
    """Equal rows: `of` = the number of each row's group, `first` = the first row of each group.

    Groups are numbered in the order of their first rows.
    """

    of: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]


def halves(digests: pl.Series) -> Numbers:
    """[n, 2]: the first 128 bits of hexadecimal sha256 sums; zeros, which no file was ever seen to have, for null."""
    data = digests.fill_null("0" * 32).str.slice(0, 32).str.decode("hex")
    return np.frombuffer(b"".join(data.to_list()), ">u8").astype(np.uint64).reshape(-1, 2)


def equal_rows(rows: Numbers) -> Groups:
    """Which of the rows [n, k] are equal."""
    if not len(rows):
        return Groups(np.empty(0, np.int64), np.empty(0, np.int64))
    order = np.lexsort(rows.T)
    new = np.ones(len(rows), np.bool_)
    new[1:] = (rows[order[1:]] != rows[order[:-1]]).any(axis=1)
    # The sort is stable: the first row of each group in it is the first of all.
    leaders = order[new]
    rank = np.empty(len(leaders), np.int64)
    by_first = np.argsort(leaders)
    rank[by_first] = np.arange(len(leaders))
    of = np.empty(len(rows), np.int64)
    of[order] = rank[np.cumsum(new) - 1]
    return Groups(of, leaders[by_first])
