"""How fast `fusion audit` hashes, beside sha256 alone on the same files: `python -m benchmarks.audit [--gigabytes N]`.

A project under git and DVC is made in a temporary folder, with shards of random bytes, run and committed. The audit
reads the working tree and the cache, so twice the data. Beside it, one loop of hashlib's sha256 over the same files,
and the same in as many threads as the audit uses. All files are in the page cache, if memory allows: it is hashing
that is measured, not the disk.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import surroundings, write_result
from fusion.hashing import file_sha256
from fusion.lineage.audit.run import audit
from tests.lineage import audited
from tests.lineage.audited import Project

SHARD_BYTES = 64 << 20


def _big_shards(total: int) -> Callable[[str], None]:
    """The project's stages, with shards of `total` bytes in all."""
    small = audited._work

    def work(stage: str) -> None:
        small(stage)
        name, _, item = stage.partition("@")
        if name == "shard":
            generator = np.random.default_rng(len(item))
            for number in range(max(1, total // 2 // SHARD_BYTES)):
                Path(f"data/shards/set/{item}/{number:06d}.tar").write_bytes(generator.bytes(SHARD_BYTES))

    return work


def measure(gigabytes: float, rounds: int) -> dict[str, Any]:
    """Bytes a second of the audit and of sha256, medians over `rounds`."""
    with tempfile.TemporaryDirectory() as name:
        audited._work = _big_shards(int(gigabytes * 1e9))  # type: ignore[assignment]
        project = Project(Path(name) / "project")
        project.root.mkdir()
        project.build()
        files = [path for part in ("data/shards", ".dvc/cache") for path in (project.root / part).rglob("*")]
        files = [path for path in files if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        one, many, audits = [], [], []
        for _ in range(rounds):
            began = time.perf_counter()
            for path in files:
                file_sha256(path)
            one.append(size / (time.perf_counter() - began))
            began = time.perf_counter()
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(file_sha256, files))
            many.append(size / (time.perf_counter() - began))
            began = time.perf_counter()
            report, _ = audit(project.root)
            audits.append(report.counts["bytes hashed"] / (time.perf_counter() - began))
            assert not report.findings, report.sorted
    middle = {
        key: sorted(values)[rounds // 2]
        for key, values in (("sha256", one), ("sha256_threads", many), ("audit", audits))
    }
    return {
        "gigabytes_hashed": round(size / 1e9, 2),
        "rounds": rounds,
        **{f"{key}_mb_per_second": round(value / 1e6, 1) for key, value in middle.items()},
        "share_of_sha256": round(middle["audit"] / middle["sha256"], 3),
        "share_of_sha256_threads": round(middle["audit"] / middle["sha256_threads"], 3),
    }


def main() -> None:
    """Measures and writes results/audit.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=4.0, help="of shards; twice as much is hashed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--try", dest="trial", action="store_true", help="print only")
    arguments = parser.parse_args()
    result = {**surroundings(), **measure(arguments.gigabytes, arguments.rounds)}
    print(result)
    if not arguments.trial:
        print(write_result("audit", result))


if __name__ == "__main__":
    main()
