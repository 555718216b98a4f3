"""The samples of a data set while it is curated: which are still kept, and their columns and texts part by part.

Memory holds a few bytes a sample: its row, a mark, its draws. Everything else stays in the tables of ingest and
sharding, and is read for `PART_ROWS` samples of one source at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import polars as pl

from fusion.data.ingest import SAMPLES
from fusion.data.store.filled import filled
from fusion.data.store.folders import read_parquet, readable
from fusion.settings import CurationProfile

if TYPE_CHECKING:
    from fusion.data.store.workers import Workers

T = TypeVar("T")
AT = "at"
"""Position of a sample in the data set: sources in the catalog's order, rows in the file's order."""
PART_ROWS = 50_000
Marks = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Some samples of one source, one after the other; what a worker is given."""

    root: Path
    dataset: str
    source: str
    profile: CurationProfile
    number: int
    """Of all parts of the data set."""
    first: int
    """`at` of its first sample."""
    start: int
    """Its first sample's place in the index of the source."""
    marks: Marks
    """Which of its samples are meant."""

    def index(self, *columns: str) -> pl.DataFrame:
        """`at` and columns of the index."""
        path = self.root / "data/index" / self.dataset / self.source / "index.parquet"
        with readable(path, f"fusion shard {self.dataset} {self.source}"):
            rows = pl.scan_parquet(path).select(columns).slice(self.start, len(self.marks)).collect()
        numbers = pl.Series(AT, np.arange(self.first, self.first + len(self.marks), dtype=np.uint32))
        return rows.select(numbers, *columns).filter(pl.Series(self.marks))

    def messages(self) -> pl.DataFrame:
        """One row a message: `at`, `turn` (0-based message), `role`, `value`."""
        kept = self.index("row")
        path = self.root / "data/raw" / self.dataset / self.source / SAMPLES
        inside = pl.col("row").is_between(kept["row"].min(), kept["row"].max())
        with readable(path, f"fusion ingest {self.dataset} {self.source}"):
            raw = pl.scan_parquet(path).select("row", "conversations").filter(inside).collect()
        joined = kept.join(raw, on="row", how="inner", maintain_order="left").drop("row")
        turns = joined.with_columns(turn=pl.int_ranges(0, pl.col("conversations").list.len()))
        exploded = turns.explode("conversations", "turn").unnest("conversations")
        return exploded.select(AT, "turn", pl.col("from").alias("role"), "value")

    def answers(self) -> pl.DataFrame:
        """One row a sample: `at` and its answers, joined by spaces, as `value`."""
        answers = self.messages().filter(pl.col("role") == "gpt")
        return answers.group_by(AT, maintain_order=True).agg(pl.col("value").str.join(" "))


class Samples:
    """All samples of a data set."""

    def __init__(
        self,
        root: Path,
        dataset: str,
        profiles: dict[str, CurationProfile],
        weights: dict[str, int],
        benchmarks: list[str],
        workers: Workers,
        scratch: Path,
    ) -> None:
        """Sources are the keys of `profiles`; `scratch` is a folder for what does not fit into memory.

        Raises:
            DataError: one of them was not sharded.
        """
        self.root = root.resolve()
        self.dataset = dataset
        self.profiles = profiles
        self.weights = weights
        self.benchmarks = benchmarks
        self.workers = workers
        self.scratch = scratch.resolve()
        self._rows = {source: self._read_rows(source) for source in profiles}
        self._firsts = np.cumsum([0, *(len(rows) for rows in self._rows.values())])
        self.kept: Marks = np.ones(len(self), np.bool_)
        """[samples]: which are still kept."""
        self.draws: npt.NDArray[np.int32] = np.ones(len(self), np.int32)
        """[samples]: how often each is drawn in an epoch."""

    def __len__(self) -> int:
        return int(self._firsts[-1])

    def of(self, rule: str) -> list[str]:
        """The sources whose profile switches `rule` on, in order."""
        return [source for source, profile in self.profiles.items() if getattr(profile, rule)]

    def place(self, source: str) -> slice:
        """Where the samples of `source` stand."""
        number = list(self.profiles).index(source)
        return slice(int(self._firsts[number]), int(self._firsts[number + 1]))

    def limits(self, rule: str, at: Positions, default: float) -> npt.NDArray[np.float64]:
        """The value of `rule` for the samples `at`; `default` where their source switches it off."""
        values = [getattr(profile, rule) for profile in self.profiles.values()]
        table = np.array([default if value is None else float(value) for value in values])
        return table[self._numbers(at)]

    def ids(self, at: Positions) -> pl.Series:
        """The ids of the samples `at` (see fusion/data/store/sample.py)."""
        numbers = self._numbers(at)
        rows, names = np.empty(len(at), np.int64), list(self.profiles)
        for number in np.unique(numbers).tolist():
            mine = numbers == number
            rows[mine] = self._rows[names[number]][at[mine] - self._firsts[number]]
        sources = pl.Series(names, dtype=pl.String).gather(numbers)
        digits = pl.col("row").cast(pl.String).str.zfill(8)
        frame = pl.DataFrame({"source": sources, "row": rows})
        return frame.select(id=filled("{}/{}/{}", pl.lit(self.dataset), "source", digits))["id"]

    def drop(self, at: Positions) -> None:
        """Takes samples out."""
        self.kept[at] = False

    def parts(self, sources: Iterable[str] | None = None, of: Marks | None = None) -> list[Part]:
        """The kept samples of `sources` (all of them when left out) in parts, only those marked in `of`."""
        chosen = set(self.profiles if sources is None else sources)
        found, number = [], 0
        for source, profile in self.profiles.items():
            place = self.place(source)
            for first in range(place.start, place.stop, PART_ROWS):
                inside = slice(first, min(first + PART_ROWS, place.stop))
                marks = self.kept[inside] if of is None else self.kept[inside] & of[inside]
                if source in chosen and marks.any():
                    start = first - place.start
                    found.append(Part(self.root, self.dataset, source, profile, number, first, start, marks.copy()))
                number += 1
        return found

    def map(self, told: str, job: Callable[..., T], parts: list[Part], *more: Any) -> Iterator[T]:
        """`job(part, *more)` for every part, in order, by the workers; `told` says to people what is done."""
        sizes = [int(part.marks.sum()) for part in parts]
        return self.workers.map(told, job, ((part, *more) for part in parts), sizes)

    def _read_rows(self, source: str) -> npt.NDArray[np.int64]:
        path = self.root / "data/index" / self.dataset / source / "index.parquet"
        return read_parquet(path, f"fusion shard {self.dataset} {source}", ["row"])["row"].to_numpy()

    def _numbers(self, at: Positions) -> Positions:
        """The number of each sample's source."""
        return np.searchsorted(self._firsts, at, "right") - 1
