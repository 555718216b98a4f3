"""The flows: data, training, evaluation, publishing, one stage, and the whole pipeline.

dvc.yaml says what there is to do and DVC decides what is up to date; Prefect says when it runs and shows it. All flows
are one function, `carry_out`, over different selections of stages. The parameters only choose among what the
params.yaml of the commit allows; none of them changes what a stage does.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from flows.environment import keep_states_off_the_terminal, prepare

prepare(Path("."))

from prefect import Flow, flow  # noqa: E402 - reads its settings from the environment at import
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402
from pydantic import Field  # noqa: E402

from flows.choices import Publish, StageName, Variant, WhenBusy, kinds_of, one_of  # noqa: E402
from flows.notify import notify  # noqa: E402
from flows.run import Request, carry_out  # noqa: E402
from flows.selection import Selection  # noqa: E402

keep_states_off_the_terminal()

MOST_PARALLEL = 8
WHOLE = "pipeline"
BEGINNING, END = "beginning", "end"
"""In the form, beside the kinds of stages."""
OPTIONS: dict[str, Any] = {
    "log_prints": False,
    "persist_result": False,
    "validate_parameters": False,  # The run says what is wrong with them, in its first line.
    "on_failure": [notify],
    "on_crashed": [notify],
    "on_cancellation": [notify],
    "task_runner": ThreadPoolTaskRunner(max_workers=MOST_PARALLEL),
}


ABOUT = {
    "name": "What it needs has to be up to date.",
    "variants": "Only what these of run.variants in params.yaml need; none: all of them.",
    "from_stage": "Start with this kind of stage; what it needs has to be up to date.",
    "until_stage": "End with this kind of stage.",
    "targets": "Only these stages, and what they need.",
    "dry_run": "Say what would start, and why, without starting it.",
    "force": "Run stages that did not change, too.",
    "push": "Push the data to the DVC remote.",
    "publish": "Publish the packages when everything went well: into a folder, or to the Hub with HF_TOKEN.",
    "commit": "A commit, branch or tag: run in a working tree of its own, commit the results on a branch of the run.",
    "when_busy": "What to do when another run has the working tree.",
    "parallel": "Stages that may run side by side.",
    "root": "The project's folder.",
}
"""What the form says about each parameter."""


def _with_form(function: Callable[..., State], part: str, what: str) -> Callable[..., State]:
    """The function with what Prefect makes the form of: types with this working tree's choices, and a docstring."""
    kinds = kinds_of(part)
    choices: dict[str, Any] = {
        "name": StageName,
        "variants": list[Variant],
        "from_stage": one_of([BEGINNING, *kinds]) if kinds else str,
        "until_stage": one_of([*kinds, END]) if kinds else str,
        "targets": list[StageName],
        "parallel": Annotated[int, Field(ge=1, le=MOST_PARALLEL)],
    }
    names = [name for name in function.__annotations__ if name != "return"]
    function.__annotations__.update({name: choice for name, choice in choices.items() if name in names})
    told = "\n".join(f"    {name}: {ABOUT[name]}" for name in names)
    function.__doc__ = f"{what}\n\nArgs:\n{told}\n"
    function.__name__ = function.__qualname__ = part
    return function


def _flow_of(part: str, what: str) -> Flow[..., Any]:
    """The flow `part`: all stages that dvc.yaml gives to it; everything for `pipeline`."""

    def run(
        variants: Sequence[str] = (),
        from_stage: str = BEGINNING,
        until_stage: str = END,
        targets: Sequence[str] = (),
        dry_run: bool = False,
        force: bool = False,
        push: bool = False,
        publish: Publish = "no",
        commit: str = "",
        when_busy: WhenBusy = "wait",
        parallel: int = 1,
        root: str = ".",
    ) -> State:
        selection = Selection(
            part=None if part == WHOLE else part,
            variants=tuple(variants),
            from_kind=None if from_stage == BEGINNING else from_stage,
            until_kind=None if until_stage == END else until_stage,
            targets=tuple(targets),
        )
        return carry_out(Request(selection, dry_run, force, push, publish, commit, when_busy, parallel, root))

    return flow(name=part, description=what, **OPTIONS)(_with_form(run, part, what))


pipeline = _flow_of(WHOLE, "All stages, from data to package. After a failed stage nothing new starts.")
data = _flow_of("data", "Ingest, shard, curate and validate each data set, and the benchmarks.")
training = _flow_of("training", "The base model and the three stages of training.")
evaluation = _flow_of("evaluation", "The scores of the trained models.")
publishing = _flow_of("publishing", "The packages and reports and, if asked for, their publication.")


def _stage(
    name: str,
    dry_run: bool = False,
    force: bool = False,
    commit: str = "",
    when_busy: WhenBusy = "wait",
    root: str = ".",
) -> State:
    selection = Selection(only=name)
    return carry_out(Request(selection, dry_run, force, commit=commit, when_busy=when_busy, root=root))


stage = flow(name="stage", description="One stage by its name.", **OPTIONS)(
    _with_form(_stage, "stage", "One stage by its name.")
)

FLOWS: dict[str, Flow[..., Any]] = {
    one.name: one for one in (pipeline, data, training, evaluation, publishing, stage)
}  # fmt: skip
"""By name."""
