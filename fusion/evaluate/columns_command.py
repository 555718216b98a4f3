"""The command `fusion columns`: the zoo's columns, what is known about them, and which files they need."""

import json as json_format
from typing import Annotated, Any

import typer


def columns(
    name: Annotated[str | None, typer.Argument(metavar="[COLUMN]", help="One in full; all if left out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """List the model zoo's columns: task, rows, scale, judge, and whether numbers can be compared with the zoo's."""
    from fusion.evaluate.columns.entries import column, load_columns

    chosen = load_columns() if name is None else {name: column(name)}
    if json:
        print(json_format.dumps([_document(one) for one in chosen.values()], indent=1, ensure_ascii=False))
    elif name is not None:
        print(told(chosen[name]))
    else:
        print(table(list(chosen.values())))


def table(chosen: list[Any]) -> str:
    """One line a column, 100 characters wide."""
    head = (
        f"{'column':<11}{'rows':>7} {'max':>5}  {'drawn by':<11}{'lmms-eval task':<27}{'judge':<6}compared with the zoo"
    )
    lines = [
        f"{one.column:<11}{one.questions:>7,}{'?' if one.counted == 'unverified' else ' '}{one.zoo.maximum:>5}  "
        f"{one.cluster:<11}{one.engine.task:<27}{'yes' if one.judge else 'no':<6}{one.comparability.status}"
        for one in chosen
    ]
    return "\n".join([head, *lines, "?: not verified against the data. One in full: `fusion columns COLUMN`"])


def told(one: Any) -> str:
    """All that is known about one column."""
    data = "/".join(part for part in (one.data.repo, one.data.subset, one.data.split) if part)
    lines = [
        f"{one.column}: {one.zoo.title}, 0 to {one.zoo.maximum}",
        f"definition   {one.definition}",
        f"number       `{one.value}` of scorer {one.scorer}; beside it: {', '.join(one.also) or 'nothing'}",
        f"lmms-eval    {one.engine.task} -> {', '.join(one.engine.keys)}; data {data}, "
        f"revision {one.data.revision or 'unknown'}",
        f"questions    {one.questions:,} ({one.counted}), drawn by {one.cluster}",
        f"instruction  {one.instruction!r}, at most {one.max_new_tokens} tokens",
        f"files        {one.files}",
        f"comparable   {one.comparability.status}: {one.comparability.why}",
    ]
    if one.judge:
        known = f"{one.judge.model} {one.judge.version or ''}".strip() if one.judge.model else "unknown"
        lines.append(f"judge        {known}. {one.judge.why}")
    from fusion.zoo.entries import load_zoo

    scores = ", ".join(f"{model.name} {model.scores[one.column]}" for model in load_zoo().models)
    lines += [f"published    {scores}", *(f"note         {note}" for note in one.notes)]
    return "\n".join(lines)


def _document(one: Any) -> dict[str, Any]:
    from fusion.zoo.entries import load_zoo

    published = {model.name: model.scores[one.column] for model in load_zoo().models}
    return {**one.model_dump(), "title": one.zoo.title, "maximum": one.zoo.maximum, "published": published}
