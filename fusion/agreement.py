"""Whether params.yaml and the catalog fit each other, found before anything runs instead of after hours.

Each of them is right by itself already (fusion/settings.py, fusion/data/catalog.py).
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from fusion.data.catalog import COMMIT, Catalog
from fusion.data.ingest.origin import BenchmarkOrigin, EmbeddedOrigin, PublishedOrigin
from fusion.documents import did_you_mean
from fusion.errors import FusionError
from fusion.model.template import TEMPLATES
from fusion.settings import Settings, SettingsError, Variant
from fusion.zoo.entries import ZooError, load_zoo
from fusion.zoo.rules import check_same_base, checkpoint_identity, variant_identity

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def check_agreement(settings: Settings, catalog: Catalog, root: Path = Path()) -> None:
    """Raises `SettingsError` with one line, naming file and key, for each value that does not fit."""
    lines = [*_roots(settings, catalog), *_sources(settings, catalog), *_benchmarks(catalog)]
    lines += [f"params.yaml: {line}" for line in (*_zoo(settings), *_checkup(settings, catalog))]
    for name, variant in settings.variants.items():
        key = f"params.yaml: variants.{name}"
        lines += [f"{key}.{line}" for line in _variant(variant, catalog, root)]
    _raise(lines)


def check_blocks(settings: Settings) -> None:
    """Raises `SettingsError` for names of curation blocks that do not exist or stand twice.

    Apart from the others because it imports the blocks, for which every stage would have to wait.
    """
    from fusion.data.curate.base import load_blocks

    lines = []
    names = settings.curation.blocks
    for name in dict.fromkeys(names):
        try:
            load_blocks([name])
        except FusionError as error:
            lines.append(str(error))
        if names.count(name) > 1:
            lines.append(f"params.yaml: curation.blocks: `{name}` stands there twice")
    _raise(lines)


def check_adopted(settings: Settings, root: Path = Path()) -> None:
    """Raises `SettingsError` for a variant to be built whose adopted checkpoint is not there or has another base.

    What params.yaml says of the base models no stage reads there. Apart from the others because `fusion adopt` runs
    when the variant has its place in the pipeline already.
    """
    lines = []
    for name in settings.run.variants:
        variant = settings.variant(name)
        folder = root / f"checkpoints/{name}/{variant.adopted}"
        if variant.adopted and not folder.with_suffix(".dvc").is_file():
            lines.append(
                f"params.yaml: variants.{name}.adopted: checkpoints/{name}/{variant.adopted}.dvc is not there: run "
                f"`fusion adopt CHECKPOINT --as {name}/{variant.adopted}`"
            )
        elif variant.adopted and (folder / "config.json").is_file():
            try:
                check_same_base(checkpoint_identity(folder), variant_identity(variant, root), str(folder))
            except ZooError as error:
                lines.append(f"params.yaml: variants.{name}.base: {error}")
    _raise(lines)


def check_pins(settings: Settings, catalog: Catalog, root: Path = Path()) -> None:
    """Raises `SettingsError` for what `run.variants` take from the Hub without naming a commit.

    Tokenizers of their data sets, and their base models. Apart from the others because nothing has to be pinned before
    it is used: `fusion plan` works without.
    """
    lines = []
    for name in settings.run.variants:
        variant = settings.variant(name)
        for dataset in (getattr(variant.data, stage) for stage in variant.stage_names):
            whole = catalog.dataset(dataset)
            # What a data set that combines others counts with stands in their entries.
            for member in whole.combines or [dataset]:
                lines += catalog.unpinned_tokenizers(member, whole.tokenizers, root)
        if variant.adopted is None:
            lines += _unpinned_bases(name, variant, root)
    _raise_unpinned(lines)


def check_bases(settings: Settings, variant: str, root: Path = Path()) -> None:
    """The same for the base models of one variant, for who is about to take them."""
    _raise_unpinned(list(_unpinned_bases(variant, settings.variant(variant), root)))


def _raise_unpinned(lines: list[str]) -> None:
    if lines:
        raise SettingsError("\n".join(["what comes from the Hub is not pinned:", *dict.fromkeys(lines)]))


def _unpinned_bases(name: str, variant: Variant, root: Path) -> Iterator[str]:
    for field, part in (("llm", variant.base.llm), ("tower", variant.base.tower)):
        hub = part.name is not None and _HUB_ID.fullmatch(part.name) and not (root / part.name).is_dir()
        if not hub or COMMIT.fullmatch(part.revision or ""):
            continue  # a folder that is not there is told by who reads it
        given = f"`{part.revision}` can move" if part.revision else "missing"
        yield (
            f"params.yaml: variants.{name}.base.{field}.revision: {given}: which weights of {part.name} training began "
            "with could not be told later. Write a commit of 40 digits, or download the model and name its folder"
        )


def check_owners(settings: Settings, root: Path = Path()) -> None:
    """Raises `SettingsError` where a variant to be built trains a stage in whose place a checkpoint was adopted.

    DVC would refuse every command from then on: a folder has one owner.
    """
    _raise([
        f"params.yaml: variants.{name}: {stage} is trained, and checkpoints/{name}/{stage}.dvc is an adopted "
        f"checkpoint: set variants.{name}.adopted to {stage}, or `dvc remove checkpoints/{name}/{stage}.dvc`"
        for name in settings.run.variants
        for stage in settings.variant(name).stage_names
        if (root / f"checkpoints/{name}/{stage}.dvc").is_file()
    ])  # fmt: skip


def _raise(lines: list[str]) -> None:
    if lines:
        count = f"{len(lines)} setting{'' if len(lines) == 1 else 's'}"
        raise SettingsError("\n".join([f"{count} of params.yaml and data/catalog/ do not fit:", *lines]))


def _roots(settings: Settings, catalog: Catalog) -> Iterator[str]:
    for key, names in (("roots", settings.data.roots), ("loading.shards", settings.data.loading.shards)):
        for name in names:
            if name not in catalog.datasets:
                told = did_you_mean(name, catalog.datasets)
                yield f"params.yaml: data.{key}.{name}: there is no such data set{told}"


def _sources(settings: Settings, catalog: Catalog) -> Iterator[str]:
    profiles = settings.curation.profiles
    for name, dataset in catalog.datasets.items():
        if dataset.combines:
            continue  # its sources are those of others
        for source, entry in dataset.sources.items():
            key = f"{dataset.file}: datasets.{name}.sources.{source}"
            if entry.profile not in profiles:
                yield (
                    f"{key}.profile: curation.profiles in params.yaml has no `{entry.profile}`"
                    f"{did_you_mean(entry.profile, profiles)}"
                )
            if not isinstance(entry.origin, (EmbeddedOrigin, PublishedOrigin)):
                yield f"{key}.origin.kind: `{entry.origin.kind}` cannot be ingested"


def _benchmarks(catalog: Catalog) -> Iterator[str]:
    for name, entry in catalog.benchmarks.items():
        if not isinstance(entry.origin, BenchmarkOrigin):
            yield f"{entry.file}: benchmarks.{name}.origin.kind: `{entry.origin.kind}` makes no questions"


def _zoo(settings: Settings) -> Iterator[str]:
    """Columns and models that the zoo does not have."""
    zoo = load_zoo()
    columns = [column.name for column in zoo.columns]
    models = [model.name for model in zoo.models]
    evaluation = settings.evaluation
    used = [(f"evaluation.roots.{name}", name) for name in evaluation.roots]
    used += [(f"evaluation.gate.margins.{name}", name) for name in evaluation.gate.margins]
    for variant, chosen in settings.variants.items():
        own = f"variants.{variant}.evaluation"
        used += [(f"{own}.columns.{number}", name) for number, name in enumerate(chosen.evaluation.columns)]
        reference = chosen.evaluation.gate.reference
        if reference is not None and reference not in models:
            yield f"{own}.gate.reference: the zoo has no finished model `{reference}`{did_you_mean(reference, models)}"
    for key, name in used:
        if name not in columns:
            yield f"{key}: the zoo has no column `{name}`{did_you_mean(name, columns)}"


def _checkup(settings: Settings, catalog: Catalog) -> Iterator[str]:
    use = settings.tracking.checkup
    if use is not None and use.benchmark not in catalog.benchmarks:
        told = did_you_mean(use.benchmark, catalog.benchmarks)
        yield f"tracking.checkup.benchmark: no such benchmark `{use.benchmark}`{told}"


def _variant(variant: Variant, catalog: Catalog, root: Path) -> Iterator[str]:
    for stage in variant.stage_names:
        yield from _stage_data(variant, stage, catalog, root)
    if not variant.evaluation.benchmarks:
        yield "evaluation.benchmarks: name one at least"
    for name in variant.evaluation.benchmarks:
        if name not in catalog.benchmarks:
            yield f"evaluation.benchmarks.{name}: no such benchmark{did_you_mean(name, catalog.benchmarks)}"
    for name in variant.evaluation.gate.over_blind:
        if name not in variant.evaluation.benchmarks:
            yield f"evaluation.gate.over_blind: {name} is not in evaluation.benchmarks"
    folder = variant.base.tokenizer
    if folder is not None:
        tokens = _added_tokens(root / folder)
        wanted = TEMPLATES[variant.template].turn_end
        if tokens is None:
            yield f"base.tokenizer: {folder} holds no tokenizer.json"
        elif wanted not in tokens:
            yield f"template: {variant.template} ends a turn with {wanted}, a token that {folder} does not have"


def _stage_data(variant: Variant, stage: str, catalog: Catalog, root: Path) -> Iterator[str]:
    name, tokenizer = getattr(variant.data, stage), variant.data.tokenizer
    if name not in catalog.datasets:
        yield f"data.{stage}: there is no data set `{name}`{did_you_mean(name, catalog.datasets)}"
        return
    dataset = catalog.datasets[name]
    if tokenizer not in dataset.tokenizers:
        yield (
            f"data.tokenizer: {dataset.file}: datasets.{name}.tokenizers has no `{tokenizer}`"
            f"{did_you_mean(tokenizer, dataset.tokenizers)}"
        )
        return
    counted = dataset.tokenizers[tokenizer]
    used = variant.base.tokenizer or variant.base.llm.name or ""
    # A folder here and a Hub id there may be the same tokenizer: only like is compared with like.
    if counted.name != used and (root / counted.name).exists() == (root / used).exists():
        yield f"data.tokenizer: tokens of {name} are counted with {counted.name}, the model would use {used}"
    if counted.template != variant.template:
        yield f"template: tokens of {name} are counted with {counted.template}, the model would use {variant.template}"


def _added_tokens(folder: Path) -> frozenset[str] | None:
    """The special tokens of the tokenizer in `folder`; None where there is no tokenizer."""
    try:
        document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        return frozenset(token["content"] for token in document["added_tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
