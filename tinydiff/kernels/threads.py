"""How many threads the native kernels use, and whose.

As many as the process may use of the machine's cores: its affinity (`taskset`) and its share of time (the quota of a
control group, as in containers) count, not what the machine has. OMP_NUM_THREADS, which other numerical libraries read
too, asks for another number. TINYDIFF_THREADS=openmp|team says whose threads they are: OpenMP's, the default wherever
the compiler had it, or those of a small team of our own (csrc/team.hpp).
"""

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

# OpenMP libraries read these once, when they are loaded. By default their threads look for work for many milliseconds
# before they sleep, at the cost of whoever else needs the core; here for a few tenths of one (libgomp counts rounds,
# LLVM's milliseconds), which is longer than a training step pauses between kernels.
PATIENCE = {"GOMP_SPINCOUNT": "5000", "KMP_BLOCKTIME": "1"}


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use; at least 1.

    Parameters
    ----------
    root : where proc and sys are found

    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(root)]))


def _quotas(root: Path) -> list[int]:
    """Cores' worth of time, rounded up, that each control group above this process allows (Linux's cgroups 1 and 2)."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mounted = root / "sys/fs/cgroup" / controllers
        if not controllers and not (mounted / "cgroup.controllers").exists():
            mounted = root / "sys/fs/cgroup/unified"
        group = mounted / name.strip("/")
        for folder in (group, *group.parents):  # in a container the path may be the host's: then only the top is there
            if controllers:
                limit = [_text(folder / f"cpu.cfs_{part}_us").strip() for part in ("quota", "period")]
            else:
                limit = _text(folder / "cpu.max").split()
            if len(limit) == 2 and limit[0].isdigit() and limit[1].isdigit() and int(limit[1]) > 0:
                found.append(math.ceil(int(limit[0]) / int(limit[1])))
            if folder == mounted:
                break
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def wanted_threads() -> int:
    """OMP_NUM_THREADS, or as many as there are cores to use.

    The variable may list numbers for nested regions, "4,2": the first counts. It belongs to others too, so nonsense in
    it is no error here; a warning says what happens instead, as where it asks for more than four for each core.
    """
    cores = usable_cores()
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not text:
        return cores
    several = "1 thread" if cores == 1 else f"{cores} threads"
    first = text.split(",")[0].strip()
    if not (first.isascii() and first.isdigit() and first.strip("0")):
        warnings.warn(
            f"OMP_NUM_THREADS is {text!r}; expected a whole number of at least 1. tinydiff uses {several}, one for "
            "each core that this process may use",
            RuntimeWarning,
            stacklevel=2,
        )
        return cores
    most = max(8, 4 * cores)
    if len(first.lstrip("0")) > 9 or int(first) > most:
        warnings.warn(
            f"OMP_NUM_THREADS is {text!r}; tinydiff uses {most} threads: this process may use {cores} of the machine's "
            "cores, and more threads would only wait for one another",
            RuntimeWarning,
            stacklevel=2,
        )
        return most
    return int(first)


@contextmanager
def patience() -> Iterator[None]:
    """Load an OpenMP library inside: its threads will not spin for long, unless the environment says how they wait."""
    chosen = {"OMP_WAIT_POLICY", *PATIENCE} & os.environ.keys()
    ours = {} if chosen else PATIENCE
    os.environ.update(ours)
    try:
        yield
    finally:  # libraries that are loaded later, and other programs, have their own ways
        for name in ours:
            del os.environ[name]


def set_up(native: ModuleType) -> None:
    """Tell the extension what the environment asks for."""
    native.set_threads(wanted_threads())
    pool = os.environ.get("TINYDIFF_THREADS", "")
    if pool:
        try:
            native.use_pool(pool)
        except ValueError as error:
            raise ValueError(f"TINYDIFF_THREADS: {error}") from None
