"""A throw-away DVC project of four small stages, with the mechanics of the real one."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

HERE = Path(__file__).parents[2]
SLOWNESS = float(os.environ.get("FUSION_TEST_SLOWNESS", "1"))
"""How many times longer than usual things may take, on a machine that is busy with something else."""

DVC_YAML = """
stages:
  letters:
    matrix:
      which: [a, b]
    cmd: python stage.py letters ${item.which}
    deps: [stage.py]
    params: [repeat]
    outs: ["made/${item.which}.txt"]
    meta: {flow: data}
  join:
    cmd: python stage.py join
    deps: [stage.py, made/a.txt, made/b.txt]
    params: [hardware]
    outs: [made/joined.txt]
    meta: {flow: training, retry_exit_codes: [75]}
  count:
    cmd: python stage.py count
    deps: [stage.py, made/joined.txt]
    outs: [made/count.txt]
    meta: {flow: evaluation}
"""

STAGE_PY = """
import os, subprocess, sys, time
from pathlib import Path

Path("made").mkdir(exist_ok=True)
kind = sys.argv[1]
mode = Path("mode").read_text() if Path("mode").is_file() else os.environ.get("MODE", "")
print(f"working on {kind}", flush=True)
if kind == "letters":
    repeat = int(Path("params.yaml").read_text().split(":")[1].split()[0])
    Path(f"made/{sys.argv[2]}.txt").write_text(sys.argv[2] * repeat)
elif kind == "join":
    if mode == "fail":
        print("error: the letters do not match: write them anew", file=sys.stderr, flush=True)
        print("  (details)", file=sys.stderr, flush=True)
        sys.exit(3)
    if mode == "stop once" and not Path("stopped").exists():
        Path("stopped").touch()
        sys.exit(75)
    if mode == "tell":
        print("secret:", os.environ["SOME_API_TOKEN"], "server:", os.environ.get("FUSION_UI_AUTH"), flush=True)
        for share in (10, 55, 90):
            print(f"join letters: {share}.0%, {share} letters, 5/s, 3 s left", flush=True)
            time.sleep(0.05)
    if mode == "hold":
        Path("holding").touch()
        while not Path("go").exists():
            time.sleep(0.05)
    if mode == "hang":
        bare = {"PATH": os.environ["PATH"]}
        children = [
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True),
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True, env=bare),
        ]
        Path("pids.partial").write_text(" ".join(map(str, [os.getpid(), *(child.pid for child in children)])))
        Path("pids.partial").rename("pids.txt")
        time.sleep(600)
    Path("made/joined.txt").write_text(Path("made/a.txt").read_text()[:1] + Path("made/b.txt").read_text()[:1])
elif kind == "reader":
    Path("reading").touch()
    while not Path("go").exists():
        time.sleep(0.05)
else:
    Path("made/count.txt").write_text(str(len(Path("made/joined.txt").read_text())))
"""


def environment(**more: str) -> dict[str, str]:
    """What a flow or DVC needs in a subprocess."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(HERE), "FUSION_GRACE_SECONDS": "3", **more}


def make_project(root: Path) -> Path:
    """Writes the project into `root`."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "stage.py").write_text(STAGE_PY)
    (root / "params.yaml").write_text("repeat: 2\nhardware: {device: cpu}\n")
    return root


def repro(root: Path) -> None:
    """A plain `dvc repro`."""
    command = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    subprocess.run(command, cwd=root, env=environment(), check=True, capture_output=True)


def wait_for(condition: Callable[[], object], seconds: float = 120.0) -> bool:
    """Whether `condition()` becomes true in time."""
    deadline = time.monotonic() + seconds * SLOWNESS
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def hanging_flow(project: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], list[int]]:
    """A flow whose `join` hangs, and the ids of its stage and of its two children in sessions of their own."""
    command = [sys.executable, "-m", "flows.pipeline", *arguments]
    with (project / "terminal.txt").open("wb") as terminal:
        flow = subprocess.Popen(command, cwd=project, env=environment(MODE="hang"), stdout=terminal, stderr=terminal)
    assert wait_for((project / "pids.txt").is_file), (project / "terminal.txt").read_text()
    pids = [int(word) for word in (project / "pids.txt").read_text().split()]
    assert all(alive(pid) for pid in pids)
    return flow, pids
