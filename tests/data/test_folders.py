"""Output folders at every point at which a process may be killed: whole or absent, never a new beside an old one."""

import json
import os
import subprocess
import sys
from pathlib import Path

NAMES = ("shards", "index")
FILES = 3
WRITE = """
import json, os, shutil, signal, sys
from pathlib import Path
from fusion.data.store.folders import output_folders

NAMES, FILES = ("shards", "index"), 3
CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}
root = Path(sys.argv[1])

def write(text):
    with output_folders(*(root / name for name in NAMES)) as folders:
        for folder in folders:
            for number in range(FILES):
                (folder / str(number)).write_text(text)

def killed_at(point):
    if (child := os.fork()) == 0:
        seen = 0
        def hook(event, arguments):
            nonlocal seen
            if event in CHANGES or (event == "open" and isinstance(arguments[1], str) and "w" in arguments[1]):
                if seen == point:
                    os.kill(os.getpid(), signal.SIGKILL)
                seen += 1
        sys.addaudithook(hook)
        write("new")
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0

def state(name):
    folder = root / name
    if not folder.is_dir():
        return "absent"
    texts = [path.read_text() for path in sorted(folder.iterdir())]
    return texts[0] if len(texts) == FILES and len(set(texts)) == 1 else "broken"

found, point, more = [], 0, True
while more:
    shutil.rmtree(root)
    root.mkdir()
    if sys.argv[2] == "older":
        write("old")
    more = killed_at(point)
    found.append([state(name) for name in NAMES])
    write("new")
    found.append([state(name) for name in NAMES])
    found.append(sorted(path.name for path in root.iterdir()))
    point += 1
print(json.dumps(found))
"""


def _states(root: Path, start: str) -> list[list[str]]:
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-c", WRITE, str(root), start]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout)


def test_a_kill_leaves_an_output_whole_or_absent(tmp_path: Path):
    for start, usual in (("older", "old"), ("nothing", "absent")):
        found = _states(tmp_path, start)
        after_kill, after_next, names = found[0::3], found[1::3], found[2::3]
        assert len(after_kill) > 2 * len(NAMES) + FILES
        allowed = [[usual, usual], ["absent", usual], ["absent", "absent"], ["new", "absent"], ["new", "new"]]
        assert all(state in allowed for state in after_kill), after_kill
        assert after_kill[0] == [usual, usual] and after_kill[-1] == ["new", "new"]
        # Whatever was left, the next run makes both, and leaves nothing beside them.
        assert all(state == ["new", "new"] for state in after_next)
        assert all(name == sorted(NAMES) for name in names)
