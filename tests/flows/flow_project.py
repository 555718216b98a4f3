"""A throw-away DVC project of four small stages."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[2]

DVC_YAML = """
stages:
  letters:
    matrix:
      which: [a, b]
    cmd: python stage.py letters ${item.which}
    deps: [stage.py]
    params: [repeat]
    outs: ["made/${item.which}.txt"]
  join:
    cmd: python stage.py join
    deps: [stage.py, made/a.txt, made/b.txt]
    outs: [made/joined.txt]
  count:
    cmd: python stage.py count
    deps: [stage.py, made/joined.txt]
    outs: [made/count.txt]
"""

STAGE_PY = """
import os, subprocess, sys, time
from pathlib import Path

Path("made").mkdir(exist_ok=True)
kind = sys.argv[1]
mode = os.environ.get("MODE", "")
print(f"working on {kind}", flush=True)
if kind == "letters":
    repeat = int(Path("params.yaml").read_text().split(":")[1])
    Path(f"made/{sys.argv[2]}.txt").write_text(sys.argv[2] * repeat)
elif kind == "join":
    if mode == "fail":
        print("error: the letters do not match: write them anew", file=sys.stderr, flush=True)
        print("  (details)", file=sys.stderr, flush=True)
        sys.exit(3)
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
else:
    Path("made/count.txt").write_text(str(len(Path("made/joined.txt").read_text())))
"""


def environment(**more: str) -> dict[str, str]:
    """What a flow or DVC needs in a subprocess."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(HERE), **more}


def make_project(root: Path) -> Path:
    """Writes the project into `root`."""
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc/config").write_text("[core]\n    analytics = false\n    no_scm = true\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "stage.py").write_text(STAGE_PY)
    (root / "params.yaml").write_text("repeat: 2\n")
    return root


def repro(root: Path) -> None:
    """A plain `dvc repro`."""
    command = [sys.executable, "-m", "dvc", "repro", "--quiet"]
    subprocess.run(command, cwd=root, env=environment(), check=True, capture_output=True)
