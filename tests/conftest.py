"""Fixtures shared by the tests: a tiny text, tiny runs on it, and comparing and resuming runs."""

import functools
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chaos
import numpy as np
import pytest
import typer.main
from safetensors.numpy import load_file

from tinydiff import Options, Run, Transformer, data, kernels, train
from tinydiff.processes.named import new_process

chaos.obey()
typer.main.get_command = functools.cache(typer.main.get_command)  # built anew for each of a thousand calls
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each of them would compile all of tinydiff anew
sys.dont_write_bytecode = False
os.environ.pop("PYTHONUNBUFFERED", None)  # what they write into a pipe waits in a buffer, as it does for most users
os.environ["TINYDIFF_KERNELS"] = kernels.active()  # processes that tests start run what the tests run, and do not warn

LENGTH, BATCH = 16, 4
OPTIONS = {"steps": 30, "batch": BATCH, "warmup": 5, "evaluate_every": 12, "evaluate_windows": 128, "log_every": 1}

LONG = ("test_lessons.py", "test_chaos.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests begin first, so that no process is left alone with one of them in the end."""
    items.sort(key=lambda item: item.path.name not in LONG)


@dataclass(frozen=True)
class Runs:
    """Makes, trains and compares runs of a tiny model on a tiny text."""

    text: Path

    def new(self, folder: Path | None = None, process: str = "masked", **options: Any) -> Run:
        """A run that has not started; `options` are added to those above."""
        corpus = data.load(str(self.text))
        made = new_process(process, corpus)
        rng = np.random.default_rng(0)
        model = Transformer(corpus.vocab_size, LENGTH, d_model=8, layers=1, heads=2, time=made.needs_time, rng=rng)
        return Run(corpus, made, model, Options(**(OPTIONS | options)), folder)

    def train(self, run: Run, until: int | None = None) -> Run:
        """Train to the end, or leave the loop after the step `until`."""
        for frame in train(run):
            if frame.step == until:
                break
        return run

    def assert_same(self, folder: Path, other: Path) -> None:
        """Both folders hold the same log, step, random state and arrays, to the bit."""
        assert (folder / "log.jsonl").read_text() == (other / "log.jsonl").read_text()
        ours, theirs = (load_file(f / "state.safetensors") for f in (folder, other))
        assert {name.split("/")[0] for name in ours} - {"muon.m"} == {"model", "ema", "adam.m", "adam.v"}
        assert ours.keys() == theirs.keys()
        assert [name for name in ours if ours[name].tobytes() != theirs[name].tobytes()] == []
        assert (folder / "state.safetensors").read_bytes() == (other / "state.safetensors").read_bytes()


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """Tiny runs on a text of 1,500 characters or so, whose words repeat and of which some end a line."""
    words = np.random.default_rng(0).choice(["the ", "cat ", "sat ", "on ", "a ", "mat.\n"], 400)
    text = tmp_path_factory.mktemp("text") / "cats.txt"
    text.write_text("".join(words))
    return Runs(text)


@pytest.fixture(scope="session")
def trained(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a masked run trained to its end; to be read only."""
    folder = tmp_path_factory.mktemp("trained") / "masked"
    return runs.train(runs.new(folder, steps=200, lr=1e-2)).folder


@pytest.fixture(scope="session")
def autoregressive(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an autoregressive run; to be read only."""
    folder = tmp_path_factory.mktemp("trained") / "autoregressive"
    return runs.train(runs.new(folder, "autoregressive")).folder


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Path:
    """A copy of the trained run, to be damaged."""
    return shutil.copytree(trained, tmp_path / "copied")
