"""Witnesses of what a process touches: the kernel's notices about a tree, and Python's audit events."""

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_EVENT = struct.Struct("iIII")
_TOUCHED = 0x1 | 0x2 | 0x4 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
"""Read, written, changed, opened, moved, made or removed; not merely asked about (stat)."""
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.mkfifo", "os.mknod", "os.remove", "os.rename", "os.rmdir",
    "os.symlink", "os.truncate", "os.utime", "shutil.rmtree",
}  # fmt: skip
_IN_FOLDER = {"os.remove", "os.rmdir"}
"""Their path may be meant from an open folder, whose number comes last."""
_LEAVES = {"os.exec", "os.fork", "os.posix_spawn", "os.system", "pty.spawn", "socket.bind", "socket.connect",
           "subprocess.Popen"}  # fmt: skip


class Kernel:
    """Everything that is touched below a folder, by whatever code and process (inotify)."""

    def __init__(self, folder: Path) -> None:
        library = ctypes.CDLL(None, use_errno=True)
        self._file = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._names: dict[int, Path] = {}
        for path in (folder, *(item for item in folder.rglob("*") if item.is_dir())):
            watch = library.inotify_add_watch(self._file, os.fsencode(path), _TOUCHED)
            if watch < 0:
                raise OSError(ctypes.get_errno(), f"inotify_add_watch {path}")
            self._names[watch] = path

    def seen(self) -> list[str]:
        """What was touched since the last call."""
        found, data = [], b""
        try:
            while True:
                data += os.read(self._file, 1 << 16)
        except BlockingIOError:
            pass
        at = 0
        while at < len(data):
            watch, mask, _, size = _EVENT.unpack_from(data, at)
            name = data[at + _EVENT.size : at + _EVENT.size + size].rstrip(b"\0").decode()
            found.append(f"{self._names[watch] / name} ({mask:#x})")
            at += _EVENT.size + size
        return found


class Audit:
    """What this process does outside the folders that it may write to and read from, while `watching`.

    An audit hook can never be taken out again: use it in a process of its own.
    """

    def __init__(self, written: list[Path], read: list[Path]) -> None:
        self._written = tuple(str(path.resolve()) for path in written)
        self._read = self._written + tuple(str(path.resolve()) for path in read)
        self._on = False
        self.found: list[str] = []
        sys.addaudithook(self._hook)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks at what is done in the block."""
        self._on = True
        try:
            yield
        finally:
            self._on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on:
            return
        self._on = False  # what the hook itself does is not meant
        try:
            if event == "open":
                path, _, flags = arguments
                writes = bool(flags & _WRITES) if isinstance(flags, int) else False
                self._look(event, path, self._written if writes else self._read)
            elif event in _CHANGES:
                folders = [number for number in arguments[1:] if isinstance(number, int) and number >= 0]
                for path in arguments[:2]:
                    if isinstance(path, (str, bytes, os.PathLike)):
                        at = f"/proc/self/fd/{folders[0]}" if event in _IN_FOLDER and folders else ""
                        self._look(event, os.path.join(at, os.fsdecode(path)), self._written)
            elif event in _LEAVES:
                self.found.append(f"{event} {str(arguments)[:200]}")
        finally:
            self._on = True

    def _look(self, event: str, path: Any, allowed: tuple[str, ...]) -> None:
        if isinstance(path, int):
            return  # an open file; it was looked at when it was opened
        real = os.path.realpath(os.fsdecode(path))
        if not any(real == place or real.startswith(f"{place}/") for place in allowed):
            self.found.append(f"{event} {real}")
