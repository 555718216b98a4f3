"""What stands against publishing, found before anything is written or sent.

Every reason is found and told at once, so that nobody mends one only to meet the next.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fusion.data.catalog import Catalog
from fusion.errors import FusionError
from fusion.evaluate.gate import judge_variant
from fusion.evaluate.verdict import Verdict, table
from fusion.lineage.ancestry import Ancestry, ancestry_of, ancestry_through
from fusion.lineage.environment import git_state
from fusion.lineage.family import Records
from fusion.lineage.records import is_adoption
from fusion.lineage.reference import LINEAGE_FILE
from fusion.publish.errors import PublishError
from fusion.publish.licence import WeightsLicence, weights_licence
from fusion.publish.terms import OVERRIDES, Review, carried_texts, check_licences
from fusion.release.committed import committed_in
from fusion.release.errors import RefusedError
from fusion.release.names import Names, names_of
from fusion.settings import Settings

Value = TypeVar("Value")
TOKEN = "HF_TOKEN"
"""The environment variable with the Hub's token; it is read from nowhere else."""


@dataclass(frozen=True)
class Checked:
    """A variant that may be published, with what was learnt on the way.

    `through`: stage -> the records of its checkpoint; `behind`: those of all that the package was made from; `commit`:
    where git has dvc.lock and the records of it; `texts`: what has to go along because of who wrote the data.
    """

    settings: Settings
    catalog: Catalog
    variant: str
    root: Path
    names: Names
    licence: WeightsLicence
    review: Review
    texts: dict[str, str]
    verdicts: list[Verdict]
    behind: Ancestry
    through: dict[str, Ancestry]
    commit: str
    key: Path | None
    public_key: bytes | None


def check(
    settings: Settings,
    catalog: Catalog,
    variant: str,
    key: Path | None = None,
    root: Path = Path("."),
    account: Callable[[str], None] | None = None,
) -> Checked:
    """All that is needed to publish `variant`.

    Args:
        key: the private key to sign with, None = that of params.yaml, if any.
        account: raises `FusionError` when nothing can be pushed for the owner; None where nothing is pushed.

    Raises:
        RefusedError: listing everything that stands against it.
    """
    settings.variant(variant)
    found = _Found()
    key = key or (Path(settings.publish.signing.key) if settings.publish.signing.key else None)
    names = found.take("name", lambda: names_of(settings, variant))
    review = found.take("licence", lambda: check_licences(settings, catalog, variant, root))
    texts = found.take("licence", lambda: carried_texts(review)) if review else None
    licence = found.take("licence", lambda: weights_licence(settings.variant(variant)))
    found.take("tree", lambda: _clean(root))
    verdicts = found.take("gate", lambda: _gate(settings, variant, root))
    behind = found.take("record", lambda: ancestry_of(f"package@{variant}", root))
    package = found.take("package", lambda: _package(variant, behind, root)) if behind else None
    through = found.take("record", lambda: _checkpoints(settings, variant, package, root)) if package else None
    commit = found.take("commit", lambda: committed_in(list(through.values()), root)) if through else None
    if through:
        found.take("tree", lambda: _runs_from_clean_trees(through, root))
    public = found.take("signature", lambda: _key(settings, key))
    if account is not None:
        found.take("account", lambda: account(settings.publish.owner))
    found.end(variant)
    assert names and review and licence and verdicts and behind and through and commit
    return Checked(
        settings, catalog, variant, root, names, licence, review, texts or {}, verdicts, behind, through, commit, key,
        public or None,
    )  # fmt: skip


