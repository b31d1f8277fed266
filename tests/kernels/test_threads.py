"""How many threads run the native kernels, whose they are, and that they do: refused, forked, without the lock."""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from kernel_support import Array, python, sample_arguments

from tinydiff.kernels import KERNELS, native, threads

needs_native = pytest.mark.skipif(native is None, reason="the native extension is not built")
needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")
sanitized = pytest.mark.skipif("asan" in os.environ.get("LD_PRELOAD", ""), reason="the sanitizer manages memory")
POOLS = native.pools() if native else []
COUNT = "from tinydiff.kernels import native; print(native.threads(), native.pool())"


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each pool of threads in turn, two threads of it; puts both back."""
    before = native.threads(), native.pool()
    native.set_threads(2)
    native.use_pool(request.param)
    yield request.param
    native.set_threads(before[0])
    native.use_pool(before[1])


# --- how many -------------------------------------------------------------------------------------------------------


def machine(root: Path, files: dict[str, str]) -> Path:
    """A /proc and a /sys with these files."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


V1 = {"proc/self/cgroup": "4:memory:/\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/\n"}
V2 = {"proc/self/cgroup": "0::/user/shell\n", "sys/fs/cgroup/cgroup.controllers": "cpu"}


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 64),
        (V1, 64),
        (V1 | {"sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1",
               "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000"}, 64),
        (V1 | {"sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000\n",
               "sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n"}, 3),
        (V1 | {"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "50000",  # in a container the path is the host's
               "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000"}, 1),
        (V2 | {"sys/fs/cgroup/user/shell/cpu.max": "max 100000\n"}, 64),
        (V2 | {"sys/fs/cgroup/user/shell/cpu.max": "400000 100000\n"}, 4),
        (V2 | {"sys/fs/cgroup/user/shell/cpu.max": "800000 100000", "sys/fs/cgroup/user/cpu.max": "200000 100000"}, 2),
        (V2 | {"sys/fs/cgroup/cpu.max": "150000 100000"}, 2),
        (V2 | {"sys/fs/cgroup/user/shell/cpu.max": "nonsense"}, 64),
        ({"proc/self/cgroup": "2:cpu:/x\n0::/a\n", "sys/fs/cgroup/unified/a/cpu.max": "300000 100000"}, 3),
    ],
)  # fmt: skip
def test_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int) -> None:
    """Control groups of both versions, the tightest of those above counts, part of a core counts as one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64), raising=False)
    assert threads.usable_cores(machine(tmp_path, files)) == cores


@needs_native
@pytest.mark.skipif(not shutil.which("taskset"), reason="needs taskset")
def test_affinity() -> None:
    """One core to run on means one thread, whatever the machine has."""
    first = min(os.sched_getaffinity(0))
    done = subprocess.run(
        ["taskset", "-c", str(first), sys.executable, "-c", COUNT],
        env={name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split()[:1] == ["1"], done.stderr


@pytest.mark.parametrize(
    ("text", "cores", "count", "warning"),
    [
        ("", 2, 2, ""),
        (" ", 2, 2, ""),
        ("3", 2, 3, ""),
        ("3,2", 2, 3, ""),
        ("07", 2, 7, ""),
        ("9", 2, 8, "'9'; tinydiff uses 8 threads"),
        ("9", 3, 9, ""),
        ("10000", 64, 256, "'10000'; tinydiff uses 256 threads"),
        ("9" * 5000, 1, 8, "tinydiff uses 8 threads"),
        *[(text, 2, 2, "expected a whole number of at least 1. tinydiff uses 2 threads") for text in
          ("0", "00", "-1", "1e9", "2.0", "many", "\N{SUPERSCRIPT TWO}", ",2", "0x2", "1_0")],
        ("many", 1, 1, "tinydiff uses 1 thread, one"),
    ],
)  # fmt: skip
def test_threads_asked_for(monkeypatch: pytest.MonkeyPatch, text: str, cores: int, count: int, warning: str) -> None:
    """OMP_NUM_THREADS, read strictly: "1e9" is not 1, and nobody starts ten thousand threads."""
    monkeypatch.setattr(threads, "usable_cores", lambda: cores)
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    with pytest.warns(RuntimeWarning) if warning else contextlib.nullcontext([]) as warned:
        assert threads.wanted_threads() == count
    assert warning in "".join(str(w.message) for w in warned)


@needs_native
def test_set_threads(pool: str) -> None:
    """The number of threads is what was set; one out of range changes nothing."""
    for n in (1, 3):
        native.set_threads(n)
        for wrong in (0, -1, 1025):
            with pytest.raises(ValueError, match=f"^threads is {wrong}; it must be at least 1 and at most 1024"):
                native.set_threads(wrong)
        assert native.threads() == n
        assert native.pool() == pool


# --- whose ----------------------------------------------------------------------------------------------------------


@needs_native
def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both variables arrive; OpenMP is the default wherever the build has it."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert "team" in POOLS
    assert python(COUNT, OMP_NUM_THREADS="3").stdout.split() == ["3", "openmp" if "openmp" in POOLS else "team"]
    for name in POOLS:
        assert python(COUNT, TINYDIFF_THREADS=name).stdout.split() == [str(threads.usable_cores()), name]
    assert "ValueError: TINYDIFF_THREADS: pool is 'gang'" in python(COUNT, TINYDIFF_THREADS="gang").stderr


@needs_native
def test_unknown_pool(pool: str) -> None:
    """Refused by name, and nothing changes."""
    with pytest.raises(ValueError, match=r"^pool is 'gang'; expected 'openmp' or 'team'"):
        native.use_pool("gang")
    assert native.pool() == pool


@needs_native
@pytest.mark.skipif("openmp" in POOLS, reason="the build has OpenMP")
def test_openmp_where_there_is_none() -> None:
    """Who asks for OpenMP by name is told, and how to get it."""
    with pytest.raises(ValueError, match=r"^pool is 'openmp', but the extension was built by"):
        native.use_pool("openmp")


@pytest.mark.parametrize("chosen", [{}, {"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_patience(monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str]) -> None:
    """Set while OpenMP is loaded and not left to programs that are started later; the user's own choice stands."""
    for name in ("OMP_WAIT_POLICY", *threads.PATIENCE):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with threads.patience():
        assert os.environ.items() >= (chosen or threads.PATIENCE).items()
        assert len(os.environ) == len(before) + (0 if chosen else len(threads.PATIENCE))
    assert dict(os.environ) == before


