"""The end of a stage: the weights that it leaves, and what a device has to hold for that."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path


def test_under_zero_3_one_tensor_is_gathered_at_a_time_and_the_bytes_are_those_of_the_whole(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "DS_ACCELERATOR": "cpu"}
    shared |= {"TORCHDYNAMO_DISABLE": 1, "OMP_NUM_THREADS": 1}
    shared["TORCH_EXTENSIONS_DIR"] = Path(sys.prefix) / "torch_extensions"
    shared["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    command = [sys.executable, str(Path(__file__).with_name("finish_rank.py")), str(tmp_path)]
    ranks = [
        subprocess.Popen(
            command,
            env=os.environ | {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=400)[1] for rank in ranks]
    assert not any(rank.returncode for rank in ranks), told
    parts, whole = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("parts", "whole")
    )
    assert parts == whole and "model.safetensors" in parts
    largest, most = (tmp_path / "largest.txt").read_text(encoding="utf-8").split()
    assert largest == most, "no more than the largest tensor"
