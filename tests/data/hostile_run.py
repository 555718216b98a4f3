"""Takes all hostile cases through ingest, sharding and curation, in a process of its own: python -m ... FOLDER.

FOLDER/report.json says what became of each case, how long and how much memory it took, and what was touched that is
nobody's business.
"""

import json
import shutil
import signal
import sys
import tarfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fusion.data.origins import table
from fusion.errors import FusionError
from fusion.hashing import file_sha256
from tests.data import (  # noqa: F401  (they add cases)
    hostile_archives,
    hostile_files,
    hostile_pictures,
    hostile_records,
    hostile_tables,
)
from tests.data.hostile import CASES, MAX_PIXELS, Case, Place
from tests.data.hostile_watch import Audit, Kernel
from tests.data.workshop import DATASET, Workshop, picture

SECONDS = 60
"""A case that takes longer hangs."""


@contextmanager
def _in_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"not done after {SECONDS} seconds")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def _peak_mb() -> int:
    """Of this process alone: what getrusage says begins with the size of the process that started this one."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in status if line.startswith("VmHWM:")).split()[1]) // 1024


def _outside(folder: Path) -> Path:
    """A tree that no data set has anything to do with."""
    outside = folder / "outside"
    (outside / "more").mkdir(parents=True)
    (outside / "secret.png").write_bytes(picture(1))
    (outside / "more/secret.png").write_bytes(picture(2))
    with tarfile.open(outside / "secret.tar", "w") as tar:
        tar.add(outside / "secret.png", "secret.png")
    return outside


def _contents(folder: Path) -> dict[str, str]:
    return {str(path): file_sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def _run(case: Case, place: Place, audit: Audit) -> str | None:
    """Takes one case to its index; the message when its source is refused."""
    workshop = place.workshop
    others, workshop.sources = workshop.sources, {}
    try:
        case.build(place)
        with _in_time():
            with audit.watching():
                workshop.ingest(case.name)
            case.between.get("shard", lambda _: None)(place)
            with audit.watching():
                workshop.shard_only(case.name)
    except FusionError as error:
        return str(error)
    except Exception:
        return f"FAULT {traceback.format_exc()[-1500:]}"
    finally:
        entry = workshop.sources
        workshop.sources = others
    workshop.sources |= entry
    return None


def main(folder: Path) -> None:
    workshop = Workshop(folder / "project")
    data = workshop.settings.data.model_copy(update={"max_image_pixels": MAX_PIXELS})
    workshop.settings = workshop.settings.model_copy(update={"data": data})
    table.SCRATCH = workshop.folder / "scratch/tables"
    outside = _outside(folder)
    before = _contents(outside)
    kernel = Kernel(outside)
    audit = Audit([workshop.folder], [Path("."), Path(sys.prefix), Path(sys.base_prefix), Path("/usr/share")])
    if len(sys.argv) > 2:
        for name in set(CASES) - set(sys.argv[2:]):
            del CASES[name]
    refused: dict[str, str | None] = {}
    seconds: dict[str, float] = {}
    touched: dict[str, list[str]] = {}
    for name, case in CASES.items():
        start = time.perf_counter()
        refused[name] = _run(case, Place(workshop, name, outside), audit)
        seconds[name] = round(time.perf_counter() - start, 3)
        if found := [*kernel.seen(), *audit.found]:
            touched[name] = found
        audit.found.clear()
    for name in set(CASES) - set(workshop.sources):
        for part in ("raw", "index", "shards"):
            shutil.rmtree(workshop.folder / "data" / part / DATASET / name, ignore_errors=True)
    start = time.perf_counter()
    with audit.watching():
        workshop.curate_only()
    if found := [*kernel.seen(), *audit.found]:
        touched["(curation)"] = found
    after = _contents(outside)
    kernel.seen()
    (outside / "secret.png").read_bytes()
    report: dict[str, Any] = {
        "refused": {name: told for name, told in refused.items() if told is not None},
        "touched": touched,
        "outside_is_as_it_was": before == after,
        "witness_sees": kernel.seen(),
        "seconds": {**seconds, "(curation)": round(time.perf_counter() - start, 3)},
        "peak_mb": _peak_mb(),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
