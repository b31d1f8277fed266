"""Training: what it yields, and that no way of stopping it changes what comes out."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import typer

from tinydiff import Options, Run, cli, data, evaluate, load, train
from tinydiff.learning import CheckpointError
from tinydiff.learning.checkpoint import read_log
from tinydiff.learning.optim import learning_rate
from tinydiff.processes.named import VARIANTS, new_process
from tinydiff.views import terminal

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from conftest import Runs

PROCESSES = ["masked", "autoregressive"]


def saved_step(folder: Path) -> int:
    """The step of the checkpoint in `folder`."""
    return Run.resume(folder).step


# --- what it does -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [name for name in VARIANTS if name not in ("ddpm", "flow")])
def test_loss_falls(runs: Runs, process: str) -> None:
    """Gradients of the wrong sign, cleared too early or never, or a learning rate of 0: nothing is learnt."""
    run = runs.new(process=process, steps=300, batch=16, lr=1e-2, evaluate_every=300, evaluate_windows=512)
    before, *_ = evaluate(run.model, run.process, run.corpus, windows=512)  # the same windows and noise as after
    *_, last = train(run)
    # Networks that must learn what the time means are slow in 300 steps of this size. What is written in one look, with
    # nothing given, can learn how often each character comes, and no more: the entropy of that is 2.24 nats of log 12 =
    # 2.48, and an untrained network starts a little above the latter. Nothing could bring its loss down to .8 of that.
    falls = 0.97 if run.process.needs_time else 0.9 if process in ("nat", "refinement") else 0.8
    assert last.held_out[0] < falls * before


def test_frames_carry_what_they_promise(runs: Runs, tmp_path: Path) -> None:
    """Steps off by one, a norm taken after clipping, the next step's learning rate, or an estimate left out."""
    run = runs.new(tmp_path / "run", steps=12, evaluate_every=5, log_every=4)
    frames = list(train(run))

    twin = runs.new()  # the first step by hand
    loss = twin.process.loss(twin.model, twin.corpus.batch(twin.model.length, 4, twin.rng), twin.rng)
    loss.backward()
    assert frames[0].loss == loss.item()
    assert frames[0].grad_norm == pytest.approx(np.linalg.norm(twin.optimiser.flat.grads), rel=1e-5)
    assert frames[0].grad_norm > run.options.clip

    assert [frame.step for frame in frames] == list(range(1, 13))
    assert {frame.steps for frame in frames} == {12}
    assert [frame.lr for frame in frames] == [learning_rate(i, 12, run.options.lr, 5) for i in range(12)]
    assert all(frame.tokens_per_second > 0 for frame in frames)
    assert [frame.step for frame in frames if frame.held_out] == [5, 10, 12]
    logged = [frame for frame in frames if frame.step in (4, 5, 8, 10, 12)]
    assert read_log(tmp_path / "run") == [
        {"step": f.step, "loss": f.loss, "lr": f.lr, "held_out": f.held_out and list(f.held_out)} for f in logged
    ]


def test_evaluation_is_the_same_every_time(runs: Runs, tmp_path: Path) -> None:
    """Random windows that differ from call to call, or an average of the weights that is not the one saved."""
    run = runs.new(tmp_path / "run")
    *_, last = train(run)
    live = run.model.params["head.weight"].data.copy()
    figures = [evaluate(run.averaged(), run.process, run.corpus, windows=128) for _ in range(2)]
    np.testing.assert_array_equal(run.model.params["head.weight"].data, live)
    model, process, codec, _ = load(tmp_path / "run")
    figures.append(evaluate(model, process, data.load(str(runs.text), codec), windows=128))
    assert [figure.mean for figure in figures] == [last.held_out[0]] * 3
    assert evaluate(run.model, run.process, run.corpus, windows=128)[0] != last.held_out[0]  # not the last step's


def test_frames_of_an_averaged_model_are_of_its_weights_whenever_they_are_consumed(runs: Runs) -> None:
    """A sampler that is asked in the middle of training and read at the end of it: the same text; the run trains on."""
    texts = []
    for late in (False, True):
        run = runs.new()
        frames = train(run)
        for _ in range(10):
            next(frames)
        sampled = run.process.sample(run.averaged(), run.model.length, 4, rng=np.random.default_rng(0))
        if late:
            list(frames)
            assert not np.array_equal(run.ema.values, run.optimiser.flat.values)
        texts.append([frame.state for frame in sampled][-1])
        list(frames)
    np.testing.assert_array_equal(*texts)


