"""DeepSpeed's extensions, compiled at their first use, and the locks that a compilation leaves when it is ended.

torch keeps an empty file `lock` in an extension's folder while one process compiles it, and every other one waits for
as long as the file is there: for ever, when the first one was killed. The file names no process, but its maker has it
open.
"""

import contextlib
import errno
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import deepspeed
import psutil
from deepspeed.accelerator import get_accelerator

LOCK = "lock"
_OURS = "fusion.lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that knows no locks."""
_LOOK_SECONDS = 0.5


def compile_communication() -> None:
    """Compiles and loads DeepSpeed's communication of ranks on a CPU; one process of a folder at a time.

    Locks that nobody holds are removed before. It is a kernel's lock that keeps ranks apart here, which ends with them.
    """
    folder = os.environ.get("TORCH_EXTENSIONS_DIR")
    if folder is None:  # a folder of torch's own choice, which other programs use as well
        return
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root):
        clear_locks(root)
        if get_accelerator().device_name() == "cpu":
            builder = get_accelerator().create_op_builder("ShareMemCommBuilder")
            if builder is not None and deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
                builder.load(verbose=False)


def clear_locks(root: Path) -> None:
    """Removes the locks of compilations that have ended, in all extensions' folders of `root`; says so on stderr.

    Where one is going on it is waited for: also the compiler alone, which goes on after its maker was killed, and would
    write the same files as the next one.
    """
    for lock in sorted(root.glob(f"*/{LOCK}")):
        made, told = _inode(lock), False
        quiet = 0
        while made is not None and _inode(lock) == made:
            foreign = _owner(lock) not in (None, os.getuid()) and os.getuid() != 0
            if foreign and not told:
                told = True
                _tell(f"waits for {lock}, of another user: if nobody compiles, remove that file")
            # Twice: who is done closes the file first, and removes it then.
            quiet = 0 if foreign or _in_use(lock) else quiet + 1
            if quiet == 2:
                lock.unlink(missing_ok=True)
                _tell(f"a compilation was ended before its time and left {lock}; it is removed")
                break
            time.sleep(_LOOK_SECONDS)


def _in_use(lock: Path) -> bool:
    """Whether a process of this machine has the lock open, or works in its folder, as ninja and the compiler do."""
    path, folder = str(lock.resolve()), str(lock.parent.resolve())
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # gone meanwhile, or another user's
            if process.cwd() == folder or any(file.path == path for file in process.open_files()):
                return True
    return False


def _inode(path: Path) -> tuple[int, int] | None:
    with contextlib.suppress(FileNotFoundError):
        found = path.stat()
        return found.st_ino, found.st_mtime_ns
    return None


def _owner(path: Path) -> int | None:
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_uid
    return None


@contextlib.contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Held by one process at a time, on all machines that share the folder, if its file system can."""
    with (root / _OURS).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def _tell(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
