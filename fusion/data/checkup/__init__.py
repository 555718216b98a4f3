"""`fusion doctor --data NAME`: what is wrong with a person's own data, before anything is ingested.

It reads with the code of ingest and sharding, so it says what they will say, and adds what to change. The annotations
are read whole, as a stream; of the pictures the first ones and a random sample are decoded. Nothing is written but the
copy that a table is read from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fusion.data.checkup.files import find_layout, reading_advice
from fusion.data.checkup.pictures import look_at_pictures
from fusion.data.checkup.rows import Tally, repeated_id
from fusion.data.checkup.told import FAIL, NOTE, OK, Finding
from fusion.data.errors import DataError
from fusion.data.ingest.json_stream import read_records
from fusion.data.ingest.origin import EmbeddedOrigin, PublishedOrigin
from fusion.model.template import TEMPLATES

if TYPE_CHECKING:
    from fusion.data.catalog import Catalog, Dataset
    from fusion.settings import Settings


def run_checkup(settings: Settings, catalog: Catalog, name: str) -> int:
    """Prints what is found in the data set or source `name` (`dataset` or `dataset/source`).

    Returns:
        The exit code: 1 if something stops ingest or would be rejected, else 0.

    Raises:
        CatalogError: there is no such data set or source.
    """
    dataset, _, source = name.partition("/")
    entry = catalog.dataset(dataset)
    names = [source] if source else list(entry.sources)
    failed = 0
    for key in names:
        catalog.source(dataset, key)
        print(f"{dataset}/{key}")
        for level, told, advice in check_source(settings, entry, dataset, key):
            failed += level == FAIL
            print(f"  {level:<5}{told}")
            if advice:
                print(f"       -> {advice}")
    if failed:
        print(
            f"{failed} finding{'s' * (failed != 1)} to mend: samples that stay as they are will be rejected or stop it"
        )
    else:
        print(f"nothing stands in the way; next: fusion ingest {dataset} {names[0]}")
    return 1 if failed else 0


def check_source(settings: Settings, entry: Dataset, dataset: str, source: str) -> Iterator[Finding]:
    """The findings on one source, in the order in which they should be mended."""
    facts = entry.sources[source]
    if facts.licence.declared is None:
        yield NOTE, "no licence is declared", "write what the source says of itself as `licence.declared`"
    if isinstance(facts.origin, EmbeddedOrigin):
        yield OK, f"made by this project (kind `{facts.origin.kind}`): there are no files to look at", ""
        return
    if not isinstance(facts.origin, PublishedOrigin):
        yield FAIL, f"an origin of kind `{facts.origin.kind}` cannot be ingested", "use `published` or `table`"
        return
    layout, findings = find_layout(facts.origin, dataset, entry.folder(settings.data.roots, dataset, source))
    yield from findings
    if layout is None:
        return
    path = layout.folder / layout.annotations
    control = {token for used in entry.tokenizers.values() for token in TEMPLATES[used.template].control_tokens}
    tally = Tally(sorted(control), seed=settings.run.seed, signs=facts.origin.signs())
    try:
        for number, record in enumerate(read_records(path)):
            tally.add(number, record)
    except DataError as error:
        yield FAIL, str(error), reading_advice(path)
        yield from tally.findings()
        return
    yield from tally.findings()
    if not tally.rows:
        return
    if (found := repeated_id(path, tally)) is not None:
        yield found
    yield from look_at_pictures(layout, tally, settings.data.max_image_pixels)
    if facts.sampling != "all":
        yield NOTE, f"all rows were looked at; ingest takes a part of them (sampling: {facts.sampling})", ""
