"""While an answer runs: it may compute, and read, and nothing else. No wall, but a rail: it keeps from accidents.

What would delete or write files outside a scratch folder, start programs or use the network is refused. What it prints
is kept, as far as it is short. It is not waited for longer than a limit, nobody answers when it asks for input.
"""

from __future__ import annotations

import builtins
import contextlib
import ctypes
import io
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

PRINTED = 400  # characters that are kept
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
REFUSED = {
    "os.remove": "delete", "os.rmdir": "delete", "shutil.rmtree": "delete", "os.truncate": "empty",
    "os.rename": "rename",
    "os.chmod": "change", "os.symlink": "link", "os.link": "link", "os.mkdir": "make", "shutil.move": "move",
    "shutil.copyfile": "copy",
}  # fmt: skip
PROGRAMS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
)
NETWORK = ("socket.connect", "socket.bind", "socket.getaddrinfo", "webbrowser.open")

SCRATCH = os.environ.get("TINYDIFF_SCRATCH", "")
"""The folder in which an answer may do what it likes; none in a notebook."""

_watching: ContextVar[bool] = ContextVar("watching", default=False)
_everywhere = {"on": False}
_installed = threading.Event()


class Forbidden(PermissionError):
    """Something that an answer may not do."""


class TooLong(BaseException):
    """An answer that takes longer than the limit."""


class Printed(io.TextIOBase):
    """Keeps the beginning of what is printed."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        """Drop what is too much."""
        self.text += text[: max(PRINTED - len(self.text), 0)]
        return len(text)

    def writable(self) -> bool:
        """It is."""
        return True


@contextlib.contextmanager
def watched(everywhere: bool = False) -> Iterator[Printed]:
    """Within it the rail holds, in this thread or in all; what is printed is kept."""
    if not _installed.is_set():
        _installed.set()
        sys.addaudithook(_audit)
    printed = Printed()
    asks, before = builtins.input, sys.stdin
    token = _watching.set(True)
    _everywhere.update(on=everywhere)
    try:
        builtins.input = _no_input
        sys.stdin = io.StringIO()
        with (
            contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings()
        ):  # fmt: skip
            warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, about log 0: whether it hurts, the verdict says
            yield printed
    finally:
        _watching.reset(token)
        _everywhere.update(on=False)
        builtins.input, sys.stdin = asks, before


def _no_input(*_: Any) -> NoReturn:
    raise EOFError("nobody is there to answer")


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not (_watching.get() or _everywhere["on"]):
        return
    if event == "open":
        path, mode, flags = arguments
        writes = any(c in str(mode or "") for c in "wax+") or bool((flags or 0) & WRITES)
        if writes and not _harmless(path):
            raise Forbidden(f"It tries to write {_named(path)}, which a check does not let it do")
    elif event in REFUSED:
        if not _harmless(arguments[0]):
            raise Forbidden(f"It tries to {REFUSED[event]} {_named(arguments[0])}, which a check does not let it do")
    elif event in PROGRAMS:
        raise Forbidden("It tries to start a program, which a check does not let it do")
    elif event in NETWORK:
        raise Forbidden("It tries to use the network, which a check does not let it do")


def _harmless(path: Any) -> bool:
    """In the scratch folder, the null device, and files that are open already."""
    if isinstance(path, int):
        return True
    with contextlib.suppress(OSError, ValueError, TypeError):
        whole = Path(os.fsdecode(path)).resolve()
        return whole == Path(os.devnull).resolve() or (SCRATCH != "" and Path(SCRATCH).resolve() in whole.parents)
    return False


def _named(path: Any) -> str:
    try:
        return os.path.basename(os.fsdecode(path))[:60]
    except TypeError:
        return "a file"


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise `TooLong` in this thread, wherever its Python code is, when the time is over."""
    thread, over = threading.get_ident(), threading.Lock()
    done = False

    def strike() -> None:
        with over:
            if not done:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(TooLong))

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        with over:
            done = True
        timer.cancel()
