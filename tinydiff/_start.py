"""Ctrl-C, or a variable that means nothing, while the command is still being imported: one line, no traceback.

Other programs are let be.

Until it is through there is a traceback, so it imports next to nothing: `_signal` is what `signal` wraps in enums.
"""

import _signal  # type: ignore[import-not-found]
import os
import sys
from types import FrameType, TracebackType


def stopped(number: int, frame: FrameType | None) -> None:
    """Say so and leave: nothing has been begun yet."""
    os.write(2, b"Stopped.\n")
    os._exit(128 + number)


def failed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say what a user can mend; `cli.main` does so once it runs."""
    if not issubclass(kind, ValueError):
        sys.__excepthook__(kind, error, trace)
        return
    os.write(2, f"error: {error}\n".encode())
    os._exit(2)


_program = os.path.basename(sys.argv[0]) if sys.argv else ""
_module = _program == "-m" and "-m tinydiff" in " ".join(sys.orig_argv)
_ignored = _signal.getsignal(_signal.SIGINT) is not _signal.default_int_handler
if _module or _program in ("tinydiff", "tinydiff.exe"):
    sys.excepthook = failed
    if not _ignored:
        _signal.signal(_signal.SIGINT, stopped)
