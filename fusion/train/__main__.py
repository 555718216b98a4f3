"""One rank of a training stage: `python -m fusion.train VARIANT STAGE`, started by DeepSpeed's launcher."""

import os
import sys

from fusion.startup import start_quickly

if __name__ == "__main__":
    start_quickly()
    from fusion.train.rank import main

    # The launcher puts --local_rank in front; the rank itself is in the environment.
    arguments = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    if "RANK" not in os.environ or len(arguments) != 2:
        sys.exit("error: this is one rank of a stage; start the stage with `fusion train VARIANT STAGE`")
    main(*arguments)
