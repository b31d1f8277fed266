"""Runs under attack: `python -m tests.chaos --kills 1000 --corruptions 500`. A few dozen of each are in the suite.

- Kills: training in a process of its own is stopped at random moments, by SIGKILL, SIGTERM, SIGHUP, SIGINT or two of
  them shortly after one another (SIGKILL during the save that another asked for), and resumed. The run can always be
  resumed, its step never goes back and is never behind what was printed, and in the end all files are those of a run
  that nobody disturbed.
- Corruptions: bytes of a file of a run are changed, cut, added, or moved. Reading it is an error or gives the same
  weights, and so does training on.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections import Counter
from pathlib import Path

import numpy as np

from tinydiff import Run, load, train
from tinydiff.learning import CheckpointError

SIZES = ["--length=16", "--batch=4", "--d-model=8", "--layers=1", "--heads=2"]
FILES = ("config.json", "state.safetensors", "log.jsonl")
SIGNALS = ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT")
PATIENCE = 120  # seconds for a process to end


def obey() -> None:
    """Let processes that are started be stopped: those of a shell's background job or of nohup ignore signals."""
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
            signal.signal(getattr(signal, name), signal.default_int_handler)


def write_text(path: Path) -> Path:
    """A small text to train on."""
    path.write_text("".join(np.random.default_rng(0).choice(["the ", "cat ", "sat ", "on ", "a ", "mat.\n"], 400)))
    return path


def command(*arguments: object) -> subprocess.Popen[str]:
    """The command in a process of its own, its standard error to be read."""
    return subprocess.Popen(
        [sys.executable, "-m", "tinydiff", *map(str, arguments)], stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "500",
                          "PYTHONFAULTHANDLER": "1"},
    )  # fmt: skip


def finished(*arguments: object) -> None:
    """Run the command to its end."""
    child = command(*arguments)
    said = child.communicate(timeout=600)[1]
    assert child.returncode == 0, said


def one_kill(folder: Path, text: Path, steps: int, rng: random.Random) -> tuple[str, int]:
    """Start or resume the run, stop it at a random moment, and check what it said and left: how, and the exit code."""
    known = (folder / "config.json").exists()
    before = Run.resume(folder).step if known else 0
    if known:
        child = command("train", "--resume", folder)
    else:
        child = command("train", "--text", text, "--out", folder, *SIZES, f"--steps={steps}")
    assert child.stderr is not None
    how = rng.sample(SIGNALS, 1) if rng.random() < 0.5 else [rng.choice(SIGNALS[1:]), rng.choice(SIGNALS)]
    hangs = threading.Timer(PATIENCE, child.send_signal, [signal.SIGABRT])  # it then says where
    hangs.daemon = True
    hangs.start()
    if rng.random() < 0.3:
        said = ""
        time.sleep(rng.uniform(0, 0.5))  # while it starts
    else:
        said = child.stderr.readline()  # it is about to train, however busy the machine is
        time.sleep(rng.uniform(0, 0.6))
    for name in how:
        child.send_signal(getattr(signal, name))
        time.sleep(rng.choice([0, 0, 1e-3, 5e-3, 20e-3]))
    with child.stderr:
        said += child.stderr.read()
    child.wait()
    hangs.cancel()
    name = "+".join(how)
    assert child.returncode != -signal.SIGABRT, f"{name}: {said}"
    starting = "SIGINT" in how and ("tinydiff" not in said or "_start.py" in said)  # Python itself was still starting
    assert "Traceback" not in said or starting, f"{name}: {said}"
    if (folder / "config.json").exists():
        after = Run.resume(folder).step
        printed = [int(step) for step in re.findall(r"(?:saved at step|Trained) (\d+)", said)]
        assert after >= max([before, *printed]), f"{name}: step {after} on disk, {before} before, printed {printed}"
        if printed:
            assert after == printed[-1], f"{name}: step {after} on disk, printed {printed}"
    else:
        assert not known, f"{name}: config.json is gone"
    return name, child.returncode