# --- at work --------------------------------------------------------------------------------------------------------

ONCE = {"matmul": {"b", "bias"}, "layer_norm": {"weight", "bias"}, "layer_norm_backward": {"weight"},
        "rotary": {"cos", "sin"}}  # fmt: skip


def many(kernel: str, dtype: type, times: int) -> dict[str, object]:
    """The sample arguments so many times over, along the first axis."""
    arguments = sample_arguments(kernel, dtype)
    same = ONCE.get(kernel, set())
    for name, a in arguments.items():
        if isinstance(a, np.ndarray) and name not in same:
            arguments[name] = np.concatenate([a] * times)
    return arguments


@needs_native
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_second_thread_works(pool: str, kernel: str) -> None:
    """Threads other than the caller's use a good part of the processor time of a long call.

    A helper that only looks for work and finds none takes less than a millisecond. On a busy machine it may come too
    late for its share: tried again.
    """
    function, arguments = getattr(native, kernel), many(kernel, np.float64, 30)
    end = time.monotonic() + 30
    while True:
        whole, own = time.process_time(), time.thread_time()
        function(**arguments)
        whole, own = time.process_time() - whole, time.thread_time() - own
        others = whole - own
        if others > 0.2 * whole and others > 0.001:
            return
        assert time.monotonic() < end, f"others took {others:.4f} of {whole:.4f} s"


@needs_native
def test_one_thread_works_alone(pool: str) -> None:
    """Where one thread is asked for, the caller does all: the test above can tell the difference."""
    native.set_threads(1)
    arguments = many("softmax", np.float64, 30)
    native.softmax(**arguments)
    time.sleep(0.05)  # for helpers of the tests before to fall asleep
    whole, own = time.process_time(), time.thread_time()
    native.softmax(**arguments)
    assert time.process_time() - whole - (time.thread_time() - own) < 0.0005


@needs_native
@pytest.mark.parametrize("kernel", KERNELS)
def test_same_bits_on_either_pool(compiled: ModuleType, dtype: type, kernel: str) -> None:
    """Whose threads they are changes nothing."""
    before, results = compiled.pool(), []
    for name in (*POOLS, *POOLS):
        compiled.use_pool(name)
        arguments = sample_arguments(kernel, dtype)
        returned = getattr(compiled, kernel)(**arguments)
        arrays = [*(returned if isinstance(returned, tuple) else [returned]), *arguments.values()]
        results.append([a.tobytes() for a in arrays if isinstance(a, np.ndarray)])
    compiled.use_pool(before)
    assert all(result == results[0] for result in results)


