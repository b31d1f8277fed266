"""One training in a folder at a time: a lock file that names its holder and is let go when the holder dies.

The file is held with the system's own lock, which ends with the process however it ends, on network drives that have
locks too. Where there are none, its holder counts as alive while a process of that number is, or on another computer
until somebody deletes the file.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .files import CheckpointError, cannot_write, patiently

NAME = "training.lock"
FLAGS = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
FAR = 1 << 30
"""Windows keeps others from reading what is locked: lock a byte far behind the content."""

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    try:
        import fcntl
    except ImportError:  # Python in a browser

        def _lock(descriptor: int) -> None:
            raise OSError(errno.ENOSYS, "no locks")
    else:

        def _lock(descriptor: int) -> None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; CheckpointError, naming the holder, if another training does."""
    path = folder / NAME
    descriptor = _take(path)
    try:
        yield
    finally:
        ours = _same(descriptor, path)
        if sys.platform == "win32":
            os.close(descriptor)  # before: what is open cannot be deleted there
        with suppress(OSError):
            if ours:
                path.unlink()
        if sys.platform != "win32":
            os.close(descriptor)  # after: nobody is to take a file that is about to go


def _take(path: Path) -> int:
    """The descriptor of the lock file, held and with our name in it."""
    while True:
        descriptor = -1
        try:
            try:
                descriptor = patiently(lambda: os.open(path, FLAGS | os.O_CREAT | os.O_EXCL, 0o666))
            except FileExistsError:
                with suppress(FileNotFoundError):  # its holder has just let go
                    descriptor = patiently(lambda: os.open(path, FLAGS))
            if descriptor >= 0 and _held(descriptor, path):
                os.ftruncate(descriptor, 0)
                os.lseek(descriptor, 0, os.SEEK_SET)
                ours = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
                os.write(descriptor, json.dumps(ours).encode())
                return descriptor
        except BaseException as error:
            if descriptor >= 0:
                os.close(descriptor)
            if isinstance(error, OSError):
                raise cannot_write(path, error) from None
            raise
        if descriptor >= 0:
            os.close(descriptor)


def _held(descriptor: int, path: Path) -> bool:
    """Lock the file: False if it was deleted meanwhile, CheckpointError if another holds it or it is no lock."""
    holder = _holder(descriptor)
    if holder is None:
        raise CheckpointError(f"{path} is not the lock of a training; delete it or choose another folder")
    try:
        _lock(descriptor)
    except (BlockingIOError, PermissionError):
        raise _taken(path, _holder(descriptor)) from None
    except OSError:  # no locks on this file system: go by the name in the file
        if holder and (holder["host"] != socket.gethostname() or alive(holder["pid"])):
            raise _taken(path, holder) from None
    return _same(descriptor, path)


def _taken(path: Path, holder: dict[str, Any] | None) -> CheckpointError:
    who = f"process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else "another process"
    return CheckpointError(
        f"{path.parent} is being trained by {who}; wait for it or stop it (if it is gone for certain, delete {path})"
    )


def _holder(descriptor: int) -> dict[str, Any] | None:
    """What the file says about its holder; empty if it was not written to its end, None if it is another file."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    content = os.read(descriptor, 4096)
    try:
        holder = json.loads(content or b"{}")
    except ValueError:
        return {} if content[:6] == b'{"pid"'[: len(content)] else None
    if not isinstance(holder, dict) or holder.keys() not in ({"pid", "host", "since"}, set()):
        return None
    return holder if isinstance(holder.get("pid", 0), int) else None


def alive(pid: int) -> bool:
    if sys.platform == "win32" or pid == os.getpid():
        return True  # Windows has locks; os.kill would end the process there
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    with suppress(OSError):  # dead, and its parent has not asked yet
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] != "Z"
    return True


def _same(descriptor: int, path: Path) -> bool:
    """Whether the file behind the descriptor is still the one under its name."""
    try:
        ours, there = os.fstat(descriptor), os.lstat(path)
    except OSError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