def test_an_averaged_model_is_a_copy(runs: Runs) -> None:
    """Whoever writes to it changes neither the average nor what is trained."""
    run = runs.new()
    next(train(run))
    before = [values.copy() for values in (run.ema.values, run.optimiser.flat.values, run.optimiser.flat.grads)]
    model = run.averaged()
    np.testing.assert_array_equal(model.params["embed"].data, run.optimiser.flat.named(run.ema.values)["embed"])
    for p in model.params.values():
        assert p.grad is None
        p.data[...] = 7
    for values, kept in zip((run.ema.values, run.optimiser.flat.values, run.optimiser.flat.grads), before, strict=True):
        np.testing.assert_array_equal(values, kept)


def test_new_process_refuses_what_does_not_fit(runs: Runs) -> None:
    """A schedule that would silently be ignored, an unknown name."""
    corpus = data.load(str(runs.text))
    assert new_process("d3pm_uniform", corpus, schedule="cosine").config["schedule"] == "cosine"
    assert new_process("sedd_uniform", corpus, schedule="geometric").config["noise"] == "geometric"
    for name, schedule, words in (
        ("bert", "linear", "no such option"),
        ("sedd_uniform", "linear", "'linear'"),
        ("x", None, "'x'"),
    ):
        with pytest.raises(ValueError, match=words):
            new_process(name, corpus, schedule=schedule)


# --- stopping and going on --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES)
def test_resuming_gives_the_same_bits(runs: Runs, tmp_path: Path, process: str) -> None:
    """Anything the next step depends on that a checkpoint forgets: moments, step, average, random state, log."""
    runs.train(runs.new(tmp_path / "whole", process))
    folder = tmp_path / "parts"
    runs.train(runs.new(folder, process), 7)  # leaving the loop saves
    assert saved_step(folder) == 7
    runs.train(Run.resume(folder), 19)
    assert saved_step(folder) == 19
    runs.train(Run.resume(folder))
    runs.assert_same(folder, tmp_path / "whole")
    assert list(train(Run.resume(folder))) == []


def test_a_run_can_be_moved(runs: Runs, tmp_path: Path) -> None:
    """A path of the run written into the run: it would go on in the old place, or not at all."""
    runs.train(runs.new(tmp_path / "whole"))
    runs.train(runs.new(tmp_path / "old"), 7)
    shutil.move(tmp_path / "old", tmp_path / "new")
    runs.train(Run.resume(tmp_path / "new"))
    runs.assert_same(tmp_path / "new", tmp_path / "whole")
    assert not (tmp_path / "old").exists()


