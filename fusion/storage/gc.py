"""`fusion gc`: removes data from DVC's cache, and from a remote, that no branch, tag or worktree needs any more.

`dvc gc` looks at one working tree and the local branches, and shows no sizes. Here everything counts that git knows:
branches here and of other clones that were fetched, tags (a published model has one), stashes, every worktree as it is
now. Where that cannot be told for sure, nothing is removed.
"""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

from fusion.checkouts import CheckoutError, git, top_of, worktrees
from fusion.storage.errors import StorageError
from fusion.storage.needed import Needed, needed_objects
from fusion.storage.objects import DIRECTORY, Object, Place, unused

YOUNG_HOURS = 24.0
LARGEST = 10
DEFAULT_REMOTE = "-"


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this it is only shown.")] = False,
    remote: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"In this remote of DVC, too; {DEFAULT_REMOTE}: the default one.")
    ] = None,
    tips: Annotated[
        bool, typer.Option("--tips", help="Keep what branches, tags and worktrees are at, not the commits before.")
    ] = False,
    older_than: Annotated[
        float, typer.Option(metavar="HOURS", min=0, help="Keep what came later: a run may not have named it yet.")
    ] = YOUNG_HOURS,
    accept_missing: Annotated[
        bool, typer.Option("--accept-missing", help="Go on when the listing of a needed folder is nowhere.")
    ] = False,
) -> None:
    """Show, or remove, data in DVC's cache that no branch, tag or worktree needs."""
    collect(Path.cwd(), yes=yes, remote=remote, tips=tips, hours=older_than, accept_missing=accept_missing)


def collect(
    folder: Path, *, yes: bool, remote: str | None, tips: bool, hours: float, accept_missing: bool = False
) -> dict[str, dict[str, Object]]:
    """Shows what nobody needs and, with `yes`, removes it. Returns it by place.

    Raises:
        StorageError: nobody can tell for sure what is needed. Nothing was removed then.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    top = top_of(folder)
    if remote is not None:
        check_branches_are_known(top)
    try:
        with contextlib.ExitStack() as stack:
            for path in worktrees(top):
                if (path / ".dvc").is_dir():
                    stack.enter_context(stack.enter_context(Repo(str(path))).lock)
            with Repo(str(top)) as repo:
                return _collect(repo, top, yes, remote, tips, hours, accept_missing)
    except DvcException as error:
        raise StorageError(f"DVC: {error}") from error


def _collect(
    repo: Any, top: Path, yes: bool, remote: str | None, tips: bool, hours: float, accept_missing: bool
) -> dict[str, dict[str, Object]]:
    cache = Place("the cache", repo.cache.local)
    places = [cache]
    sources = [cache, *(Place(f"the remote {name}", _remote(repo, name)) for name in _readable_remotes(repo, remote))]
    if remote is not None:
        name = repo.config["core"].get("remote") if remote == DEFAULT_REMOTE else remote
        places.append(Place(f"the remote {name}", _remote(repo, None if remote == DEFAULT_REMOTE else remote)))
        sources.append(places[-1])
    needed = needed_objects(top, tips)
    try:
        wanted = with_files(needed, sources, accept_missing)
    except StorageError as error:
        if yes:
            raise
        print(f"with --yes this would be refused: {error}")
        wanted = with_files(needed, sources, accept_missing=True)
    print(f"needed by {needed.commits:,} commits and {needed.worktrees:,} worktrees: {len(wanted):,} objects")
    names = _made_by(repo)
    removed = {}
    for place in places:
        old, young, kept = unused(place, wanted, hours)
        _show(place, old, young, kept, hours, names)
        if yes and old:
            place.remove(old)
            print(f"  removed {len(old):,} objects, {size(old)}")
        removed[place.name] = old
    if not yes and any(removed.values()):
        print("nothing was removed; add --yes to remove it")
    return removed


def with_files(needed: Needed, sources: list[Place], accept_missing: bool) -> set[str]:
    """All hashes that are needed: folders with the files that their listings name.

    Raises:
        StorageError: a listing is in none of `sources`, so that nobody can tell its files from what is not needed.
    """
    wanted, lost = set(), []
    for hash_, who in needed.objects.items():
        wanted.add(hash_)
        if not hash_.endswith(DIRECTORY):
            continue
        listed = next((found for source in sources if (found := source.listing(hash_)) is not None), None)
        if listed is None:
            lost.append(who)
        wanted |= listed or set()
    if lost and not accept_missing:
        places = " nor in ".join(source.name for source in sources)
        raise StorageError(
            f"the listings of {len(lost)} needed folders are not in {places}, for example of {lost[0]}, so nobody can "
            "tell their files from what is not needed. Fetch them (`dvc fetch --all-commits`), or, if that data is "
            "lost or was never here, add --accept-missing. Nothing was removed"
        )
    return wanted


def check_branches_are_known(top: Path) -> None:
    """Others work with a remote too: raises `StorageError` when one of git's remotes has a commit that is not here."""
    for name in git(top, "remote").split():
        try:
            listed = git(top, "ls-remote", "--heads", "--tags", name).splitlines()
        except CheckoutError as error:
            raise StorageError(f"branches of `{name}`, which may need the data, are out of reach: {error}") from error
        for line in listed:
            commit, _, ref = line.partition("\t")
            try:
                git(top, "cat-file", "-e", commit)
            except CheckoutError:
                raise StorageError(
                    f"{ref} of `{name}` is not known here, and it may need the data: run `git fetch --all --tags`"
                ) from None


def _remote(repo: Any, name: str | None) -> Any:
    return repo.cloud.get_remote_odb(name, "gc", hash_name="md5")


def _readable_remotes(repo: Any, asked: str | None) -> list[str]:
    """The default remote, for listings that the cache has not, unless it is asked for anyway."""
    name = repo.config["core"].get("remote")
    return [name] if name and asked is None else []


def _made_by(repo: Any) -> dict[str, str]:
    """Hash -> output, of all runs that DVC's run cache remembers: to say what an object was."""
    import yaml

    names: dict[str, str] = {}
    for path in Path(repo.cache.local_cache_dir).glob("runs/*/*/*"):
        with contextlib.suppress(yaml.YAMLError, OSError):
            for out in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("outs") or ():
                names.setdefault(str(out.get("md5")), str(out.get("path")))
    return names


def _show(
    place: Place, old: dict[str, Object], young: dict[str, Object], kept: int, hours: float, names: dict[str, str]
) -> None:
    print(f"{place.name}: {readable(kept)} needed; not needed: {len(old):,} objects, {size(old)}")
    largest = sorted(old, key=lambda hash_: -old[hash_].size)[:LARGEST]
    labelled = [hash_ for hash_ in old if hash_ in names and hash_ not in largest][:LARGEST]
    for hash_ in [*largest, *labelled]:
        print(f"  {hash_:<36} {readable(old[hash_].size):>10}  {names.get(hash_, '')}".rstrip())
    if len(old) > len(largest) + len(labelled):
        print(f"  and {len(old) - len(largest) - len(labelled):,} more")
    if young:
        print(f"  kept although nobody needs them, because they came within {hours:g} h: {len(young):,}, {size(young)}")


def size(objects: dict[str, Object]) -> str:
    """Their sizes together, for a person."""
    return readable(sum(one.size for one in objects.values()))


def readable(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
