"""Ctrl-C while the command is still being imported: one line, no traceback. Other programs are let be.

Until it is through there is a traceback, so it imports next to nothing: `_signal` is what `signal` wraps in enums.
"""

import _signal  # type: ignore[import-not-found]
import os
import sys
from types import FrameType


def stopped(number: int, frame: FrameType | None) -> None:
    """Say so and leave: nothing has been begun yet."""
    os.write(2, b"Stopped.\n")
    os._exit(128 + number)


_program = os.path.basename(sys.argv[0]) if sys.argv else ""
_module = _program == "-m" and "-m tinydiff" in " ".join(sys.orig_argv)
_ignored = _signal.getsignal(_signal.SIGINT) is not _signal.default_int_handler
if (_module or _program in ("tinydiff", "tinydiff.exe")) and not _ignored:
    _signal.signal(_signal.SIGINT, stopped)
