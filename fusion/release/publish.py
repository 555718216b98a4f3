"""Publishing a variant, from the licence gate to the verified copy. Each step says what came of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fusion.data.catalog import Catalog
from fusion.inquiry.checks import SIGNATURE
from fusion.release.committed import tag_commit
from fusion.release.contents import Repository, release_id, write_contents
from fusion.release.folder import check_copy, put_in_place, staging
from fusion.release.hub import Hub
from fusion.release.refusals import Checked, check, token
from fusion.settings import Settings

Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Target:
    """`folder`: where the release is built; `hub`: it goes on to the Hub; `push`: it is sent there, not only told."""

    folder: Path
    hub: bool = False
    push: bool = False


def publish_variant(
    settings: Settings,
    catalog: Catalog,
    variant: str,
    target: Target,
    say: Say,
    key: Path | None = None,
    root: Path = Path("."),
) -> str:
    """Publishes `variant`; returns the release's name, which follows from its content.

    Called again, it continues what was broken off, and sends nothing that is there already.

    Args:
        say: gets each step and what came of it.
        key: the private key to sign with, None = that of params.yaml, if any.

    Raises:
        RefusedError: something stands against it; nothing was written or sent.
        BrokenOffError: the connection or the server failed.
        PublishError: a part is missing, the Hub refused, or what came back is not what was sent.
    """
    hubs: list[Hub] = []

    def account(owner: str) -> None:
        hubs.append(Hub(token(), settings.publish.private))
        hubs[0].check_account(owner)

    checked = check(settings, catalog, variant, key, root, account if target.hub else None)
    _tell_checked(checked, say)
    with staging(root / target.folder) as aside:
        made = write_contents(checked, aside, say)
        release = release_id(made)
        placed = [put_in_place(one, root / target.folder, checked.key, checked.public_key) for one in made]
    there = [one for one, _ in placed]
    _tell_signature(checked, there, say)
    for one, new in placed:
        check_copy(one.folder, one, checked.public_key, str(one.folder))
        say("folder", f"{one.folder}: {len(one.files)} files, {'written' if new else 'unchanged'}, verified")
    if hubs:
        done = _to_hub(hubs[0], checked, there, release, target.push, say)
        if not done:
            return release
    name, new = tag_commit(
        variant, release, checked.commit, f"{release} of {variant}: {checked.names.model}", root
    )  # fmt: skip
    say("git tag", f"{name} at {checked.commit[:12]}, {'new' if new else 'as before'}")
    return release


def _tell_checked(checked: Checked, say: Say) -> None:
    passed = [verdict.column for verdict in checked.verdicts if verdict.required]
    say("gate", f"passed: {', '.join(passed)}")
    review = checked.review
    put_aside = [conflict.id for conflict in review.conflicts if conflict.reason]
    use = "commercial use is not ruled out" if review.commercial else "not for commercial use, as far as is known"
    more = f"; put aside by a person: {', '.join(put_aside)}" if put_aside else ""
    say("licence", f"{checked.licence.title} for {checked.names.model}; {use}{more}")


def _tell_signature(checked: Checked, there: list[Repository], say: Say) -> None:
    if checked.key is None:
        say("signature", "none: name a key with --key, or in publish.signing.key of params.yaml")
        return
    signed = [one.id for one in there if (one.folder / SIGNATURE).is_file()]
    say("signature", f"{SIGNATURE}, OpenSSF model signing with {checked.key.name}: {', '.join(signed)}")


def _to_hub(hub: Hub, checked: Checked, there: list[Repository], release: str, push: bool, say: Say) -> bool:
    """Uploads, verifies and tags each, and links them; without `push` only says what it would send."""
    if not push:
        for one in there:
            files, size = hub.missing(one)
            say("would go up", f"{one.id}: {files} files, {size / 1e6:,.1f} MB new")
        say("nothing", f"was uploaded to {hub.address}: add --push to do it")
        return False
    idle = True
    for one in there:
        hub.keep_signature(one, checked.public_key)
        sent = hub.upload(one, release)
        finished = hub.is_finished(one, sent.commit, release)
        if sent.files or sent.removed:
            say("upload", f"{one.id}: {sent.files} files, {sent.bytes / 1e6:,.1f} MB new, commit {sent.commit[:12]}")
        else:
            say("upload", f"{one.id}: nothing new, commit {sent.commit[:12]}")
        if not finished:
            hub.verify(one, sent.commit, checked.public_key)
            hub.tag(one, sent.commit, release)
            say("verify", f"{one.id}: downloaded again, {len(one.files)} files as sent; tag {release}")
        idle = idle and finished
    slug, new = hub.collect(checked.settings.publish.owner, checked.names.collection, there)
    say("collection", f"{slug}: {len(there)} items, {new} new")
    if idle and not new:
        say("nothing", f"new was uploaded: {hub.address} has {release} already")
    return True
