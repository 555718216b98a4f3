"""What may be done to records, dvc.lock and the code of a finished project; and all cases together."""

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.lineage.audited import Project
from tests.lineage.tamper_tree import CHECKPOINT, IN_TREE_AND_CACHE, Case

TRAIN, PACKAGE, CATS = "records/train/*.json", "records/package/*.json", "records/shard-cats/*.json"
SCORES, SUMMARY = "results/tiny/scores.json", "results/tiny/summary.json"


def committed(do: Callable[[Project], object]) -> Callable[[Project], object]:
    """The same, and committed."""

    def both(project: Project) -> None:
        do(project)
        project.commit("nothing to see here")

    return both


def _out(stages: dict, stage: str, path: str) -> dict:
    return next(out for out in stages[stage]["outs"] if out["path"] == path)


def _dep(stages: dict, stage: str, path: str) -> dict:
    return next(dep for dep in stages[stage]["deps"] if dep["path"] == path)


def lock(change: Callable[[dict], object]) -> Callable[[Project], object]:
    """An edit of dvc.lock."""
    return lambda project: project.lock(change)


def _everything_again(project: Project) -> None:
    """Other data, the whole run made again, the old records and the old history removed: consistent in itself."""
    project.write("data/samples/words.txt", b"one two three five\n")
    for path in project.root.glob("records/*/*.json"):
        path.unlink()
    project.git("add", "-A")
    project.git("commit", "-q", "--amend", "-m", "run")
    project.run()
    project.git("add", "-A")
    project.git("commit", "-q", "--amend", "-m", "run")


def _new_weights(project: Project, forge: bool) -> None:
    """Other weights, taken into DVC, with or without a forged record of training."""
    from dvc.repo import Repo

    from fusion.lineage.files import Hasher

    project.flip(CHECKPOINT)
    with contextlib.chdir(project.root), Repo(".") as repo:
        repo.commit("train", force=True)
    if forge:
        sha = Hasher(project.root).sha256("checkpoints/tiny/stage1")
        project.forge(TRAIN, lambda record: record["outputs"].update({"checkpoints/tiny/stage1": sha}))
    project.commit()


