"""MODEL_ZOO.md: the published tables with their faults noted and, apart from them, this checkout's own checkpoints."""

from collections.abc import Iterable, Sequence

from fusion.zoo.arithmetic import can_refute, impossible_scores, step_of
from fusion.zoo.entries import PublishedModel, StageCheckpoint, Zoo, stage_title
from fusion.zoo.own import NOT_RUN, OwnModel

HUB = "https://huggingface.co/"
COMMAND = "fusion zoo --markdown --published --output MODEL_ZOO.md"


def markdown(zoo: Zoo, own: Sequence[OwnModel] | None) -> str:
    """The whole page, ending in a newline. `own` None: the published part alone, equal in every checkout."""
    parts = [
        "# Model zoo",
        f"<!-- Written by `{COMMAND if own is None else 'fusion zoo --markdown'}` from fusion/zoo/zoo.yaml. -->",
        "The checkpoints that the authors of [FUSION](https://arxiv.org/abs/2504.09925) published, with their numbers. "
        "This project did not measure them; [below](#notes-on-the-published-page) stands what is wrong or unproven in "
        "them. Scores are better when higher.",
        f"{_sentence(zoo.rules.licence)} See [Licences](#licences).",
        "## Published models",
        _models(zoo),
        "## Published stage checkpoints",
        f"Stage checkpoints are {zoo.rules.stage_checkpoint}. {_sentence(zoo.rules.same_base)} Training refuses "
        "another one.",
        _stages(zoo),
        "## Notes on the published page",
        _notes(zoo),
        "### Scores that cannot be",
        _arithmetic(zoo),
        "## Licences",
        _licences(zoo),
        "## Sources",
        "\n".join(f"- `{key}`: {text}" for key, text in zoo.sources.items()),
        "## Checkpoints of this checkout",
        _own(zoo, own),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: int | None = None) -> str:
    """A Markdown table; columns from index `right` on are numbers."""
    marks = ["---:" if right is not None and index >= right else "---" for index in range(len(head))]
    lines = [head, marks, *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def score_text(value: float) -> str:
    """A score as published, with one digit."""
    return f"{value:.1f}"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."


def _link(repo: str, label: str | None = None) -> str:
    return f"[{label or repo}]({HUB}{repo})"


def _models(zoo: Zoo) -> str:
    columns = [column.name for column in zoo.columns]
    head = ["Version", "LLM", "Vision encoder", "Visual tokens", "Schedule", "Checkpoint", *columns]

    def row(model: PublishedModel) -> list[str]:
        facts = [model.version, model.llm, model.encoder, str(model.visual_tokens), model.schedule, _link(model.repo)]
        return facts + [score_text(model.scores[name]) for name in columns]

    return table(head, map(row, zoo.models), right=6)


def _stages(zoo: Zoo) -> str:
    head = ["Version", "Stage", "Base LLM", "Vision encoder", "Training data", "Schedule", "Checkpoint"]

    def row(entry: StageCheckpoint) -> list[str]:
        where = _link(entry.repo, entry.name)
        if entry.presumed:
            where += " (presumed"
            where += f"; the published link leads to {_link(entry.link)})" if entry.link else ")"
        facts = [entry.version, stage_title(entry.stage), entry.llm, entry.encoder]
        return [*facts, " + ".join(entry.data), entry.schedule, where]

    return table(head, map(row, zoo.stage_checkpoints))


def _notes(zoo: Zoo) -> str:
    lines = []
    for note in zoo.notes:
        scores = "; ".join(f"{name} {', '.join(map(score_text, values))}" for name, values in note.scores.items())
        lines.append(f"- {note.text}" + (f" Scores: {scores}." if scores else ""))
    return "\n".join(lines)


def _arithmetic(zoo: Zoo) -> str:
    steps = {column.name: step_of(column) for column in zoo.columns}
    tested = [name for name, step in steps.items() if step is not None and can_refute(step)]
    open_ended = [name for name, step in steps.items() if step is not None and not can_refute(step)]
    unknown = [name for name, step in steps.items() if step is None]
    rows = [
        [f.model, f.column, score_text(f.score), f"{float(f.below):.3f}", f"{float(f.above):.3f}",
         "yes" if f.rounded_up else "no"]
        for f in impossible_scores(zoo)
    ]  # fmt: skip
    head = ["Model", "Column", "Published", "Nearest below", "Nearest above", "Fits when rounded up"]
    return "\n\n".join(
        [
            f"Where a score counts right answers, it can only take certain values. Checked: {', '.join(tested)}. So "
            f"fine that every number is possible: {', '.join(open_ended)}. Not a plain count, or the count is not "
            f"known: {', '.join(unknown)}.",
            table(head, rows, right=2),
        ]
    )


def _licences(zoo: Zoo) -> str:
    lines = []
    for llm in zoo.llms:
        licence = zoo.licence(llm.licence)
        lines.append(f"- **{llm.published}** ({_link(llm.repo)}): {licence.title}. To pass a derivative on:")
        lines += [f"  - {duty}" for duty in licence.obligations]
    return "\n".join(lines)


def _own(zoo: Zoo, own: Sequence[OwnModel] | None) -> str:
    if own is None:
        return (
            "Left out here. `fusion zoo --markdown` in a checkout with results lists its own checkpoints, apart from "
            "the published ones."
        )
    if not own:
        return "None: nothing was evaluated, packaged or adopted here. `make run` makes some."
    columns = {column.name for column in zoo.columns}
    rows = [[m.name, m.kind, m.folder, m.weights[:16] or "unknown", m.note] for m in own]
    evaluated = [
        [m.name, s.benchmark, str(s.questions), f"{s.value:.1f}", f"{s.low:.1f}\N{EN DASH}{s.high:.1f}"]
        for m in own
        for s in m.scores
    ]
    parts = [table(["Name", "Kind", "Folder", "Weights (sha256)", "Notes"], rows)]
    if evaluated:
        parts.append(table(["Name", "Benchmark", "Questions", "Accuracy", "Interval"], evaluated, right=2))
    run = {s.benchmark for m in own for s in m.scores} & columns
    missing = [column.name for column in zoo.columns if column.name not in run]
    if missing:
        parts.append(f"Columns of the zoo that are {NOT_RUN} for them: {', '.join(missing)}.")
    return "\n\n".join(parts)
