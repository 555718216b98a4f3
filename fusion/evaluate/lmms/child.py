"""One task of lmms-eval in a process of its own: `python -m fusion.evaluate.lmms.child REQUEST ANSWER`.

Called from Python, because the command line of lmms-eval exits with 0 whatever happened. What is written is written
once, at the end; a process that dies leaves nothing that could be taken for a result.
"""

import json
import sys
from argparse import Namespace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fusion.files import write_json
from fusion.quiet import quiet_libraries


def main() -> None:
    """Runs the request in file `argv[1]`; writes results and samples to `argv[2]`."""
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    quiet_libraries()
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from fusion.evaluate.lmms.model import FusionLmms

    include = request["include"]
    # A folder of tasks stands alone: the thousands of files of the package's own tasks need not be read.
    manager = TaskManager("ERROR", include_path=include, include_defaults=include is None, model_name="fusion")
    if request["task"] not in manager.all_tasks:
        raise SystemExit(f"lmms-eval has no task `{request['task']}`")
    model = FusionLmms(request["checkpoint"], device=request["device"], batch_size=request["batch_size"])
    arguments = Namespace(output_path=request["folder"], process_with_media=False, reasoning_tags=None)
    results = simple_evaluate(
        model=model,
        tasks=[request["task"]],
        task_manager=manager,
        batch_size=request["batch_size"],
        device=request["device"],
        use_cache=None,
        cache_requests=False,
        log_samples=True,
        bootstrap_iters=0,
        limit=request["limit"],
        cli_args=arguments,
        verbosity="ERROR",
        process_docs_parallel=1,
    )
    if results is None:
        raise SystemExit("lmms-eval gave no results")
    task = request["task"]
    document = {
        "results": {key: value for key, value in results["results"][task].items() if isinstance(value, int | float)},
        "samples": [_sample(sample) for sample in results["samples"][task]],
        # What it calls its version is the git commit of whatever folder it lies in.
        "version": version("lmms-eval"),
    }
    write_json(document, Path(sys.argv[2]))


def _sample(sample: dict[str, Any]) -> dict[str, Any]:
    arguments = sample["arguments"]
    answers = sample["resps"][0]
    return {
        "id": sample["doc_id"],
        "question": str(arguments[0][0] if arguments and isinstance(arguments[0], list | tuple) else arguments[0]),
        "answer": str(answers[0] if isinstance(answers, list) else answers),
        "target": str(sample["target"]),
    }


if __name__ == "__main__":
    main()