IN_RECORDS_AND_LOCK = (
    # Records.
    Case(
        "a parameter in a record",
        lambda p: p.edit(TRAIN, lambda r: r["params"]["params.yaml"]["train"].update(rate=0.1)),
        "record-edited",
        "records/train/",
    ),
    Case(
        "an output's hash in a record",
        lambda p: p.edit(TRAIN, lambda r: r["outputs"].update({"results/tiny/summary.json": "0" * 64})),
        "record-edited",
        "records/train/",
    ),
    Case("a byte of a record", lambda p: p.flip(CATS), "uncommitted", "records/shard-cats/"),
    Case(
        "a time in a record",
        lambda p: p.edit(TRAIN, lambda r: r["run"].update(seconds=1.0)),
        "uncommitted",
        "records/train/",
    ),
    Case(
        "a time in a record, committed",
        committed(lambda p: p.edit(TRAIN, lambda r: r["run"].update(seconds=1.0))),
        "record-rewritten",
        "records/train/",
    ),
    Case(
        "the commit in a record, committed",
        committed(lambda p: p.edit(CATS, lambda r: r["run"]["git"].update(commit="0" * 40))),
        "record-rewritten",
        "records/shard-cats/",
    ),
    Case("a record removed", lambda p: p.path(CATS).unlink(), "record-missing", "shard@cats"),
    Case("a record removed, committed", committed(lambda p: p.path(CATS).unlink()), "record-missing", "shard@cats"),
    Case(
        "a record renamed, committed",
        committed(lambda p: p.path(CATS).rename(p.path(CATS).with_name("0.json"))),
        "record-edited",
        "records/shard-cats/0.json",
    ),
    Case(
        "two records swapped, committed",
        committed(lambda p: p.swap(CATS, "records/shard-dogs/*.json")),
        "record-edited",
        "records/shard-",
    ),
    Case(
        "a record that is no JSON, committed",
        committed(lambda p: p.write(CATS, b"{")),
        "record-edited",
        "records/shard-cats/",
    ),
    Case(
        "something else among the records",
        committed(lambda p: p.write("records/train/notes.txt", b"x")),
        "record-edited",
        "records/train/notes.txt",
    ),
    Case(
        "a forged input, committed",
        committed(lambda p: p.forge(CATS, lambda r: r["inputs"].update({"fusion/shard.py": "0" * 64}))),
        "chain-broken",
        "records/",
    ),
    Case(
        "a forged parameter, committed",
        committed(lambda p: p.forge(TRAIN, lambda r: r["params"]["params.yaml"]["train"].update(rate=0.1))),
        "record-differs",
        "records/train/",
    ),
    Case(
        "a forged command, committed",
        committed(lambda p: p.forge(TRAIN, lambda r: r.update(command="fusion train other stage1"))),
        "record-differs",
        "records/train/",
    ),
    Case(
        "a forged input of the last stage, committed",
        committed(lambda p: p.forge(PACKAGE, lambda r: r["inputs"].update({"fusion/package.py": "0" * 64}))),
        "record-differs",
        "records/package/",
    ),
    Case(
        "a forged parent, committed",
        committed(lambda p: p.forge(PACKAGE, lambda r: r["parents"].update(train="0" * 64))),
        "chain-broken",
        "records/package/",
    ),
    Case(
        "a forged output, committed",
        committed(
            lambda p: p.forge(
                "records/evaluate/*.json", lambda r: r["outputs"].update({"results/tiny/scores.json": "0" * 64})
            )
        ),
        "record-missing",
        "evaluate",
    ),
    Case("other weights with DVC's blessing", lambda p: _new_weights(p, forge=False), "lock-differs", "train"),
    Case(
        "other weights with DVC's blessing and a forged record",
        lambda p: _new_weights(p, forge=True),
        "chain-broken",
        "records/",
    ),
    Case(
        "everything made again from other data, history rewritten",
        _everything_again,
        "anchor-differs",
        "records/shard-cats/",
        anchor=True,
    ),
    # dvc.lock.
    Case(
        "an output's hash in dvc.lock",
        lock(lambda s: _out(s, "train", "results/tiny/summary.json").update(md5="0" * 32)),
        "object-missing",
        "",
    ),
    Case(
        "another object named in dvc.lock, committed",
        committed(
            lock(
                lambda s: _out(s, "evaluate", "results/tiny/scores.json").update(
                    md5=_out(s, "train", "results/tiny/summary.json")["md5"], size=13
                )
            )
        ),
        "lock-differs",
        "evaluate",
    ),
    Case(
        "two outputs swapped in dvc.lock, committed",
        committed(
            lock(
                lambda s: (lambda a, b: (a.update(path=b["path"]), b.update(path="data/shards/set/cats")))(
                    _out(s, "shard@cats", "data/shards/set/cats"), _out(s, "shard@dogs", "data/shards/set/dogs")
                )
            )
        ),
        "lock-differs",
        "shard@",
    ),
    Case(
        "a size in dvc.lock, committed",
        committed(lock(lambda s: _out(s, "train", "results/tiny/summary.json").update(size=9))),
        "lock-differs",
        "train",
    ),
    Case(
        "a number of files in dvc.lock, committed",
        committed(lock(lambda s: _out(s, "curate", "data/manifests/set").update(nfiles=9))),
        "lock-differs",
        "curate",
    ),
    Case(
        "a dependency's hash in dvc.lock, committed",
        committed(lock(lambda s: _dep(s, "train", "fusion/train.py").update(md5="0" * 32))),
        "lock-differs",
        "train",
    ),
    Case(
        "a dependency's size in dvc.lock, committed",
        committed(lock(lambda s: _dep(s, "train", "data/shards/set").update(size=9))),
        "lock-differs",
        "train",
    ),
    Case(
        "a parameter in dvc.lock, committed",
        committed(lock(lambda s: s["train"]["params"]["params.yaml"]["train"].update(rate=0.9))),
        "lock-differs",
        "train",
    ),
    Case(
        "a command in dvc.lock, committed",
        committed(lock(lambda s: s["curate"].update(cmd="true"))),
        "lock-differs",
        "curate",
    ),
    Case(
        "a stage taken out of dvc.lock, committed",
        committed(lock(lambda s: s.pop("evaluate"))),
        "never-run",
        "evaluate",
    ),
    Case("dvc.lock not committed", lock(lambda s: s["curate"].update(cmd="true")), "uncommitted", "dvc.lock"),
    Case("a dvc.lock that is no YAML", lambda p: p.write("dvc.lock", b"stages: ["), "unreadable", "dvc.lock"),
    # Code and settings.
    Case(
        "params.yaml edited",
        lambda p: p.write("params.yaml", b"run: {seed: 8}\ntrain: {rate: 0.5, eps: 1.0e-8}\n"),
        "dirty",
        "params.yaml",
    ),
    Case(
        "params.yaml edited and committed, not run",
        committed(lambda p: p.write("params.yaml", b"run: {seed: 8}\ntrain: {rate: 0.5, eps: 1.0e-8}\n")),
        "lock-differs",
        "train",
    ),
    Case("code edited", lambda p: p.write("fusion/train.py", b"# another\n"), "dirty", "fusion/train.py"),
    Case(
        "code edited and committed, not run",
        committed(lambda p: p.write("fusion/train.py", b"# another\n")),
        "record-differs",
        "records/train/",
    ),
    Case(
        "samples edited and committed, not run",
        committed(lambda p: p.write("data/samples/words.txt", b"one\n")),
        "record-differs",
        "records/shard-cats/",
    ),
    Case("code that nobody committed", lambda p: p.write("fusion/more.py", b"# more\n"), "dirty", "fusion/more.py"),
)
CASES = {case.name: case for case in (*IN_TREE_AND_CACHE, *IN_RECORDS_AND_LOCK)}


def package_elsewhere(project: Project, folder: Path) -> Path:
    """The package as it was sent away: what is edited afterwards does not reach it."""
    folder.mkdir()
    shutil.copyfile(project.root / "packages/tiny/lineage.json", folder / "lineage.json")
    return folder