class _Found:
    """The reasons so far."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def take(self, what: str, look: Callable[[], Value]) -> Value | None:
        try:
            return look()
        except FusionError as error:
            self.reasons.append(f"{what}: {error}")
            return None

    def end(self, variant: str) -> None:
        if self.reasons:
            count = "1 thing stands" if len(self.reasons) == 1 else f"{len(self.reasons)} things stand"
            lines = "\n".join(f"- {reason}" for reason in self.reasons)
            raise RefusedError(f"{variant} is not published, {count} against it; nothing was written or sent\n{lines}")


def _clean(root: Path) -> None:
    state = git_state(root)
    if state["commit"] is None:
        raise PublishError(f"git cannot tell the commit ({state['reason']}): publish from a clone of the repository")
    if state["dirty"]:
        changed = ", ".join(state["changed"][:5]) + (" and more" if len(state["changed"]) > 5 else "")
        raise PublishError(
            f"the tree differs from the commit in {changed}: commit it, or `git stash`; then `dvc repro`"
        )
    if (root / OVERRIDES).is_file():
        committed_in([], root, OVERRIDES.as_posix())


def _gate(settings: Settings, variant: str, root: Path) -> list[Verdict]:
    verdicts = judge_variant(settings, variant, root)
    blocked = [verdict for verdict in verdicts if verdict.blocks]
    if blocked:
        raise PublishError(f"`fusion gate {variant}` does not pass it:\n{table(blocked)}")
    return verdicts


def _package(variant: str, behind: Ancestry, root: Path) -> Ancestry:
    """The package is what its record says, and was made from what is here now."""
    folder = root / "packages" / variant
    if not (folder / LINEAGE_FILE).is_file():
        raise PublishError(f"{folder} is not there: run `dvc repro package@{variant}`, or `dvc checkout {folder}`")
    package = ancestry_through(f"package@{variant}", root)
    made_from = {name: record.core for name, record in package.records.items() if name != package.stage}
    if made_from != {name: record.core for name, record in behind.records.items()}:
        raise PublishError(f"{folder} was made from other inputs than are here now: run `dvc repro package@{variant}`")
    return package


def _checkpoints(settings: Settings, variant: str, package: Ancestry, root: Path) -> dict[str, Ancestry]:
    """Stage -> the records of its checkpoint: those that the package's checkpoint was trained from."""
    found: dict[str, Ancestry] = {}
    for stage in settings.variant(variant).stage_names:
        name = f"train_{stage}@{variant}"
        one = ancestry_through(name, root)
        if name not in package.records or package.records[name].core != one.records[name].core:
            raise PublishError(f"the checkpoint of {name} is not the one that the package comes from: run `dvc repro`")
        found[stage] = one
    return {**found, "package": package}


def _runs_from_clean_trees(through: dict[str, Ancestry], root: Path) -> None:
    """A run from a dirty tree counts where its code and parameters are those of the commit all the same.

    An adoption read none of them: its tree is always dirty, because params.yaml has to name it before. That its record
    is committed is looked at as for all.
    """
    records = Records(root)
    for record in through["package"].records.values():
        git = record.document["run"].get("git") or {}
        if git.get("dirty") and not is_adoption(record.stage) and records.differences(record):
            raise PublishError(
                f"{record.stage} ran from a tree that differed from its commit in {', '.join(git['changed'][:3])}, so "
                f"nobody can find that code: commit, and run `dvc repro --force --single-item {record.stage}`"
            )


def _key(settings: Settings, key: Path | None) -> bytes:
    """The public key, empty without a private one; nothing that is asked for may be missing."""
    if key is None:
        if settings.publish.signing.required:
            raise PublishError(
                "publish.signing.required is set in params.yaml, and there is no key: name its file with --key, or in "
                "publish.signing.key"
            )
        return b""
    if not key.is_file():
        raise PublishError(f"{key} is not there: it is the file with the private key to sign with")
    from fusion.inquiry.signing import public_key

    return public_key(key)


def token() -> str:
    """The Hub's token; raises `PublishError` when the environment has none."""
    found = os.environ.get(TOKEN, "").strip()
    if not found:
        raise PublishError(
            f"the environment has no {TOKEN}: make a token with write access on the Hub (settings, access tokens) and "
            f"`export {TOKEN}=...`; it is read from nowhere else"
        )
    return found
