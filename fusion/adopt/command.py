"""The command `fusion adopt`. What it needs is imported when it runs: every command imports this file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fusion.errors import FusionError

if TYPE_CHECKING:
    from fusion.settings import Settings
    from fusion.train.recipe import Recipe


def adopt(
    checkpoint: Annotated[str, typer.Argument(metavar="CHECKPOINT", help="A zoo name, a Hub repository, a folder.")],
    revision: Annotated[str | None, typer.Option(help="Commit, tag or branch of a Hub repository.")] = None,
    target: Annotated[str | None, typer.Option("--as", metavar="NAME", help="NAME, or VARIANT/STAGE.")] = None,
) -> None:
    """Take an existing checkpoint into DVC, verified and with a record of where it came from."""
    from fusion.adopt import adopt_checkpoint
    from fusion.settings import load_settings

    print(adopt_checkpoint(load_settings(), checkpoint, revision=revision, target=target))


def adopt_parent(
    settings: Settings,
    recipe: Recipe,
    checkpoint: str | None,
    revision: str | None,
    launcher: str | None,
    node_rank: int | None,
) -> None:
    """What `fusion train --from CHECKPOINT` does first: adopts it as the stage that `recipe` continues.

    Of several nodes the first one does. Without a checkpoint it only looks whether a parent that was adopted before is
    there, as it was adopted.

    Raises:
        FusionError: the stage continues base models, or a revision of nothing.
        AdoptError: as `fusion.adopt.adopt_checkpoint` and `fusion.adopt.check.check_adopted`.
    """
    if checkpoint is None:
        if revision is not None:
            raise FusionError("--revision: is that of the checkpoint that --from names, and there is none")
        from fusion.adopt.check import check_adopted

        return None if launcher == "print" else check_adopted(recipe.variant, recipe.before, recipe.root)
    if launcher == "print":
        raise FusionError("--from: print starts nothing, so nothing is adopted: use `fusion adopt` first")
    if recipe.before == "base":
        raise FusionError(
            f"--from: {recipe.stage} of {recipe.variant} continues base models, and an adopted checkpoint takes the "
            "place of stage1 or stage1_5: name the stage after it"
        )
    if node_rank:
        return
    from fusion.adopt import adopt_checkpoint

    target = f"{recipe.variant}/{recipe.before}"
    print(adopt_checkpoint(settings, checkpoint, revision=revision, target=target, root=recipe.root))