def kills(count: int, folder: Path, seed: int = 0, steps: int = 3000) -> Counter[str]:
    """So many kills of runs of so many steps: how often each ended how. AssertionError if anything was lost."""
    rng, text = random.Random(seed), write_text(folder / "cats.txt")
    whole, ends, number = folder / "whole", Counter[str](), 0
    finished("train", "--text", text, "--out", whole, *SIZES, f"--steps={steps}")
    run = folder / "run-0"
    for _ in range(count):
        if (run / "config.json").exists() and Run.resume(run).step >= steps:
            compare(run, whole)
            shutil.rmtree(run)
            number += 1
            run = folder / f"run-{number}"
        name, code = one_kill(run, text, steps, rng)
        ends[f"{name}: exit {code}"] += 1
    if (run / "config.json").exists():
        for _ in train(Run.resume(run)):
            pass
        compare(run, whole)
    return ends


def compare(run: Path, whole: Path) -> None:
    """AssertionError unless both folders hold the same, and nothing else."""
    assert {path.name for path in run.iterdir()} == set(FILES), sorted(run.iterdir())
    for name in FILES:
        assert (run / name).read_bytes() == (whole / name).read_bytes(), f"{name} in {run} differs"


def weights(folder: Path) -> bytes:
    """All averaged weights of a run as it is loaded for sampling."""
    return b"".join(p.data.tobytes() for p in load(folder)[0].params.values())


def trained_on(folder: Path) -> bytes:
    """All weights after three steps more."""
    run = Run.resume(folder)
    for frame in train(run):
        if frame.step % 10 == 3:
            break
    return run.optimiser.flat.values.tobytes() + run.ema.values.tobytes()


def corrupt(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One way of damaging a file, and what is left of it."""
    at, other = rng.randrange(len(content)), rng.randrange(len(content))
    few = rng.choice([1, 1, 1, 4, 64])
    ways = {
        "bit": lambda: content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :],
        "byte": lambda: content[:at] + rng.randbytes(few) + content[at + few :],
        "digit": lambda: content[:at] + rng.choice(b"0123456789").to_bytes(1, "little") + content[at + 1 :],
        "zeros": lambda: content[:at] + bytes(len(content[at : at + 512])) + content[at + 512 :],
        "cut": lambda: content[:at],
        "lost": lambda: content[:at] + content[at + few :],
        "twice": lambda: content[:at] + content[at : at + few] + content[at:],
        "moved": lambda: content[:at] + content[other : other + few] + content[at + few :],
        "added": lambda: content + rng.randbytes(few),
    }
    name = rng.choice(list(ways))
    return name, ways[name]()


def corruptions(count: int, folder: Path, seed: int = 0) -> Counter[str]:
    """So many corruptions of a run: how often each was refused, or did no harm. AssertionError if one did."""
    rng, text = random.Random(seed), write_text(folder / "cats.txt")
    good, bad, ends = folder / "good", folder / "bad", Counter[str]()
    finished("train", "--text", text, "--out", good, *SIZES, "--steps=20")
    Run.resume(good).extend(60)
    shutil.copytree(good, bad)
    expected = weights(good), trained_on(shutil.copytree(good, folder / "on"))
    for _ in range(count):
        name = rng.choice(FILES)
        content = (good / name).read_bytes()
        how, damaged = corrupt(content, rng)
        (bad / name).write_bytes(damaged)
        outcomes = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lines that are kept aside
            for read, right in zip((weights, trained_on), expected, strict=True):
                try:
                    assert read(bad) == right, f"{name} {how}: other weights, in {bad}"
                    outcomes.append("same")
                except CheckpointError as error:
                    outcomes.append("refused" if str(bad / name) in str(error) else "refused without its name")
        ends[f"{name} {how}: {', '.join(outcomes)}" + ("" if damaged != content else " (no change)")] += 1
        shutil.rmtree(bad)
        shutil.copytree(good, bad)
    return ends


def main() -> None:
    """Attack, and print how it ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--corruptions", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    obey()
    for attack, count in ((kills, options.kills), (corruptions, options.corruptions)):
        if count:
            with tempfile.TemporaryDirectory() as folder:
                ends = attack(count, Path(folder), options.seed)
            for end, times in sorted(ends.items()):
                print(f"{times:5}  {end}")
            print(f"{count} {attack.__name__}: nothing lost")


if __name__ == "__main__":
    main()
