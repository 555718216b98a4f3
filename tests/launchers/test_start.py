"""What launchers run is printed exactly, scripts follow from the settings, and what cannot be started says why."""

import base64
import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fusion.cli import app
from fusion.launch_settings import Launch
from fusion.launchers.errors import LaunchError
from fusion.launchers.nodes import Nodes
from fusion.launchers.scripts import kubernetes_job, slurm_script
from fusion.launchers.slurm import submit
from fusion.launchers.start import node_command, printed, starter
from fusion.settings import load_settings
from tests.train.test_recipe import recipe

ROOT = Path(__file__).parents[2]
LAUNCH = load_settings(ROOT / "params.yaml").launch
HOSTS = [f"gpu-{number}" for number in range(4)]


def launch(**changes: Any) -> Launch:
    return LAUNCH.model_copy(update=changes)


def test_the_published_ranks_are_four_nodes_of_eight() -> None:
    published = recipe(ROOT, "fusion-phi35-3b", "stage1")
    assert Nodes.of(published, LAUNCH) == Nodes(4, 8)
    assert Nodes.of(published, launch(ranks_per_node=4)) == Nodes(8, 4)
    assert Nodes.of(recipe(ROOT, "tiny", "stage1"), LAUNCH) == Nodes(1, 2)
    with pytest.raises(LaunchError, match="32 ranks do not fill nodes"):
        Nodes.of(published, launch(ranks_per_node=5))


def test_torchrun_is_printed_for_every_node() -> None:
    text = printed(recipe(ROOT, "fusion-phi35-3b", "stage1_5"), launch(hosts=HOSTS, port=29600), "torchrun")
    commands = [shlex.split(line) for line in text.splitlines() if not line.startswith("#")]
    assert len(commands) == 4
    for number, words in enumerate(commands):
        assert {f"--node-rank={number}", "--nnodes=4", "--nproc-per-node=8", "--master-addr=gpu-0"} <= set(words)
        assert "--master-port=29600" in words and "OMP_NUM_THREADS=8" in words and "DS_ACCELERATOR=cuda" in words
        assert words[-4:] == ["-m", "fusion.train", "fusion-phi35-3b", "stage1_5"]


def test_deepspeeds_launcher_uses_the_gpus_that_were_chosen_for_the_node() -> None:
    published = recipe(ROOT, "fusion-phi35-3b", "stage1")
    chosen = launch(hosts=HOSTS, environment={"CUDA_VISIBLE_DEVICES": "8,9,10,11,12,13,14,15"})
    told = node_command(published, chosen, "deepspeed", 1)[3].removeprefix("--world_info=")
    world = json.loads(base64.urlsafe_b64decode(told))
    assert world["gpu-1"] == ["8", "9", "10", "11", "12", "13", "14", "15"] and len(world) == 4


def test_slurm_script_has_what_the_settings_say(tmp_path: Path) -> None:
    slurm = LAUNCH.slurm.model_copy(
        update={"partition": "gpu", "account": "vision", "time": "12:00:00", "directives": ["--exclusive"]}
    )
    given = launch(slurm=slurm, setup=["module load cuda"], environment={"NCCL_SOCKET_IFNAME": "ib0 'x'"})
    text = slurm_script(recipe(ROOT, "fusion-llama31-8b", "stage2"), given)
    directives = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]
    wanted = {
        "--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--cpus-per-task=64", "--time=12:00:00",
        "--partition=gpu", "--account=vision", "--exclusive", "--requeue", "--signal=TERM@300",
    }  # fmt: skip
    assert wanted <= set(directives)
    assert text.index("module load cuda") < text.index("srun")
    assert "export NCCL_SOCKET_IFNAME='ib0 '\"'\"'x'\"'\"''" in text
    script = tmp_path / "job.sh"
    script.write_text(text, encoding="utf-8")
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert "partition" not in slurm_script(recipe(ROOT, "tiny", "stage1"), LAUNCH)
    assert "gpus" not in slurm_script(recipe(ROOT, "tiny", "stage1"), LAUNCH)


def test_kubernetes_job_has_a_pod_a_node() -> None:
    given = launch(environment={"NCCL_DEBUG": 'INFO: "x"'}, setup=["ulimit -l unlimited"])
    service, job = yaml.safe_load_all(kubernetes_job(recipe(ROOT, "fusion-x-phi35-3b", "stage1_5"), given))
    assert service["spec"]["clusterIP"] == "None" and service["kind"] == "Service"
    spec = job["spec"]
    assert spec["completions"] == spec["parallelism"] == 4 and spec["completionMode"] == "Indexed"
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    variables = {entry["name"]: entry["value"] for entry in container["env"]}
    # The first pod's name, by which the service is asked for its address.
    assert variables["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{service['metadata']['name']}"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert variables["NCCL_DEBUG"] == 'INFO: "x"'
    (script,) = container["args"]
    assert "--node-rank $JOB_COMPLETION_INDEX" in script and "ulimit -l unlimited" in script
    assert len(job["metadata"]["name"]) < 60 and "_" not in job["metadata"]["name"]


def test_local_is_todays_way_and_the_default() -> None:
    tiny = recipe(ROOT, "tiny", "stage1")
    assert starter(LAUNCH, None, None).here(tiny) == tiny.hardware.ranks
    assert "deepspeed.launcher.launch" in printed(recipe(ROOT, "tiny", "stage1"), LAUNCH, None)


def test_the_command_line_prints_and_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = ["train", "tiny", "stage1", "--launcher", "print"]
    result = CliRunner().invoke(app, [*arguments, "--as", "slurm"], catch_exceptions=False)
    assert result.exit_code == 0 and result.stdout.startswith("#!/bin/bash\n")
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert "fusion.train tiny stage1" in result.stdout


def test_what_cannot_be_started_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    published, tiny = recipe(ROOT, "fusion-phi35-3b", "stage1"), recipe(tmp_path, "tiny", "stage1")
    with pytest.raises(LaunchError, match="names 2 nodes, 4 are needed"):
        printed(published, launch(hosts=HOSTS[:2]), "deepspeed")
    with pytest.raises(LaunchError, match="no launcher `slrum`; did you mean `slurm`"):
        starter(LAUNCH, "slrum", None)
    with pytest.raises(LaunchError, match="--as: there is no `k8s`"):
        printed(tiny, LAUNCH, "k8s")
    with pytest.raises(LaunchError, match="--node-rank: the launcher slurm starts all nodes"):
        starter(LAUNCH, "slurm", 1)
    with pytest.raises(LaunchError, match="--node-rank 4: fusion-phi35-3b has 4 nodes, 0 to 3"):
        node_command(published, launch(hosts=HOSTS), "torchrun", 4)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LaunchError, match="sbatch is not on PATH"):
        submit(tiny, LAUNCH)
