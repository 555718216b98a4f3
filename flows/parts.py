"""The flows: data, training, evaluation, publishing, one stage, and the whole pipeline.

dvc.yaml says what there is to do and DVC decides what is up to date; Prefect says when it runs and shows it. All flows
are one function, `carry_out`, over different selections of stages. The parameters only choose among what the
params.yaml of the commit allows; none of them changes what a stage does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from flows.environment import keep_states_off_the_terminal, prepare

prepare(Path("."))

from prefect import Flow, flow  # noqa: E402 - reads its settings from the environment at import
from prefect.client.schemas.objects import State  # noqa: E402
from prefect.task_runners import ThreadPoolTaskRunner  # noqa: E402
from pydantic import Field  # noqa: E402

from flows.choices import StageName, Variant, WhenBusy, kinds_of  # noqa: E402
from flows.run import Request, carry_out  # noqa: E402
from flows.selection import Selection  # noqa: E402

keep_states_off_the_terminal()

MOST_PARALLEL = 8
WHOLE = "pipeline"
OPTIONS: dict[str, Any] = {
    "log_prints": False,
    "persist_result": False,
    "validate_parameters": False,  # The run says what is wrong with them, in its first line.
    "task_runner": ThreadPoolTaskRunner(max_workers=MOST_PARALLEL),
}


def _form(part: str) -> dict[str, Any]:
    """The types of a flow's parameters, with the choices of this working tree, and what the form says about each."""
    kind = kinds_of(part)
    return {
        "variants": Annotated[
            list[Variant], Field(description="Only what these of run.variants in params.yaml need; none: all of them.")
        ],
        "from_stage": Annotated[
            kind | None, Field(description="Start with this kind of stage; what it needs has to be up to date.")
        ],
        "until_stage": Annotated[kind | None, Field(description="End with this kind of stage.")],
        "targets": Annotated[list[StageName], Field(description="Only these stages, and what they need.")],
        "dry_run": Annotated[bool, Field(description="Say what would start, and why, without starting it.")],
        "force": Annotated[bool, Field(description="Run stages that did not change, too.")],
        "push": Annotated[bool, Field(description="Push the data, and commit dvc.lock and records on a branch.")],
        "publish": Annotated[bool, Field(description="Publish the packages when everything went well.")],
        "commit": Annotated[str, Field(description="A commit, branch or tag, to run in a working tree of its own.")],
        "when_busy": Annotated[WhenBusy, Field(description="What to do when another run has the working tree.")],
        "parallel": Annotated[int, Field(ge=1, le=MOST_PARALLEL, description="Stages that may run side by side.")],
        "root": Annotated[str, Field(description="The project's folder.")],
    }


def _flow_of(part: str, what: str) -> Flow[..., Any]:
    """The flow `part`: all stages that dvc.yaml gives to it; everything for `pipeline`."""

    def run(
        variants: Sequence[str] = (),
        from_stage: str | None = None,
        until_stage: str | None = None,
        targets: Sequence[str] = (),
        dry_run: bool = False,
        force: bool = False,
        push: bool = False,
        publish: bool = False,
        commit: str = "",
        when_busy: WhenBusy = "wait",
        parallel: int = 1,
        root: str = ".",
    ) -> State:
        selection = Selection(
            None if part == WHOLE else part, tuple(variants), from_stage, until_stage, tuple(targets)
        )  # fmt: skip
        return carry_out(Request(selection, dry_run, force, push, publish, commit, when_busy, parallel, root))

    run.__name__ = run.__qualname__ = part
    run.__doc__ = what
    run.__annotations__.update(_form(part))
    return flow(name=part, description=what, **OPTIONS)(run)


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


_stage.__annotations__.update({key: value for key, value in _form(WHOLE).items() if key in _stage.__annotations__})
_stage.__annotations__["name"] = Annotated[
    StageName, Field(description="The stage; what it needs has to be up to date.")
]
stage = flow(name="stage", description="One stage by its name.", **OPTIONS)(_stage)

FLOWS: dict[str, Flow[..., Any]] = {
    one.name: one for one in (pipeline, data, training, evaluation, publishing, stage)
}  # fmt: skip
"""By name."""
