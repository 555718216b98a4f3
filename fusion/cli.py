"""The command `fusion`. Each DVC stage is one thin subcommand here; the work is done by the packages below."""

import errno
import os
import sys
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from fusion.adopt.command import adopt, adopt_parent
from fusion.errors import FusionError
from fusion.evaluate.commands import columns, compare, gate, with_lmms
from fusion.inquiry import add_commands
from fusion.plan.command import plan
from fusion.publish.commands import zoo
from fusion.release.command import publish
from fusion.scratch import forget_result, scratch
from fusion.settings import STAGES, Settings, load_settings
from fusion.startup import start_quickly
from fusion.storage.gc import gc
from fusion.storage.restore import restore

app = typer.Typer(
    name="fusion",
    help="From raw data to a published, audited FUSION checkpoint. Run it in the project's folder.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="A data set of data/catalog/.")]
SourceName = Annotated[str, typer.Argument(metavar="SOURCE", help="A source of that data set.")]
VariantName = Annotated[str, typer.Argument(metavar="VARIANT", help="A variant of params.yaml.")]


def main() -> None:
    """Runs the command line; errors that a user can act on are printed without a traceback."""
    start_quickly()
    os.environ.setdefault("DO_NOT_TRACK", "1")
    try:
        app()
    except FusionError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            print(f"error: no space left on the disk{where}: free some and run the same command again", file=sys.stderr)
        else:
            traceback.print_exc()
            print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        sys.exit(1)


def _inputs(variant: str | None = None) -> tuple[Settings, Any]:
    """Settings and catalog, both checked, and that `variant` exists, before any work starts (or torch is imported)."""
    from fusion.agreement import check_agreement
    from fusion.data.catalog import load_catalog
    from fusion.selection import check_pipeline

    settings = load_settings()
    catalog = load_catalog(Path("data/catalog"))
    check_agreement(settings, catalog)
    if variant is not None:
        settings.variant(variant)
    if os.environ.get("DVC_STAGE"):
        check_pipeline(settings, catalog)
    return settings, catalog


def _recorded() -> Any:
    """Records the run when DVC started this command as a stage."""
    stage = os.environ.get("DVC_STAGE")
    if not stage:
        return nullcontext()
    from fusion.lineage.record import record_stage

    return record_stage(stage)


@app.command()
def settings(
    write: Annotated[bool, typer.Option("--write", help="Bring data/pipeline.yaml up to date.")] = False,
) -> None:
    """Check params.yaml and the catalog, that they fit each other, data/pipeline.yaml, and what lies in data/."""
    from fusion.agreement import check_adopted, check_agreement, check_blocks, check_owners, check_pins
    from fusion.data.catalog import load_catalog
    from fusion.data.leftovers import check_leftovers
    from fusion.selection import check_pipeline, write_pipeline

    checked = load_settings()
    catalog = load_catalog(Path("data/catalog"))
    check_agreement(checked, catalog)
    check_blocks(checked)
    check_pins(checked, catalog)
    check_owners(checked)
    if write:
        changed = write_pipeline(checked, catalog)
        print("data/pipeline.yaml " + ("was brought up to date" if changed else "is up to date"))
    else:
        check_pipeline(checked, catalog)
        check_adopted(checked)
    check_leftovers(catalog, catalog.datasets)


@app.command()
def ingest(dataset: DatasetName, source: SourceName) -> None:
    """Read one source in its published layout into data/raw/."""
    from fusion.data.ingest import ingest_source

    settings, catalog = _inputs()
    with _recorded():
        ingest_source(settings, catalog, dataset=dataset, source=source)


@app.command()
def shard(
    dataset: DatasetName,
    source: Annotated[str | None, typer.Argument(metavar="SOURCE", help="A source of that data set.")] = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Of a curated data set: take rejected samples out of its shards.")
    ] = False,
) -> None:
    """Decode, measure and hash one source, and write its shards and index."""
    if compact == (source is not None):
        raise FusionError("use `fusion shard DATASET SOURCE` or `fusion shard DATASET --compact`")
    if source is None:
        from fusion.data.sharding.compact import tell_compacted

        return print(tell_compacted(*_inputs(), dataset))
    from fusion.data.sharding.shards import shard_source

    settings, catalog = _inputs()
    with _recorded():
        shard_source(settings, catalog, dataset=dataset, source=source)


