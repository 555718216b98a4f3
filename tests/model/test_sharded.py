"""ZeRO 2 and 3 on two real processes, one of which has no picture at all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long


@pytest.mark.parametrize(("stage", "checkpointing"), [(2, False), (3, False), (3, True)])
def test_a_sharded_step_equals_the_whole_models(stage: int, checkpointing: bool, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = Path(__file__).with_name("sharded_rank.py")
    ranks = []
    for rank in range(2):
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = os.environ | {name: str(value) for name, value in world.items()} | {"DS_ACCELERATOR": "cpu"}
        # DeepSpeed builds its communication with the tools of this environment.
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
        command = [sys.executable, str(program), str(stage), str(int(checkpointing)), str(tmp_path)]
        ranks.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL))
    errors = [process.communicate(timeout=300)[1].decode()[-3000:] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], "\n".join(errors)
    for rank in range(2):
        result = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result["losses"][0] == pytest.approx(result["expected"], rel=1e-5)
        assert result["losses"][2] < result["losses"][0]
