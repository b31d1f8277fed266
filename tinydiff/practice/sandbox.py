"""Check a sheet in a process of its own, which can be ended: an answer that never returns costs a few seconds."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from .question import Verdict

SECONDS = 20.0
"""For one question; the first also waits for Python to start."""


def check_file(path: Path, seconds: float = SECONDS) -> Iterator[tuple[str, Verdict]]:
    """The verdict on every question of a sheet, in order; ("", verdict) if it cannot be read.

    FileNotFoundError or ValueError for a path that is no sheet.
    """
    path = Path(path).resolve()
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there; write a sheet with: tinydiff practice sheet 1")
    if path.suffix != ".py":
        raise ValueError(f"{path.name} is no sheet; expected a Python file, whose name ends in .py")
    over: list[str] = []
    going = True
    while going:
        going = False
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            for name, verdict, ended in _run(path, over, seconds, scratch):
                yield name, verdict
                over.append(name)
                going = ended and name != ""  # the rest in a new process


def _run(path: Path, over: list[str], seconds: float, scratch: str) -> Iterator[tuple[str, Verdict, bool]]:
    """Verdicts, and whether this one ended the process."""
    command = [sys.executable, "-m", "tinydiff.practice.worker", str(path), *over]
    quiet = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg", "TINYDIFF_SCRATCH": scratch}
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        encoding="utf-8", env=os.environ | quiet, start_new_session=True,
    )  # fmt: skip
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read, args=(process, lines), daemon=True).start()
    current = ""
    try:
        while True:
            try:
                line = lines.get(timeout=seconds)
            except queue.Empty:
                yield current, Verdict("late", f"It has not ended after {seconds:g} seconds, and was stopped."), True
                return
            if not line:
                if process.wait() != 0 or current:
                    says = f"It ended Python (exit code {process.returncode}); return the result instead."
                    yield current, Verdict("raises", says), True
                return
            name, kind, says, printed = json.loads(line)
            if name.startswith("?"):
                current = name[1:]
                continue
            current = ""
            yield name, Verdict(kind, says, printed), False
    finally:
        _end(process)


def _read(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")


def _end(process: subprocess.Popen[str]) -> None:
    """The process, and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if os.name == "posix":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
