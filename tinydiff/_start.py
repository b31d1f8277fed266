"""Ctrl-C while the command is still being imported: one line, no traceback. Other programs are let be."""

import os
import signal
import sys
from pathlib import Path
from types import FrameType


def stopped(number: int, frame: FrameType | None) -> None:
    """Say so and leave: nothing has been begun yet."""
    os.write(2, b"Stopped.\n")
    os._exit(128 + number)


_program = sys.argv[0] if sys.argv else ""
_command = "-m tinydiff" in " ".join(sys.orig_argv) if _program == "-m" else Path(_program).stem == "tinydiff"
if _command and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, stopped)
