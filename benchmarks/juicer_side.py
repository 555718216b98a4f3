"""Data-Juicer's side of benchmarks/curate_juicer.py, run by the Python of its own environment.

Imports nothing of fusion.

    ENVIRONMENT/bin/python benchmarks/juicer_side.py CONFIGURATION.json SECONDS.json

Writes down the seconds from its configuration to its written result; what it prints goes to its log.
"""

import json
import sys
import time
from pathlib import Path


def main() -> None:
    from data_juicer.utils.lazy_loader import LazyLoader

    def refuse(package: str, *arguments: object) -> None:
        raise ImportError(f"{package} is missing in this environment; nothing is installed while time is taken")

    LazyLoader._install_package = staticmethod(refuse)
    from data_juicer.config import init_configs
    from data_juicer.core import DefaultExecutor

    arguments = ["--config", str(Path(sys.argv[1]).resolve())]
    start = time.perf_counter()
    DefaultExecutor(init_configs(arguments)).run()
    Path(sys.argv[2]).write_text(json.dumps(time.perf_counter() - start), encoding="utf-8")


if __name__ == "__main__":
    main()