def test_half_a_line_in_the_log_is_dropped(runs: Runs, tmp_path: Path) -> None:
    """Lines ahead of the checkpoint and a torn one at the end, as a kill leaves them, that stay or stop the run."""
    runs.train(runs.new(tmp_path / "whole"))
    runs.train(runs.new(tmp_path / "run"), 7)
    log = tmp_path / "run" / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 8, "loss": 0.1}\n{"step": 9, "lo')
    assert [row["step"] for row in read_log(tmp_path / "run")] == list(range(1, 9))
    runs.train(Run.resume(tmp_path / "run"))
    runs.assert_same(tmp_path / "run", tmp_path / "whole")


def test_ctrl_c_saves_says_how_to_resume_and_changes_nothing(runs: Runs, tmp_path: Path) -> None:
    """An interrupt in the middle of a step, lost, unsaved, or with an exit code that a shell takes for success."""
    whole, folder = tmp_path / "whole", tmp_path / "run"
    tinydiff = [sys.executable, "-m", "tinydiff", "train"]
    sizes = ["--length=16", "--batch=4", "--d-model=8", "--layers=1", "--heads=2", "--steps=600"]
    wide = os.environ | {"COLUMNS": "1000"}
    started = [
        subprocess.Popen(
            [*tinydiff, "--text", runs.text, "--out", out, *sizes], stderr=subprocess.PIPE, text=True, env=wide
        )
        for out in (whole, folder)
    ]
    said = started[1].stderr.readline() + started[1].stderr.readline()
    assert re.search(r"^step \d+/600", said, re.M)  # the first estimate's line
    time.sleep(0.1)
    started[1].send_signal(signal.SIGINT)
    said += started[1].communicate(timeout=30)[1]
    assert started[1].returncode == 130
    step = saved_step(folder)
    assert 0 < step < 600
    assert f"saved at step {step}. Continue with: tinydiff train --resume {folder}\n" in said
    assert "Traceback" not in said
    subprocess.run([*tinydiff, "--resume", folder], check=True, capture_output=True, timeout=30)
    started[0].communicate(timeout=30)
    runs.assert_same(folder, whole)


def test_ctrl_c_between_steps_saves_before_it_says_so(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupt while a frame is being drawn, not during a step: "saved" is announced, the file is still the old."""

    def interrupted(bar: terminal.Smooth, x: float) -> None:
        signal.raise_signal(signal.SIGINT)

    def listen(*text: object, **options: object) -> None:
        if "saved at step" in str(text):
            on_disk.append(saved_step(tmp_path / "run"))

    on_disk: list[int] = []
    monkeypatch.setattr(terminal.Smooth, "add", interrupted)
    monkeypatch.setattr(cli.console, "print", listen)
    with pytest.raises(typer.Exit) as stop:
        cli.train.follow(runs.new(tmp_path / "run"))
    assert stop.value.exit_code == 130
    assert on_disk == [1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here; tests/test_chaos.py kills whole commands")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_kill_at_any_moment_loses_nothing(runs: Runs, tmp_path: Path) -> None:
    """Files of different moments, or half written ones: a run that cannot go on, or goes on differently."""
    folder, often = tmp_path / "run", {"steps": 300, "evaluate_every": 50, "save_every": 1e-3}

    def go_on(ready: Event) -> None:
        known = (folder / "config.json").exists()
        ready.set()
        runs.train(Run.resume(folder) if known else runs.new(folder, **often))

    delays, fork = random.Random(0), multiprocessing.get_context("fork")
    steps = []
    for _ in range(20):
        child = fork.Process(target=go_on, args=[ready := fork.Event()])
        child.start()
        assert ready.wait(30)
        time.sleep(delays.uniform(0, 0.1))
        child.kill()
        child.join()
        if (folder / "config.json").exists():
            steps.append(saved_step(folder))
    assert steps == sorted(steps)
    assert len({step for step in steps if 0 < step < 300}) >= 3  # moments in the middle
    runs.train(Run.resume(folder))
    runs.assert_same(folder, runs.train(runs.new(tmp_path / "whole", **often)).folder)
    assert {file.name for file in folder.iterdir()} == {"config.json", "state.safetensors", "log.jsonl"}


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_divergence_keeps_the_last_checkpoint(runs: Runs, tmp_path: Path) -> None:
    """An infinite gradient that reaches the weights, or a checkpoint overwritten with what it left."""
    run = runs.train(runs.new(tmp_path / "run"), 7)
    good = (tmp_path / "run" / "state.safetensors").read_bytes()
    weights = run.optimiser.flat.values.copy()
    run.optimiser.flat.grads[0] = np.inf  # as if one backward pass had overflowed
    with pytest.raises(FloatingPointError, match=r"gradient became inf after 7 steps; train again"):
        next(train(run))
    np.testing.assert_array_equal(run.optimiser.flat.values, weights)
    assert (tmp_path / "run" / "state.safetensors").read_bytes() == good
    assert saved_step(tmp_path / "run") == 7


def test_a_changed_text_is_refused(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another Python's documentation, or an edited file: training would go on with other data and say nothing."""
    monkeypatch.setitem(data.CORPORA, "python_docs", lambda: runs.text.read_text())
    run = runs.new()
    Run(data.load("python_docs"), run.process, run.model, run.options, tmp_path / "run")
    assert saved_step(tmp_path / "run") == 0
    monkeypatch.setitem(data.CORPORA, "python_docs", lambda: runs.text.read_text() + " ")
    with pytest.raises(CheckpointError, match=r"text of python_docs is not the one .* restore it or train a new run"):
        Run.resume(tmp_path / "run")


def test_a_folder_that_holds_a_run_is_refused(runs: Runs, trained: Path) -> None:
    """A second run that overwrites the first."""
    before = (trained / "state.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=r"already holds a run; continue it with: tinydiff train --resume"):
        runs.new(trained)
    assert (trained / "state.safetensors").read_bytes() == before


def test_three_vocabularies_must_agree(runs: Runs) -> None:
    """A model of another alphabet, found out only as an index error deep inside."""
    run = runs.new()
    other = data.Corpus("other", run.corpus.text, data.Characters.of(run.corpus.text + "#"))
    with pytest.raises(ValueError, match=r"vocab_size is 13 for the corpus, 12 for the process and 12 for the model"):
        Run(other, run.process, run.model)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("steps", "batch", "warmup", "evaluate_every", "evaluate_windows", "log_every")),
        *(("lr", value) for value in (0.0, -1e-3, math.nan, math.inf)),
        *(("clip", value) for value in (0.0, math.nan)),
        *(("ema", value) for value in (-0.1, 1.0, math.nan)),
        *(("weight_decay", value) for value in (-0.1, math.nan)),
        ("save_every", math.nan),
    ],
)
def test_options_that_mean_nothing_are_refused(name: str, value: float) -> None:
    """Options that train nothing, forever, or to NaN."""
    with pytest.raises(ValueError, match=rf"^{name} is {value}"):
        Options(**{name: value})


def test_the_log_is_json(runs: Runs, tmp_path: Path) -> None:
    """NaN in the log, for instance the standard error of a single batch, which other readers of JSON refuse."""
    runs.train(runs.new(tmp_path / "run", evaluate_windows=64))
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} in log.jsonl"))
