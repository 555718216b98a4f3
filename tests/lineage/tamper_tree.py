"""What an attacker, a bad disk or a careless hand may do to the files of a finished project, and to the cache."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.lineage.audited import Project

SHARD = "data/shards/set/cats/000000.tar"
CHECKPOINT = "checkpoints/tiny/stage1/model.safetensors"


@dataclass(frozen=True)
class Case:
    """`do` to the project; one finding of `kind` has to name `where`. `anchor`: only a package elsewhere can tell."""

    name: str
    do: Callable[[Project], object]
    kind: str
    where: str
    anchor: bool = False


def _both_alike(project: Project) -> None:
    project.flip(CHECKPOINT)
    project.write(project.object("checkpoints/tiny/stage1", "model.safetensors"), project.path(CHECKPOINT).read_bytes())


IN_TREE_AND_CACHE = (
    # The working tree.
    Case("a bit of a shard", lambda p: p.flip(SHARD), "file-changed", SHARD),
    Case("a bit of a shard, time kept", lambda p: p.flip(SHARD, keep_time=True), "file-changed", SHARD),
    Case("a shard cut short", lambda p: p.write(SHARD, p.path(SHARD).read_bytes()[:-9]), "file-changed", SHARD),
    Case("a shard made longer", lambda p: p.write(SHARD, p.path(SHARD).read_bytes() + b"x"), "file-changed", SHARD),
    Case("a shard removed", lambda p: p.path(SHARD).unlink(), "file-removed", SHARD),
    Case(
        "a shard added",
        lambda p: p.write("data/shards/set/cats/9.tar", b"x"),
        "file-added",
        "data/shards/set/cats/9.tar",
    ),
    Case(
        "an empty file added", lambda p: p.write("data/shards/set/cats/x", b""), "file-added", "data/shards/set/cats/x"
    ),
    Case("two shards swapped", lambda p: p.swap(SHARD, "data/shards/set/cats/000001.tar"), "file-changed", SHARD),
    Case(
        "shards of two sources swapped",
        lambda p: p.swap(SHARD, "data/shards/set/dogs/000000.tar"),
        "file-changed",
        SHARD,
    ),
    Case(
        "a shard renamed", lambda p: p.path(SHARD).rename(p.root / "data/shards/set/cats/0.tar"), "file-removed", SHARD
    ),
    Case(
        "a bit of an index",
        lambda p: p.flip("data/index/set/dogs/*"),
        "file-changed",
        "data/index/set/dogs/index.parquet",
    ),
    Case(
        "a bit of a manifest",
        lambda p: p.flip("data/manifests/set/m*"),
        "file-changed",
        "data/manifests/set/manifest.parquet",
    ),
    Case(
        "the ledger removed",
        lambda p: p.path("data/manifests/set/l*").unlink(),
        "file-removed",
        "data/manifests/set/ledger.parquet",
    ),
    Case("a bit of the weights", lambda p: p.flip(CHECKPOINT), "file-changed", CHECKPOINT),
    Case(
        "a checkpoint's configuration",
        lambda p: p.write("checkpoints/tiny/stage1/config.json", b"{ }\n"),
        "file-changed",
        "checkpoints/tiny/stage1/config.json",
    ),
    Case(
        "a pickle beside the weights",
        lambda p: p.write("checkpoints/tiny/stage1/x.bin", b"\x80"),
        "file-added",
        "checkpoints/tiny/stage1/x.bin",
    ),
    Case(
        "a score made better",
        lambda p: p.write("results/tiny/scores.json", b'{"accuracy": 0.91}\n'),
        "file-changed",
        "results/tiny/scores.json",
    ),
    Case(
        "the scores removed",
        lambda p: p.path("results/tiny/scores.json").unlink(),
        "output-missing",
        "results/tiny/scores.json",
    ),
    Case("a loss in the curve", lambda p: p.flip("results/tiny/loss.csv"), "file-changed", "results/tiny/loss.csv"),
    Case(
        "a bit of the package's weights",
        lambda p: p.flip("packages/tiny/m*"),
        "file-changed",
        "packages/tiny/model.safetensors",
    ),
    Case(
        "the model card",
        lambda p: p.write("packages/tiny/README.md", b"# A better model\n"),
        "file-changed",
        "packages/tiny/README.md",
    ),
    Case(
        "the package's lineage",
        lambda p: p.flip("packages/tiny/lineage.json"),
        "file-changed",
        "packages/tiny/lineage.json",
    ),
    Case(
        "a file that belongs to nothing",
        lambda p: p.write("checkpoints/other/model.safetensors", b"x"),
        "orphan",
        "checkpoints/other/model.safetensors",
    ),
    Case(
        "a source that nobody knows",
        lambda p: p.write("data/shards/set/birds/0.tar", b"x"),
        "orphan",
        "data/shards/set/birds/0.tar",
    ),
    # The cache.
    Case(
        "a bit of a cached shard",
        lambda p: p.flip(p.object("data/shards/set/cats", "000000.tar")),
        "object-damaged",
        "",
    ),
    Case(
        "a cached shard emptied",
        lambda p: p.write(p.object("data/shards/set/cats", "000000.tar"), b""),
        "object-damaged",
        "",
    ),
    Case(
        "a cached checkpoint removed",
        lambda p: p.path(p.object("checkpoints/tiny/stage1", "config.json")).unlink(),
        "object-missing",
        "",
    ),
    Case(
        "a bit of cached weights",
        lambda p: p.flip(p.object("checkpoints/tiny/stage1", "model.safetensors"), True),
        "object-damaged",
        "",
    ),
    Case("a bit of cached scores", lambda p: p.flip(p.object("results/tiny/scores.json")), "object-damaged", ""),
    Case("a listing edited", lambda p: p.flip(p.object("data/manifests/set", ".dir")), "object-damaged", ""),
    Case(
        "a listing removed", lambda p: p.path(p.object("data/shards/set/dogs", ".dir")).unlink(), "object-missing", ""
    ),
    Case(
        "two objects swapped",
        lambda p: p.swap(
            p.object("data/shards/set/cats", "000000.tar"), p.object("data/shards/set/dogs", "000000.tar")
        ),
        "object-damaged",
        "",
    ),
    Case("weights changed here and in the cache alike", _both_alike, "object-damaged", ""),
)