@app.command()
def curate(
    dataset: DatasetName,
    out: Annotated[
        Path | None, typer.Argument(metavar="[OUT.html]", help="With --examples: the page to write.")
    ] = None,
    explain: Annotated[
        str | None, typer.Option(metavar="SAMPLE", help="Tell what was decided about a sample; nothing is run.")
    ] = None,
    examples: Annotated[
        bool, typer.Option("--examples", help="Write a page of dropped and kept samples by reason; nothing is run.")
    ] = False,
    count: Annotated[int, typer.Option(min=1, max=60, help="With --examples: samples a reason.")] = 12,
    json: Annotated[bool, typer.Option("--json", help="With --explain: as JSON.")] = False,
) -> None:
    """Decide which samples of a data set are kept; write the manifest and the ledger of rejects."""
    if explain is not None or examples or out is not None or json:
        return _show_curated(dataset, out, explain, examples, count, json)
    from fusion.data.curate import curate_dataset

    settings, catalog = _inputs()
    with _recorded():
        curate_dataset(settings, catalog, dataset=dataset)


def _show_curated(
    dataset: str, out: Path | None, explain: str | None, examples: bool, count: int, as_json: bool
) -> None:
    """What a person asks about a curated data set; no part of the stage `curate`."""
    if (explain is not None) == examples or (out is not None and not examples) or (as_json and explain is None):
        raise FusionError(
            "use `fusion curate DATASET --explain SAMPLE [--json]` or `... DATASET --examples [OUT.html]`"
        )
    settings, catalog = _inputs()
    if explain is not None:
        from fusion.data.explain.story import explain_sample
        from fusion.data.explain.tell import as_json as document
        from fusion.data.explain.tell import tell

        story = explain_sample(settings, catalog, dataset, explain)
        print(document(story) if as_json else tell(story))
    else:
        from fusion.data.explain.page import write_examples

        print(write_examples(settings, catalog, dataset, out, count))


@app.command()
def describe(
    dataset: DatasetName,
    out: Annotated[
        Path | None, typer.Argument(metavar="[OUT]", help="The file to write; printed when left out.")
    ] = None,
) -> None:
    """Describe a curated data set in Croissant's JSON-LD: shards with sha256, fields, licences, counts, origin."""
    from fusion.data.croissant import show_description

    _, catalog = _inputs()
    show_description(catalog, dataset, out)


@app.command()
def validate(dataset: DatasetName) -> None:
    """Check a curated data set; a critical failure stops the pipeline here."""
    from fusion.data.validate import validate_dataset

    settings, catalog = _inputs()
    with _recorded():
        validate_dataset(settings, catalog, dataset=dataset)


@app.command()
def benchmark(name: Annotated[str, typer.Argument(metavar="NAME", help="A benchmark of data/catalog/.")]) -> None:
    """Build an embedded benchmark: its questions and pictures."""
    from fusion.data.benchmarks import build_benchmark

    settings, catalog = _inputs()
    with _recorded():
        build_benchmark(settings, catalog, name=name)


@app.command()
def base(variant: VariantName) -> None:
    """Build the checkpoint that stage 1 starts from: LLM, vision tower, new projectors, two new tokens."""
    settings, _ = _inputs(variant)
    from fusion.agreement import check_bases
    from fusion.train.base import build_base

    check_bases(settings, variant)
    with _recorded():
        build_base(settings, variant)


@app.command()
def train(
    variant: VariantName,
    stage: Annotated[str, typer.Argument(metavar="STAGE", help=" | ".join(STAGES))],
    launcher: Annotated[
        str | None,
        typer.Option(help="local | torchrun | deepspeed | slurm | print; launch.launcher of params.yaml if left out."),
    ] = None,
    kind: Annotated[str | None, typer.Option("--as", metavar="KIND", help="With print: its launcher.")] = None,
    node_rank: Annotated[int | None, typer.Option(min=0, help="With torchrun, deepspeed: this node's number.")] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", metavar="CHECKPOINT", help="Adopt this as the stage before; see `adopt`.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="With --from: commit, tag or branch of a repository.")] = None,
    what_was_in: Annotated[int | None, typer.Option(metavar="STEP", min=1, help="Only tell a step's samples.")] = None,
) -> None:
    """Train one stage of a variant; started again after a crash, it continues."""
    from fusion.train.recipe import make_recipe

    if stage not in STAGES:
        raise FusionError(f"there is no stage `{stage}`: one of {', '.join(STAGES)}")
    settings, _ = _inputs(variant)
    recipe = make_recipe(settings, variant, stage)  # type: ignore[arg-type]
    if what_was_in is not None:
        from fusion.train.origins import tell_step

        return print(tell_step(recipe, what_was_in))
    adopt_parent(settings, recipe, start_from, revision, launcher, node_rank)
    from fusion.launchers.start import printed, start_of
    from fusion.shared_memory import remove_unused_buffers
    from fusion.train.launch import train_stage

    if launcher == "print":
        return print(printed(recipe, settings.launch, kind), end="")
    start = start_of(recipe, settings.launch, launcher, node_rank)
    if start.node in (0, None):
        forget_result(variant, recipe.before)
    remove_unused_buffers()
    try:
        with _recorded():
            train_stage(recipe, start)
    finally:
        remove_unused_buffers()


