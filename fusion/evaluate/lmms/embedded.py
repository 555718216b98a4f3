"""An embedded benchmark as a task of lmms-eval, from local files: the same questions, pictures and scores.

The task's YAML file points at functions of this module, so that there is one definition of right and wrong.
"""

from pathlib import Path
from typing import Any

import polars as pl
import yaml

from fusion.evaluate.asking import MAX_NEW_TOKENS
from fusion.evaluate.benchmark import Benchmark
from fusion.evaluate.score import is_correct

KEY = "fusion_exact"
_UTILS = "from fusion.evaluate.lmms.embedded import doc_to_text, doc_to_visual, process_results\n"


def write_task(benchmark: Benchmark, folder: Path) -> str:
    """Writes rows, functions and YAML file of a task into `folder`; returns the task's name."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"fusion_{benchmark.name.replace('-', '_')}"
    rows = benchmark.questions.select("question_id", "question", "answer").with_columns(
        pl.Series("picture", benchmark.pictures(), dtype=pl.Binary)
    )
    rows.write_parquet(folder / f"{name}.parquet")
    (folder / "utils.py").write_text(_UTILS, encoding="utf-8")
    document = {
        "task": name,
        "dataset_path": "parquet",
        "dataset_kwargs": {"data_files": {"test": str((folder / f"{name}.parquet").resolve())}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_new_tokens": MAX_NEW_TOKENS, "do_sample": False, "temperature": 0, "num_beams": 1},
        "metric_list": [{"metric": KEY, "aggregation": "mean", "higher_is_better": True}],
        "metadata": [{"version": 1.0}],
    }
    functions = "".join(
        f"{key}: !function utils.{key}\n" for key in ("doc_to_text", "doc_to_visual", "process_results")
    )
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False) + functions, encoding="utf-8")
    return name


def doc_to_text(doc: dict[str, Any], lmms_eval_specific_kwargs: Any = None) -> str:
    """The question as it is."""
    return str(doc["question"])


def doc_to_visual(doc: dict[str, Any]) -> list[Any]:
    """Its picture, read from the encoded bytes."""
    import io

    from PIL import Image

    return [Image.open(io.BytesIO(doc["picture"]))]


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Right or wrong, as everywhere here."""
    return {KEY: float(is_correct(results[0], doc["answer"]))}
