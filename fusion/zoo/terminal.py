"""The zoo in the terminal: readable at 100 columns, so the scores stand in blocks."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from fusion.zoo.arithmetic import impossible_scores
from fusion.zoo.entries import Zoo, stage_title
from fusion.zoo.markdown import score_text
from fusion.zoo.own import NOT_RUN, OwnModel

WIDTH, BLOCK = 100, 8


def print_zoo(zoo: Zoo, own: Sequence[OwnModel] | None, console: Console | None = None) -> None:
    """Prints all tables; `own` None leaves this checkout's checkpoints out. A score that cannot be bears a star."""
    if console is None:
        terminal = Console()
        # In a pipe there is no width to keep to, and 80 columns would break cells.
        console = terminal if terminal.is_terminal else Console(width=WIDTH)
    stars = {(finding.model, finding.column) for finding in impossible_scores(zoo)}
    facts = _table("Published models", "name", "LLM", "vision encoder", "tokens", "schedule")
    for model in zoo.models:
        facts.add_row(model.name, model.llm, model.encoder, str(model.visual_tokens), model.schedule)
    console.print(facts)
    for start in range(0, len(zoo.columns), BLOCK):
        columns = [column.name for column in zoo.columns[start : start + BLOCK]]
        block = _table(None, "name", *columns)
        for column in block.columns[1:]:
            column.justify = "right"
        for model in zoo.models:
            cells = [score_text(model.scores[name]) + "*" * ((model.name, name) in stars) for name in columns]
            block.add_row(model.name, *cells)
        console.print(block)
    console.print("* not a number that this benchmark can give: see `fusion zoo --check`\n", markup=False)
    stages = _table("Published stage checkpoints", "name", "stage", "training data")
    for entry in zoo.stage_checkpoints:
        name = entry.name + (" (presumed)" if entry.presumed else "")
        stages.add_row(name, stage_title(entry.stage), " + ".join(entry.data))
    console.print(stages)
    console.print(f"Stage checkpoints are {zoo.rules.stage_checkpoint}.", markup=False)
    for rule in (zoo.rules.same_base, zoo.rules.licence):
        console.print(f"{rule[0].upper()}{rule[1:]}.", markup=False)
    if own is not None:
        _print_own(zoo, own, console)


def _print_own(zoo: Zoo, own: Sequence[OwnModel], console: Console) -> None:
    if not own:
        console.print("\nNothing was evaluated, packaged or adopted in this checkout.", markup=False)
        return
    table = _table("Checkpoints of this checkout", "name", "kind", "folder", "weights", "notes")
    for model in own:
        table.add_row(model.name, model.kind, model.folder, model.weights[:16] or "unknown", model.note)
    console.print(table)
    scores = _table(None, "name", "benchmark", "questions", "accuracy", "interval")
    for model in own:
        for score in model.scores:
            interval = f"{score.low:.1f} - {score.high:.1f}"
            scores.add_row(model.name, score.benchmark, str(score.questions), score_text(score.value), interval)
    if scores.row_count:
        console.print(scores)
    run = {score.benchmark for model in own for score in model.scores}
    missing = sum(column.name not in run for column in zoo.columns)
    console.print(f"{missing} of the zoo's {len(zoo.columns)} columns were {NOT_RUN} for them.", markup=False)


def _table(title: str | None, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", pad_edge=False, box=None)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
