"""The one training loop, as a generator of frames, and the held-out figure that it reports.

    for frame in train(run):
        print(frame.step, frame.loss, frame.held_out)

The loop knows nothing of processes beyond `loss` and `bound`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np

from .. import data, kernels
from ..decoders.guidance import conditioned
from ..processes import Process
from ..transformer import Model, Transformer
from . import checkpoint
from .interrupts import interrupts_wait
from .optim import learning_rate
from .run import Run

EVALUATION_BATCH = 64
EVALUATION_SEED = 1  # the same windows and masks at every evaluation, so that figures can be compared


@dataclass(frozen=True)
class TrainFrame:
    """One training step: what a progress bar or a plot needs.

    Attributes
    ----------
    step, steps : steps done and steps in all
    loss : of this step's batch, nats per token or a mean square
    grad_norm : before clipping
    lr : learning rate of this step
    tokens_per_second : of this step; for vectors, positions per second
    held_out : (mean, standard error) of the held-out bits per character or dimension, in the steps that estimate it

    """

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    tokens_per_second: float
    held_out: tuple[float, float] | None


def train(run: Run) -> Generator[TrainFrame, None, None]:
    """Train to the end of `run.options.steps`, yielding a frame per step.

    Ctrl-C takes effect between steps; it, and leaving the loop early, saves a checkpoint first.
    """
    options, corpus, model = run.options, run.corpus, run.model
    log = checkpoint.Log(run.folder, run.step) if run.folder is not None else None
    saved_at, saved_step = time.monotonic(), run.step

    def save() -> None:
        nonlocal saved_at, saved_step
        if log is not None:
            log.flush()  # before the state: the log may run ahead of it, never behind
        run.save()
        saved_at, saved_step = time.monotonic(), run.step

    try:
        while run.step < options.steps:
            with interrupts_wait():
                start = time.perf_counter()
                x0, label = corpus.examples(model.length, options.batch, run.rng)
                loss = run.process.loss(conditioned(model, label), x0, run.rng)
                loss.backward()
                lr = learning_rate(run.step, options.steps, options.lr, options.warmup)
                norm = run.optimiser.step(lr)
                run.step += 1
                run.ema.update(run.step)
                speed = len(x0) * model.length / (time.perf_counter() - start)
                last = run.step == options.steps
                held_out = None
                if run.step % options.evaluate_every == 0 or last:
                    with run.ema.applied():
                        held_out = evaluate(model, run.process, corpus, windows=options.evaluate_windows)
                frame = TrainFrame(run.step, options.steps, loss.item(), norm, lr, speed, held_out)
                if log is not None and (run.step % options.log_every == 0 or held_out or last):
                    log.append({"step": frame.step, "loss": frame.loss, "lr": lr, "held_out": held_out})
                if last or time.monotonic() - saved_at >= options.save_every:
                    save()
            yield frame
    except (KeyboardInterrupt, GeneratorExit):
        if run.step > saved_step:
            save()
        raise
    finally:
        if log is not None:
            log.close()
        kernels.give_back_memory()


def evaluate(
    model: Model, process: Process, corpus: data.Dataset, *, windows: int = 3840, length: int | None = None
) -> tuple[float, float]:
    """Held-out bits per character or dimension, an upper bound where the process has one: mean and standard error.

    Random windows of the held-out part; every call sees the same ones. The error is the spread over windows, which
    overstates it a little where a process stratifies its noise levels over a batch.

    Parameters
    ----------
    windows : how many, rounded up to whole batches of 64
    length : of each window; default the model's

    """
    if windows < 1:
        raise ValueError(f"windows is {windows}; it must be at least 1")
    if length is None:
        length = model.length if isinstance(model, Transformer) else len(corpus.held_out)
    corpus.check_length(length)
    rng = np.random.default_rng(EVALUATION_SEED)
    bits = []
    for _ in range(-(-windows // EVALUATION_BATCH)):
        x0, label = corpus.examples(length, EVALUATION_BATCH, rng, held_out=True)
        bits.append(process.bound(conditioned(model, label), x0, rng) / x0[0].size / math.log(2))
    per_window = np.concatenate(bits)
    return float(per_window.mean()), float(per_window.std(ddof=1) / math.sqrt(len(per_window)))