WORK = """
import os, sys, warnings
import numpy as np
from tinydiff.kernels import native
warnings.simplefilter("ignore")  # Python warns of forks beside threads
x = np.linspace(-3, 3, 900_000).reshape(3000, 300)
native.set_threads(1)
want = native.column_sum(x).tobytes()
def right():
    return native.column_sum(x).tobytes() == want
def running():
    return len(os.listdir("/proc/self/task")) if sys.platform == "linux" else native.threads()
"""


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("name", POOLS)
def test_forked_children(name: str) -> None:
    """A child, and a child of the child, have none of the threads before: they make their own and do not wait for them.

    OpenMP's library cannot do that; its place is taken, and who asks for it by name is told.
    """
    code = (
        WORK
        + f"""
native.use_pool({name!r})
native.set_threads(3)
assert right()
child = os.fork()
if child == 0:
    good = native.pool() == "team" and running() == 1 and right() and running() == 3
    grandchild = os.fork()
    if grandchild == 0:
        try:
            native.use_pool("openmp")
            os._exit(4)
        except ValueError:
            os._exit(0 if native.pools() == ["team"] and running() == 1 and right() and running() == 3 else 1)
    os._exit(0 if os.waitpid(grandchild, 0)[1] == 0 and right() and good else 1)
print(os.waitpid(child, 0)[1], native.pool(), right())
"""
    )
    if "openmp" not in POOLS or sys.platform != "linux":
        code = code.replace("running() == 1", "True").replace("running() == 3", "True")
    done = python(code)
    assert done.stdout.split() == ["0", name, "True"], done.stderr


@needs_native
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("name", POOLS)
def test_pools_of_processes(name: str) -> None:
    """multiprocessing's forked workers, while the parent goes on with its own threads."""
    code = (
        WORK
        + f"""
import multiprocessing
native.use_pool({name!r})
native.set_threads(2)
def work(_):
    return right()
with multiprocessing.get_context("fork").Pool(2) as pool:
    children = pool.map_async(work, range(6))
    print(all(right() for _ in range(5)), all(children.get(60)))
"""
    )
    assert python(code).stdout.split() == ["True", "True"]


@needs_native
@needs_linux
@sanitized
@pytest.mark.parametrize("name", POOLS)
def test_threads_that_the_system_refuses(name: str) -> None:
    """No room for the stack of another thread: the work is done by those that there are, and nothing is said."""
    code = (
        WORK
        + f"""
import resource
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
room = used + (40 << 20)  # for some of 63 stacks of 8 MB
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY))
resource.setrlimit(resource.RLIMIT_AS, (room, room))
native.use_pool({name!r})
native.set_threads(64)
print(all(right() for _ in range(3)), running() < 64)
"""
    )
    done = python(code, OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="1")
    assert done.stdout.split() == ["True", "True"], (done.returncode, done.stderr)
    assert done.stderr == ""


@needs_native
def test_many_callers(pool: str) -> None:
    """Python threads that come and go: the second caller at a time works alone, and helpers are not left behind."""
    code = (
        WORK
        + f"""
from concurrent.futures import ThreadPoolExecutor
native.use_pool({pool!r})
native.set_threads(2)
for _ in range(5):
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: right(), range(8)))
print("done")
"""
    )
    done = python(code)
    assert done.stdout.split() == ["done"], done.stderr


# --- memory and the lock --------------------------------------------------------------------------------------------


@needs_native
@sanitized
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_is_given_back() -> None:
    """What importing must not change, an optimiser's step may, until the training is over."""
    code = """
import numpy as np
from tinydiff.kernels import native

def kept():
    def used():
        return int(open("/proc/self/statm").read().split()[1]) * 4096 >> 20
    before = used()
    arrays = [np.ones(1 << 17) for _ in range(200)]  # of 1 MiB: glibc gives these back by itself
    del arrays
    return used() - before

print(kept())
p, g, m, v = np.ones((4, 8))
native.adamw(p, g, m, v, 1e-3, 0.9, 0.999, 1e-8, 0.1, 1)
print(kept())
native.give_back_memory()
print(kept())
"""
    done = python(code, OPENBLAS_NUM_THREADS="1")
    imported, training, after = map(int, done.stdout.split())
    assert imported < 20, done.stdout
    assert training > 150, done.stdout
    assert after < 20, done.stdout


@needs_native
def test_arrays_too_large_to_copy() -> None:
    """MemoryError, not an exception without a message from inside the bindings."""
    x: Array = np.broadcast_to(np.zeros(1), (1 << 40, 1 << 10))
    with pytest.raises(MemoryError):
        native.softmax(x)


@needs_native
def test_the_lock_is_not_needed() -> None:
    """Free-threaded Python keeps running without its lock when the extension is loaded."""
    code = "import sys; from tinydiff.kernels import native; print(getattr(sys, '_is_gil_enabled', lambda: None)())"
    free = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    done = python(code)
    has_switch = hasattr(sys, "_is_gil_enabled")
    assert done.stdout.strip() == str(not free if has_switch else None), done.stderr
