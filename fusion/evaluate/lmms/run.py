"""`fusion evaluate VARIANT --engine lmms`: the same benchmarks and columns through the real lmms-eval, for comparison.

Nothing of it is an output that a stage depends on: what it finds is told, and written to runs/lmms/VARIANT.json.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from fusion.errors import FusionError
from fusion.evaluate.benchmark import load_benchmark
from fusion.evaluate.columns.entries import column
from fusion.evaluate.lmms.embedded import KEY, write_task
from fusion.evaluate.lmms.engine import LmmsError, TaskResult, require_lmms, run_task
from fusion.evaluate.records import weights_sha256
from fusion.files import write_json
from fusion.settings import Settings


@dataclass(frozen=True)
class Beside:
    """A column by lmms-eval (percent for embedded benchmarks, else its own scale) and by the direct path.

    `version`: of lmms-eval, None where it gave nothing.
    """

    name: str
    lmms: float | None
    direct: float | None
    reason: str | None
    task: str
    version: str | None = None

    @property
    def agrees(self) -> bool | None:
        """Whether both are the same number; None where there is nothing to compare."""
        if self.lmms is None or self.direct is None:
            return None
        return abs(self.lmms - self.direct) < 1e-3


def evaluate_with_lmms(settings: Settings, variant: str, root: Path = Path()) -> list[Beside]:
    """All benchmarks and columns of a variant, one task a process. What fails is a row with its reason.

    runs/lmms/VARIANT.json gets the numbers, runs/lmms/VARIANT/NAME.jsonl each question with its answer.

    Raises `LmmsError` where lmms-eval is not installed, `BenchmarkError` for a missing benchmark.
    """
    require_lmms()
    chosen = settings.variant(variant)
    checkpoint = root / "checkpoints" / variant / "stage2"
    direct = _direct(variant, root)
    device, batch_size = chosen.hardware.device, settings.evaluation.batch_size
    place = root / "runs" / "lmms"
    shutil.rmtree(place / variant, ignore_errors=True)
    rows = []
    for name, use in chosen.evaluation.benchmarks.items():
        benchmark = load_benchmark(name, use.questions, settings.run.seed, root)
        with TemporaryDirectory(prefix="fusion-task-") as folder:
            task = write_task(benchmark, Path(folder))
            result = run_task(
                checkpoint, task, [KEY], len(benchmark.questions), device=device, batch_size=batch_size,
                include=Path(folder), offline=True,
            )  # fmt: skip
        rows.append(Beside(name, 100.0 * result.values[KEY], direct.get(name), None, task, result.version))
        _keep(result, place / variant / f"{name}.jsonl")
    for name in chosen.evaluation.columns:
        entry = column(name)
        try:
            result = run_task(
                checkpoint, entry.engine.task, entry.engine.keys, None, device=device, batch_size=batch_size
            )
        except LmmsError as error:
            rows.append(Beside(name, None, direct.get(name), str(error), entry.engine.task))
        else:
            value, why = result.values[entry.engine.keys[0]], "its own definition: see the column"
            if len(result.samples) != entry.questions:
                why += f"; {len(result.samples):,} questions, and the column has {entry.questions:,}"
            rows.append(Beside(name, value, None, why, entry.engine.task, result.version))
            _keep(result, place / variant / f"{name}.jsonl")
    document = {"weights": weights_sha256(checkpoint), "columns": [vars(row) for row in rows]}
    write_json(document, place / f"{variant}.json")
    return rows


def _keep(result: TaskResult, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(sample, ensure_ascii=False) for sample in result.samples)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _direct(variant: str, root: Path) -> dict[str, float]:
    """The direct path's numbers, if there are any of this checkpoint."""
    path = root / "results" / variant / "evaluation" / "columns.json"
    if not path.is_file():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    if document["weights"] != weights_sha256(root / "checkpoints" / variant / "stage2"):
        return {}
    return {name: facts["value"] for name, facts in document["columns"].items() if facts["status"] == "VALID"}


def show(rows: list[Beside]) -> None:
    """The table; raises `FusionError` where the two engines disagree or a column failed."""
    for row in rows:
        numbers = [f"{value:.4f}" if value is not None else "-" for value in (row.lmms, row.direct)]
        said = {True: "the same", False: "DIFFERENT", None: (row.reason or "nothing to compare").partition("\n")[0]}
        print(f"{row.name:<16} lmms-eval {numbers[0]:>10}  direct {numbers[1]:>10}  {said[row.agrees]}")
    different = [row.name for row in rows if row.agrees is False]
    failed = [f"{row.name}: {row.reason}" for row in rows if row.lmms is None]
    if different or failed:
        told = [f"the two engines disagree: {', '.join(different)}"] * bool(different) + failed
        raise FusionError("\n".join(told))
