"""Holding back what stops a process, Ctrl-C, `kill` and a closed terminal, while a step or a save is under way."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOPS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Ctrl-C, kill or a batch system, a closed terminal; not every system has them all."""


@contextmanager
def stops_wait() -> Iterator[list[int]]:
    """Hold STOPS back until the end of the block; then each does what it would have done.

    Ignored ones stay ignored, and a handler of the application is called. The list holds the numbers of those that
    have arrived, for the block to look at; what it takes out is done with.
    """
    arrived: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield arrived  # only the main thread receives them
        return

    def remember(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    before = {}
    try:
        for number in STOPS:
            handler = signal.getsignal(number)
            if handler not in (signal.SIG_IGN, None):  # None is a handler that Python cannot put back
                with suppress(ValueError):  # in a browser there are none to receive
                    signal.signal(number, remember)
                    before[number] = handler
        yield arrived
    finally:
        for number in reversed(before):
            signal.signal(number, before[number])
        for number in dict.fromkeys(arrived):
            signal.raise_signal(number)
