"""Training under a real mpiexec, where there is one: the same bits, and no half of anything when a rank is killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tinydiff import Run, load

if TYPE_CHECKING:
    from conftest import Runs

MPIEXEC = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
pytestmark = pytest.mark.skipif(
    find_spec("mpi4py") is None or MPIEXEC is None,
    reason="needs mpi4py and an mpiexec: pip install mpi4py mpich",
)
SIZES = (
    "--length=16", "--d-model=8", "--layers=1", "--heads=2", "--batch=4", "--seed=0", "--shards=3", "--process=masked",
)  # fmt: skip
ALLOWED = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def started(ranks: int, *arguments: object) -> subprocess.Popen[str]:
    """`mpiexec -n ranks tinydiff ...`, or without mpiexec for none."""
    before = [str(MPIEXEC), "-n", str(ranks)] if ranks else []
    return subprocess.Popen(
        [*before, sys.executable, "-m", "tinydiff", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        env=os.environ | ALLOWED | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def test_two_ranks_give_the_bits_of_one(runs: Runs, tmp_path: Path) -> None:
    """Sums of the library's, two writers, two voices; and what is wrong is said once."""
    train = ["train", "--text", runs.text, *SIZES, "--steps=30"]
    both = [(n, started(n, *train, "--out", tmp_path / str(n))) for n in (0, 2)]
    for ranks, process in both:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out) == (0, ""), err
        assert err.count("Trained 30 steps.") == 1
        assert ("2 ranks, 3 shards" in err) == (ranks == 2)
    runs.assert_same(tmp_path / "0", tmp_path / "2")

    refused = started(2, *train, "--out", tmp_path / "2")
    _, err = refused.communicate(timeout=120)
    assert refused.returncode == 1
    assert err.count("already holds a run") == 1


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for the process of a rank in /proc")
def test_a_rank_is_killed(runs: Runs, tmp_path: Path) -> None:
    """The others wait for ever, or leave half a checkpoint."""
    folder = tmp_path / "run"
    process = started(2, "train", "--text", runs.text, *SIZES, "--steps=100000", "--out", folder)
    try:
        deadline = time.monotonic() + 60
        while not (folder / "state.safetensors").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        time.sleep(0.5)
        os.kill(of_rank(1, str(folder)), signal.SIGKILL)
        _, err = process.communicate(timeout=60)
        assert process.returncode != 0
        assert err
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    load(folder)
    run = Run.resume(folder)
    assert runs.train(run, run.step + 1).step == run.step


def of_rank(rank: int, argument: str) -> int:
    """The process of that rank among those that were given this argument."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
            variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if (
            argument in words
            and "-m" in words[:2]
            and {f"PMI_RANK={rank}", f"OMPI_COMM_WORLD_RANK={rank}"} & {*variables}
        ):
            return int(folder.name)
    raise AssertionError(f"no process of rank {rank}")