add_commands(app, adopt, columns, compare, gate, gc, plan, publish, restore, scratch, zoo)


@app.command()
def curves(variant: VariantName) -> None:
    """Draw the loss curves of a variant's stages, with learning rates and losses by source."""
    settings, _ = _inputs(variant)
    from fusion.publish.curves import draw_curves

    with _recorded():
        draw_curves(variant, settings.variant(variant).stage_names)


@app.command()
def evaluate(
    variant: VariantName,
    engine: Annotated[str, typer.Option(help="direct; or lmms, to compare with what lmms-eval says.")] = "direct",
) -> None:
    """Score a variant on its benchmarks, beside the blind baselines."""
    settings, _ = _inputs(variant)
    forget_result(variant, settings.variant(variant).chain[-1])
    if engine != "direct":
        return _with_engine(settings, variant, engine)
    from fusion.evaluate.run import evaluate_variant

    with _recorded():
        evaluate_variant(settings, variant)


def _with_engine(settings: Settings, variant: str, engine: str) -> None:
    """What a person asks to trust the numbers; no part of the stage `evaluate`."""
    if engine != "lmms":
        raise FusionError(f"there is no engine `{engine}`: direct or lmms")
    with_lmms(settings, variant)


@app.command()
def package(variant: VariantName) -> None:
    """Make the folder that is published: weights, configuration, model card, lineage."""
    from fusion.publish.package import build_package

    settings, catalog = _inputs()
    with _recorded():
        build_package(settings, catalog, variant=variant)


@app.command()
def report(
    variant: Annotated[str | None, typer.Argument(metavar="[VARIANT]", help="All of run.variants if left out.")] = None,
) -> None:
    """Write the report of a variant, one HTML page that opens offline, and print its summary."""
    from fusion.publish.report import write_report
    from fusion.publish.summary import print_summary

    settings, catalog = _inputs()
    for name in [variant] if variant else settings.run.variants:
        write_report(settings, catalog, variant=name)
        print_summary(settings, catalog, variant=name)


@app.command()
def chat(
    picture: Annotated[Path, typer.Argument(help="A picture file.")],
    question: Annotated[list[str] | None, typer.Argument(help="One or several; asked for when left out.")] = None,
    model: Annotated[str, typer.Option(help="A checkpoint folder or a variant of params.yaml.")] = "tiny",
) -> None:
    """Ask a trained model about a picture."""
    from fusion.serve.chat import chat_about

    chat_about(picture, question or [], model)


@app.command()
def export(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A folder or a repository of the Hub.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; must not exist.")],
    layout: Annotated[str, typer.Option(help="published, as the released models, or fusion.")] = "published",
) -> None:
    """Write a checkpoint in the other layout: the same tensors, another config.json."""
    from fusion.model.export import export_checkpoint
    from fusion.quiet import quiet_libraries

    quiet_libraries()
    try:
        export_checkpoint(checkpoint, out, layout=layout)
    except ValueError as error:
        raise FusionError(str(error)) from error


@app.command()
def data(
    dataset: Annotated[str | None, typer.Argument(metavar="[SET]", help="All of data/catalog/ if left out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List data sets and their sources: counts, licences, origins, and shares against what is published."""
    from fusion.data.listing_text import show_datasets

    show_datasets(dataset, json=json)


@app.command()
def doctor(
    data: Annotated[
        str | None, typer.Option(metavar="NAME", help="Look at the data of DATASET or DATASET/SOURCE instead.")
    ] = None,
) -> None:
    """Check the machine, the environment, the settings and the data, and say what to do about each problem."""
    if data is not None:
        from fusion.data.checkup import run_checkup

        sys.exit(run_checkup(*_inputs(), data))
    from fusion.doctor import run_checks

    sys.exit(run_checks())


if __name__ == "__main__":
    main()
