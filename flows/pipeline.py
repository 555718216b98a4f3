"""The command line of the flows: `python -m flows.pipeline [--flow NAME] [--target STAGE ...] [--force] [--dry-run]`.

A run goes to the server of PREFECT_API_URL, or to that of `make ui`, or brings one along for as long as it lasts. The
same stages run, in the same order and with the same dvc.lock, as with a plain `dvc repro`.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from flows.adopted import refuse_unlike_adopted
from flows.environment import prepare
from flows.errors import FlowError
from flows.plan import changes
from flows.selection import PARTS, Selection, choose, read_kinds, refuse_stale_inputs
from flows.server import some_server
from fusion.errors import FusionError
from fusion.lineage.stages import resolve_stages

FLOWS = ("pipeline", *PARTS)


def show_plan(selection: Selection, force: bool, root: Path) -> None:
    """Prints what a run would start, and why, without starting anything."""
    stages, kinds = resolve_stages(root), read_kinds(root)
    selected, changed = choose(selection, stages, kinds), changes(root)
    refuse_stale_inputs(selected, stages, changed)
    refuse_unlike_adopted(selected, stages, changed)
    starting = [stage.name for stage in selected if force or stage.name in changed]
    for name in starting:
        print(f"{name}  {'forced' if force else changed[name]}")
    print(f"{len(starting)} of {len(selected)} stages would start; stages after them follow if their inputs change")


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.pipeline", description=__doc__.splitlines()[0])
    parser.add_argument("--flow", choices=FLOWS, default="pipeline", help="a part of the pipeline (default: all of it)")
    parser.add_argument("--variant", action="append", default=[], help="only what this variant needs")
    parser.add_argument("--from", dest="from_kind", metavar="KIND", help="start with this kind of stage")
    parser.add_argument("--until", dest="until_kind", metavar="KIND", help="end with this kind of stage")
    parser.add_argument(
        "--target", action="append", default=[], metavar="STAGE", help="only this stage and what it needs"
    )
    parser.add_argument("--only", metavar="STAGE", help="this stage alone; what it needs has to be up to date")
    parser.add_argument("--force", action="store_true", help="run stages that did not change, too")
    parser.add_argument("--dry-run", action="store_true", help="say what would start, and why")
    parser.add_argument("--wait", action="store_true", help="wait when another flow is running in this working tree")
    parser.add_argument("--parallel", type=int, default=1, metavar="N", help="stages side by side (default: 1)")
    parser.add_argument("--push", action="store_true", help="push the data to the DVC remote at the end")
    parser.add_argument(
        "--publish", nargs="?", choices=("folder", "hub"), const="folder", default="no",
        help="publish the packages at the end: into a folder (default), or to the Hub",
    )  # fmt: skip
    options = parser.parse_args(arguments)
    root = Path(".")
    part = None if options.flow == "pipeline" else options.flow
    selection = Selection(
        part, tuple(options.variant), options.from_kind, options.until_kind, tuple(options.target), options.only
    )
    try:
        if options.dry_run:
            show_plan(selection, options.force, root)
            return 0
        choose(selection, resolve_stages(root), read_kinds(root))
        prepare(root)
        with some_server(root):
            state = _run(options)
    except (FlowError, FusionError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: the running stage was ended, start again to continue", file=sys.stderr)
        return 130
    print(state.message, file=sys.stdout if state.is_completed() else sys.stderr)
    return 0 if state.is_completed() else 1


def _run(options: argparse.Namespace) -> Any:
    # Prefect reads its settings at import: the server's address has to be there.
    from flows.parts import BEGINNING, END
    from flows.parts import FLOWS as ALL

    when_busy = "wait" if options.wait else "refuse"
    if options.only:
        return ALL["stage"](name=options.only, force=options.force, when_busy=when_busy, return_state=True)
    return ALL[options.flow](
        variants=options.variant,
        from_stage=options.from_kind or BEGINNING,
        until_stage=options.until_kind or END,
        targets=options.target,
        force=options.force,
        push=options.push,
        publish=options.publish,
        when_busy=when_busy,
        parallel=options.parallel,
        return_state=True,
    )


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Prefect's services wait at exit for a server to take what they still have, and this one has ended: seen to hang.
    os._exit(code)
