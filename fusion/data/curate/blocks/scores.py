"""What the optional blocks have in common: a model gives a number, a profile says which numbers go.

None of them is among the blocks of params.yaml, and their models come with packages of the extra `curation`, which are
imported when a block runs. A threshold stands under `scores` of a profile; a source without one takes no part.
"""

import io
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import polars as pl
from PIL import Image
from tqdm import tqdm

from fusion.data.curate.base import REJECTS, Block, no_rejects
from fusion.data.curate.samples import AT, Samples
from fusion.data.errors import DataError
from fusion.rgb import upright_rgb


class ScoreBlock(Block):
    """`setting`: its key under `scores` of a profile; `reason`: the code of what it drops."""

    setting: ClassVar[str]
    reason: ClassVar[str]

    def rejects(self, samples: Samples) -> pl.DataFrame:
        wanted = {
            source: value
            for source, profile in samples.profiles.items()
            if profile.scores is not None and (value := getattr(profile.scores, self.setting)) is not None
        }
        if not wanted:
            return no_rejects()
        rows = [(at, self.reason, evidence) for at, evidence in self.dropped(samples, wanted)]
        return pl.DataFrame(rows, schema=REJECTS, orient="row").sort(AT)

    @abstractmethod
    def dropped(self, samples: Samples, wanted: dict[str, Any]) -> Iterator[tuple[int, str]]:
        """Position and evidence of each sample to drop; `wanted`: the sources that take part, with their thresholds."""


class PictureScore(ScoreBlock):
    """Drops the samples whose picture scores above the threshold; a picture of several samples is looked at once."""

    @abstractmethod
    def load(self) -> Any:
        """The model; raises `DataError` when its package is not installed."""

    @abstractmethod
    def score(self, model: Any, picture: Image.Image) -> float:
        """The number of a picture (RGB)."""

    def dropped(self, samples: Samples, wanted: dict[str, Any]) -> Iterator[tuple[int, str]]:
        frame = with_pictures(samples, list(wanted))
        model = self.load()
        scores = {name: self.score(model, picture) for name, picture in pictures(samples, frame, self.name)}
        for at, source, name in frame.select(AT, "source", "image_sha256").iter_rows():
            if scores[name] > wanted[source]:
                yield at, f"{self.setting.removeprefix('max_')} {scores[name]:.3f}"


def with_pictures(samples: Samples, sources: list[str]) -> pl.DataFrame:
    """The kept samples of `sources` that have a picture: `at`, `source`, `image_sha256`, and where the picture lies."""
    columns = ("image_sha256", "shard", "image_offset", "image_size")
    frames = [
        part.index(*columns).with_columns(source=pl.lit(part.source)).filter(pl.col("image_offset").is_not_null())
        for part in samples.parts(sources)
    ]
    empty = pl.DataFrame(schema=[AT, *columns, "source"])
    return pl.concat(frames) if frames else empty


def pictures(samples: Samples, frame: pl.DataFrame, what: str) -> Iterator[tuple[str, Image.Image]]:
    """Each picture of `frame` once, as (sha256, RGB as training sees it), in the order of the shards."""
    places = frame.unique("image_sha256", keep="first", maintain_order=True).sort("shard", "image_offset")
    rows = places.select("image_sha256", "shard", "image_offset", "image_size").iter_rows()
    for name, shard, offset, size in tqdm(rows, total=len(places), desc=what, unit="picture", disable=None):
        with (samples.root / shard).open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        with Image.open(io.BytesIO(data)) as picture:
            yield name, upright_rgb(picture)


def answers(samples: Samples, sources: list[str]) -> Iterator[tuple[int, str, str]]:
    """Position, source and all answers of each sample of `sources`."""
    for part in samples.parts(sources):
        for at, text in part.answers().iter_rows():
            yield at, part.source, text


def not_installed(block: str, package: str) -> DataError:
    """The error for a block whose package is missing."""
    return DataError(
        f"the curation block `{block}` needs the package {package}: install the extra `curation` "
        "(pip install 'fusion-pipeline[curation]'), or take the block out of curation.blocks in params.yaml"
    )
