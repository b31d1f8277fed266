"""Ctrl-C while the command is still being imported: one line, no traceback. Other programs are let be.

It imports next to nothing: until it is through, there is a traceback.
"""

import os
import signal
import sys
from types import FrameType


def stopped(number: int, frame: FrameType | None) -> None:
    """Say so and leave: nothing has been begun yet."""
    os.write(2, b"Stopped.\n")
    os._exit(128 + number)


_program = os.path.basename(sys.argv[0]) if sys.argv else ""
_module = _program == "-m" and "-m tinydiff" in " ".join(sys.orig_argv)
_ignored = signal.getsignal(signal.SIGINT) is not signal.default_int_handler
if (_module or _program in ("tinydiff", "tinydiff.exe")) and not _ignored:
    signal.signal(signal.SIGINT, stopped)
