"""Processes that train together: what they need of one another, whoever carries it.

    Alone          one process, nobody to talk to
    in_process(n)  n threads of one process: for tests, and to read what the others do
    Mpi            the processes that `mpiexec -n N` has started, through mpi4py (pip install 'tinydiff[mpi]')

Three collectives are all: whoever calls one waits until every rank has called the same. None of them adds numbers up.
A library's sum over ranks has an order of the library's, and with floats another order is another result; here arrays
travel and the sums are ours (`shards.py`).

A rank that dies must not leave the others waiting for ever. mpiexec ends them all; beside that, ranks of one machine
look whether the others are there while they wait.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np

from .. import kernels
from ..arrays import Floats
from ..kernels.threads import usable_cores
from .lock import alive

LAUNCHED = ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
"""Variables by which mpiexec, of MPICH and its kin, of PMIx and of Open MPI, tells a process which rank it is."""
PATIENCE = 60.0
"""Seconds that threads wait for one another; a step is far shorter."""
BUSY = 10.0
"""Seconds that a process looks all the time whether the others have come; then a thousand times a second."""
LOOK = 0.5
"""Seconds between looks whether the other processes of this machine are there."""


class RankLost(Exception):
    """Another rank has died or given up: nothing more can be done together."""


class Ranks(Protocol):
    """All collectives are called by every rank, in the same order."""

    rank: int
    size: int

    def alltoallv(self, sent: list[Floats], received: list[Floats]) -> None:
        """Send an array to each rank, and receive one from each into arrays of the right size."""
        ...

    def allgatherv(self, values: Floats, parts: list[slice]) -> None:
        """Each rank has filled its part of the values; afterwards all have all of them."""
        ...

    def allgather(self, message: Any) -> list[Any]:
        """What every rank has to say, in their order: small values that JSON can hold."""
        ...

    def abort(self) -> None:
        """Tell the others not to wait for this rank."""
        ...


class Alone:
    """One process."""

    rank, size = 0, 1

    def alltoallv(self, sent: list[Floats], received: list[Floats]) -> None:
        """Keep it."""
        received[0][...] = sent[0]

    def allgatherv(self, values: Floats, parts: list[slice]) -> None:
        """All is there."""

    def allgather(self, message: Any) -> list[Any]:
        """What this one has to say."""
        return [message]

    def abort(self) -> None:
        """Nobody waits."""


@contextmanager
def together(ranks: Ranks) -> Iterator[None]:
    """What one rank cannot do, none does: an error inside the block is one on all ranks.

    Where there is none of its own, a rank raises ValueError if that is what another has, else RankLost. All ranks know
    of these errors: they are marked as `agreed`.
    """
    error: Exception | None = None
    try:
        yield
    except RankLost:
        raise
    except Exception as own:
        if ranks.size == 1:
            raise
        error = own
    asked = isinstance(error, ValueError | FileNotFoundError)  # for something impossible
    told = ranks.allgather(error and [str(error) or type(error).__name__, asked])
    for rank, said in enumerate(told):
        if said is not None:
            raise agreed(error or (ValueError if said[1] else RankLost)(f"rank {rank}: {said[0]}"))


E = TypeVar("E", bound=BaseException)


def agreed(error: E) -> E:
    """The error, marked as one that all ranks raise, so that nobody waits for anybody and one of them may report it."""
    error.agreed = True  # type: ignore[attr-defined]
    return error


# --- threads of one process -------------------------------------------------------------------------------------------


class _Thread:
    """One of the threads."""

    def __init__(self, rank: int, slots: list[Any], barrier: threading.Barrier) -> None:
        self.rank, self.size = rank, len(slots)
        self._slots, self._barrier = slots, barrier

    def _meet(self) -> None:
        try:
            self._barrier.wait()
        except threading.BrokenBarrierError:
            raise RankLost(
                f"another rank has failed, or was not heard of for {PATIENCE:g} seconds; rank {self.rank} of "
                f"{self.size} gives up too"
            ) from None

    @contextmanager
    def _shown(self, what: str, given: Any) -> Iterator[list[Any]]:
        """What all show, while all look at it."""
        self._slots[self.rank] = (what, given)
        self._meet()
        if {name for name, _ in self._slots} != {what}:
            self.abort()
            raise RankLost(f"the ranks are not at the same place: {[name for name, _ in self._slots]}")
        yield [given for _, given in self._slots]
        self._meet()

    def alltoallv(self, sent: list[Floats], received: list[Floats]) -> None:
        """See `Ranks`."""
        with self._shown("alltoallv", sent) as given:
            for into, theirs in zip(received, given, strict=True):
                into[...] = theirs[self.rank]

    def allgatherv(self, values: Floats, parts: list[slice]) -> None:
        """See `Ranks`."""
        with self._shown("allgatherv", values[parts[self.rank]].copy()) as given:
            for part, theirs in zip(parts, given, strict=True):
                values[part] = theirs

    def allgather(self, message: Any) -> list[Any]:
        """See `Ranks`."""
        with self._shown("allgather", json.dumps(message)) as given:
            return [json.loads(each) for each in given]

    def abort(self) -> None:
        """See `Ranks`."""
        self._barrier.abort()


def in_process(size: int, patience: float = PATIENCE) -> list[Ranks]:
    """As many ranks, one for each of as many threads."""
    slots: list[Any] = [None] * size
    barrier = threading.Barrier(size, timeout=patience)
    return [_Thread(rank, slots, barrier) for rank in range(size)]


# --- processes under mpiexec ------------------------------------------------------------------------------------------


class Mpi:
    """The processes that mpiexec has started.

    Where several of them share a machine they share its cores: each gets as many threads as come to it, unless
    OMP_NUM_THREADS says a number or the launcher has bound each to cores of its own.
    """

    def __init__(self) -> None:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"  # the main thread alone talks
        from mpi4py import MPI

        atexit.register(self._leave)
        self._given_up = False
        self._mpi, self._all = MPI, MPI.COMM_WORLD
        self.rank, self.size = self._all.Get_rank(), self._all.Get_size()
        self._neighbours: dict[int, int] = {}  # their process ids by rank
        here = {"host": socket.gethostname(), "pid": os.getpid(), "cores": _cores()}
        there = self.allgather(here)
        same = {rank: each for rank, each in enumerate(there) if each["host"] == here["host"]}
        self._neighbours = {rank: each["pid"] for rank, each in same.items() if rank != self.rank}
        shared = all(each["cores"] == here["cores"] for each in same.values())
        if shared and kernels.native is not None and not os.environ.get("OMP_NUM_THREADS"):
            kernels.native.set_threads(max(1, usable_cores() // len(same)))

    def _wait(self, request: Any) -> None:
        """Until a collective is done. Data moves only while we look: so without a pause, unless it takes long."""
        start = looked = time.monotonic()
        while not self._done(request):
            now = time.monotonic()
            time.sleep(0 if now - start < BUSY else 1e-3)  # 0 lets others have the core who want it
            if now - looked > LOOK:
                looked = now
                self._look()

    def _done(self, request: Any) -> bool:
        try:
            return bool(request.Test())
        except self._mpi.Exception as error:
            raise RankLost(f"another rank cannot be reached any more ({error})") from None

    def _look(self) -> None:
        for rank, pid in self._neighbours.items():
            if not alive(pid):
                raise RankLost(f"rank {rank}, process {pid} on {socket.gethostname()}, has died")

    def alltoallv(self, sent: list[Floats], received: list[Floats]) -> None:
        """See `Ranks`."""
        out, kind = np.concatenate([each.ravel() for each in sent]), self._kind(sent[0])
        into = np.empty(sum(each.size for each in received), out.dtype)
        counts = [[each.size for each in arrays] for arrays in (sent, received)]
        self._wait(self._all.Ialltoallv([out, counts[0], kind], [into, counts[1], kind]))
        for each, values in zip(received, np.split(into, np.cumsum(counts[1])[:-1]), strict=True):
            each[...] = values.reshape(each.shape)

    def allgatherv(self, values: Floats, parts: list[slice]) -> None:
        """See `Ranks`."""
        counts, starts = [part.stop - part.start for part in parts], [part.start for part in parts]
        self._wait(self._all.Iallgatherv(self._mpi.IN_PLACE, [values, counts, starts, self._kind(values)]))

    def allgather(self, message: Any) -> list[Any]:
        """See `Ranks`."""
        own = np.frombuffer(json.dumps(message).encode(), np.uint8)
        sizes = np.empty(self.size, np.int64)
        self._wait(self._all.Iallgather(np.array([own.size], np.int64), sizes))
        all_ = np.empty(int(sizes.sum()), np.uint8)
        self._wait(self._all.Iallgatherv(own, [all_, sizes.tolist(), self._mpi.BYTE]))
        return [json.loads(each.tobytes()) for each in np.split(all_, np.cumsum(sizes)[:-1])]

    def _kind(self, values: Floats) -> Any:
        return self._mpi.FLOAT if values.dtype == np.float32 else self._mpi.DOUBLE

    def abort(self) -> None:
        """At its end this process ends all others with it, those on other machines too."""
        self._given_up = True

    def _leave(self) -> None:
        if self._given_up:
            self._all.Abort(1)  # else it would wait for the others, and they for it


def _cores() -> list[int]:
    """The cores that this process is bound to; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


def launched() -> Ranks:
    """The ranks that mpiexec has started this process among, or this process alone."""
    if not any(name in os.environ for name in LAUNCHED):
        return Alone()
    try:
        return Mpi()
    except ImportError:
        raise FileNotFoundError(
            "this process was started by mpiexec, but mpi4py is missing, by which ranks talk; install it: "
            "pip install 'tinydiff[mpi]', or start without mpiexec"
        ) from None


def place() -> int:
    """The rank of this process, as mpiexec says; 0 alone. It needs no mpi4py."""
    numbers = [os.environ[name] for name in LAUNCHED if name in os.environ]
    return int(numbers[0]) if numbers and numbers[0].isdigit() else 0
