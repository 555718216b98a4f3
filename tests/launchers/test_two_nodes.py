"""Two nodes on loopback, a rank each, started in every way: the weights are those of two ranks on one node, bit by bit.

SLURM is a real one where it is installed, and a stand-in (`scheduler.py`) everywhere.
"""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fusion.hashing import file_sha256
from tests.e2e.project import Project, copy_project
from tests.launchers import slurm_cluster
from tests.launchers.scheduler import install

pytestmark = pytest.mark.long

WEIGHTS = Path("checkpoints/micro/stage1/model.safetensors")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """micro, ready for stage 1, on nodes of one rank."""
    made = copy_project(tmp_path_factory.mktemp("nodes") / "project", "micro")
    made.repro("base@micro", "validate@micro-stage1")
    made.set("launch.ranks_per_node", 1)
    made.set("launch.hosts", ["127.0.0.1", "127.0.0.1"])
    return made


@pytest.fixture(scope="module")
def on_one_node(project: Project) -> str:
    """The weights of two ranks that the default launcher starts."""
    return trained(project, [["--launcher", "local"]])


def trained(project: Project, nodes: list[list[str]], **environment: str) -> str:
    """Trains stage 1 with one command a node, at the same time; sha256 of the weights."""
    for folder in ("checkpoints/micro/stage1", "results/micro/stage1", "scratch/train"):
        shutil.rmtree(project.root / folder, ignore_errors=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        project.set("launch.port", probe.getsockname()[1])
    variables = {**os.environ, "PYTHONPATH": str(project.root), **environment}
    variables["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{variables['PATH']}"
    commands = [["fusion", "train", "micro", "stage1", *options] for options in nodes]
    running = [
        subprocess.Popen(
            command, cwd=project.root, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for command in commands
    ]
    told = [process.communicate(timeout=400)[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(told)
    return file_sha256(project.root / WEIGHTS)


@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_nodes_train_the_same_weights(project: Project, on_one_node: str, launcher: str) -> None:
    nodes = [["--launcher", launcher, "--node-rank", str(number)] for number in range(2)]
    assert trained(project, nodes) == on_one_node


def test_a_job_of_the_stand_in_trains_the_same_weights(project: Project, on_one_node: str, tmp_path: Path) -> None:
    found = trained(project, [["--launcher", "slurm"]], **install(tmp_path / "slurm"))
    assert found == on_one_node
    assert (project.root / "runs/launch/fusion-micro-stage1.sh").is_file()


@pytest.mark.skipif(slurm_cluster.missing() is not None, reason=f"a real SLURM is needed: {slurm_cluster.missing()}")
def test_a_slurm_job_trains_the_same_weights(project: Project, on_one_node: str, tmp_path: Path) -> None:
    with slurm_cluster.running(tmp_path / "slurm") as environment:
        assert trained(project, [["--launcher", "slurm"]], **environment) == on_one_node


def test_a_job_that_fails_fails_the_stage(project: Project, on_one_node: str, tmp_path: Path) -> None:
    project.set("launch.setup", ["exit 3"])
    result = project.run(
        "fusion", "train", "micro", "stage1", "--launcher", "slurm", check=False, **install(tmp_path / "slurm")
    )
    project.set("launch.setup", [])
    assert result.returncode == 1 and "ended with exit code 3" in result.stderr
