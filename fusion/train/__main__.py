"""One rank of a training stage: `python -m fusion.train VARIANT STAGE`, started by a launcher.

A rank that ends before its time has an exit code of its own, see `errors`.
"""

import os
import sys
import time
import traceback

from fusion.errors import FusionError
from fusion.startup import start_quickly

_PAUSE_SECONDS = 3.0
"""A launcher looks once a second and tells the first exit code it sees: a rank that ends because another did waits."""


def run_rank(variant: str, stage: str) -> int:
    """Trains; the exit code."""
    from fusion.train.leaving import leave_note
    from fusion.train.rank import main
    from fusion.train.running import end_with_parent

    end_with_parent()
    try:
        main(variant, stage)
    except FusionError as error:
        print(f"error: rank {os.environ['RANK']}: {error}", file=sys.stderr, flush=True)
        leave_note(error.exit_code)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        sys.stderr.flush()
        time.sleep(_PAUSE_SECONDS if os.environ.get("WORLD_SIZE") != "1" else 0.0)
        return 1
    return 0


if __name__ == "__main__":
    start_quickly()
    # The launcher puts --local_rank in front; the rank itself is in the environment.
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    if "RANK" not in os.environ or len(arguments) != 2:
        sys.exit("error: this is one rank of a stage; start the stage with `fusion train VARIANT STAGE`")
    code = run_rank(*arguments)
    if code:
        os._exit(code)  # other threads and the group may wait for ranks that are gone
