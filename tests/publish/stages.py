"""The stages of the small finished runs, as dvc.yaml has them: data sets, training, evaluation, package of `tiny`."""

from collections.abc import Sequence
from typing import Any

import yaml

DATASETS = {"stage1": "tiny-stage1", "stage1_5": "tiny-stage1_5", "stage2": "tiny-stage2"}


def dvc_yaml(trained: Sequence[str], code: Sequence[str] = (), adopted: str | None = None) -> str:
    """The text of dvc.yaml.

    Args:
        trained: the stages of training that have a run of their own, in order; each reads the data of those before it
            that have none.
        code: files that curation depends on.
        adopted: the stage whose checkpoint was adopted; what comes up to it is read by nothing.
    """

    def stage_of(command: str, deps: list[str], out: str) -> dict[str, Any]:
        return {"matrix": {"variant": ["tiny"]}, "cmd": command, "deps": list(deps), "outs": [out]}

    stages: dict[str, Any] = {
        "curate": {
            "matrix": {"dataset": list(DATASETS.values())}, "cmd": "fusion curate ${item.dataset}",
            "deps": list(code), "outs": ["data/manifests/${item.dataset}"],
        }
    }  # fmt: skip
    deps: list[str] = []
    for stage, dataset in DATASETS.items():
        if adopted is not None and stage <= adopted:
            deps = [f"checkpoints/${{item.variant}}/{stage}"]
            continue
        deps.append(f"data/manifests/{dataset}")
        if stage in trained:
            checkpoint = f"checkpoints/${{item.variant}}/{stage}"
            stages[f"train_{stage}"] = stage_of(f"fusion train ${{item.variant}} {stage}", deps, checkpoint)
            deps = [checkpoint]
    evaluation = "results/${item.variant}/evaluation"
    stages["evaluate"] = stage_of("fusion evaluate ${item.variant}", deps, evaluation)
    read = [*deps, evaluation, "data/manifests/tiny-stage2"]
    stages["package"] = stage_of("fusion package ${item.variant}", read, "packages/${item.variant}")
    return yaml.safe_dump({"stages": stages}, sort_keys=False)
