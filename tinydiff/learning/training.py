"""The one training loop, as a generator of frames, and the held-out figure that it reports.

    for frame in train(run):
        print(frame.step, frame.loss, frame.held_out)
    model = run.averaged()  # what the held-out figure is of

The loop knows nothing of processes beyond `loss` and `bound`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .. import data, kernels
from ..arrays import Floats, Ints, check_counts
from ..processes import Process
from ..transformer import Model
from . import checkpoint
from .interrupts import stops_wait
from .optim import learning_rate
from .ranks import Alone, Ranks, together
from .run import Run
from .shards import Shares

EVALUATION_BATCH = 64
EVALUATION_SEED = 1  # the same windows and masks at every evaluation, so that figures can be compared


class HeldOut(NamedTuple):
    """A held-out figure in bits, an upper bound where the process has one, with its standard error.

    Attributes
    ----------
    mean, error : per character of text, whatever its tokens; else per token or per dimension: the data's `unit`
    per_token, per_token_error : per token of the codec, or again per dimension

    """

    mean: float
    error: float
    per_token: float
    per_token_error: float


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
    held_out : bits per character or dimension, in the steps that estimate it; of the averaged weights (`Run.averaged`)

    """

    step: int
    steps: int
    loss: float
    grad_norm: float
    lr: float
    tokens_per_second: float
    held_out: HeldOut | None


def train(run: Run, ranks: Ranks | None = None) -> Generator[TrainFrame, None, None]:
    """Train to the end of `run.options.steps`, yielding a frame per step.

    Ctrl-C, a signal to end and a closed terminal take effect between steps; they, and leaving the loop early, save a
    checkpoint first. Nobody else can train in the run's folder meanwhile.

    Parameters
    ----------
    ranks : who trains this run together, see `tinydiff.learning.ranks`; default this process alone. Each rank calls
        this with a run of its own, made alike, of which that of rank 0 has the folder. A signal to one of them stops
        all after the same step; who leaves the loop early must do so on all

    """
    ranks = ranks or Alone()
    try:
        with ExitStack() as held:
            with together(ranks):
                shares = Shares(run, ranks)
                held.enter_context(run.held())
            stops = held.enter_context(stops_wait()) if ranks.size > 1 else []
            yield from _train(run, shares, stops)
    except (GeneratorExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if not getattr(error, "agreed", False):
            ranks.abort()
        raise


def _train(run: Run, shares: Shares, waiting: list[int]) -> Generator[TrainFrame, None, None]:
    """The loop; `waiting` holds the signals to this rank of several, until all stop together."""
    options, corpus, model, several = run.options, run.corpus, run.model, shares.ranks.size > 1
    log = checkpoint.Log(run.folder, run.step) if run.folder is not None else None
    saved_at, saved_step = time.monotonic(), run.step

    def save() -> None:
        nonlocal saved_at, saved_step
        shares.fetch_state()
        with together(shares.ranks):
            run.check_folder()
            if log is not None:
                log.flush()  # before the state: the log may run ahead of it, never behind
            run.save()
        saved_at, saved_step = time.monotonic(), run.step

    try:
        stop = 0
        while run.step < options.steps and not (stop and several):  # alone, it is for the handler to end it
            with stops_wait() as stops:
                start = time.perf_counter()
                run.optimiser.flat.check_bound(model.params)
                length = model.length
                if options.random_lengths and run.rng.random() < options.random_lengths:
                    least = getattr(corpus, "longest", 1)  # pairs must fit
                    length = int(run.rng.integers(least, model.length, endpoint=True))
                batch = corpus.examples(length, options.batch, run.rng)
                try:
                    loss = shares.gradient(batch)
                except BaseException:
                    run.optimiser.flat.grads[...] = 0  # part of a gradient would be added to the next
                    raise
                since, until = run.step - options.restart, options.steps - options.restart
                lr = learning_rate(since, until, options.lr, options.warmup)
                norm = shares.update(lr)
                run.step += 1
                shares.average()
                speed = len(batch.x0) * length / (time.perf_counter() - start)
                last = run.step == options.steps
                held_out = None
                if run.step % options.evaluate_every == 0 or last:
                    shares.fetch_average()
                    held_out = evaluate(run.averaged(), run.process, corpus, windows=options.evaluate_windows)
                frame = TrainFrame(run.step, options.steps, loss, norm, lr, speed, held_out)
                if log is not None and (run.step % options.log_every == 0 or held_out or last):
                    log.append({"step": frame.step, "loss": frame.loss, "lr": lr, "held_out": held_out})
                due = time.monotonic() - saved_at >= options.save_every
                stop, due = shares.agree(next(iter([*waiting, *stops]), 0), due)
                if last or stop or due:
                    save()
            if stop and several and not waiting:
                waiting.append(stop)  # as if this rank had received it too
            yield frame
    except (KeyboardInterrupt, GeneratorExit):
        if run.step > saved_step:
            with stops_wait():
                save()
        raise
    finally:
        kernels.give_back_memory()


def evaluate(
    model: Model, process: Process, corpus: data.Dataset, *, windows: int = 3840, length: int | None = None
) -> HeldOut:
    """How well held-out data is predicted: all bits over all characters (or dimensions) of random windows of it.

    Only what is free is scored and counted. Every call sees the same windows. The standard error is that of the data as
    a sample: windows that overlap, or a text that is drawn again, add nothing new (`Batch.cluster`), so more windows
    bring it down to what the held-out part allows and no further.

    Parameters
    ----------
    windows : how many, rounded up to whole batches of 64
    length : of each window; default the model's

    """
    check_counts(windows=windows)
    length = getattr(model, "length", None) if length is None else length
    if length is None:
        raise ValueError("length is missing, and the model has none of its own")
    corpus.check_length(length)
    rng, codec = np.random.default_rng(EVALUATION_SEED), getattr(corpus, "codec", None)
    lengths = getattr(corpus, "token_lengths", None if codec is None else codec.lengths)
    bits, tokens, characters, clusters = [], [], [], []
    for start in range(0, windows, EVALUATION_BATCH):
        batch = corpus.examples(length, EVALUATION_BATCH, rng, held_out=True)
        bits.append(process.bound(model, batch, rng) / math.log(2))
        free = np.ones(np.shape(batch.x0), bool) if batch.given is None else ~batch.given
        axes = tuple(range(1, free.ndim))
        tokens.append(free.sum(axis=axes))
        characters.append(tokens[-1] if lengths is None else (free * lengths[batch.x0]).sum(axis=axes))
        clusters.append(start + np.arange(EVALUATION_BATCH) if batch.cluster is None else batch.cluster)
    in_bits, cluster = np.concatenate(bits), np.concatenate(clusters)
    return HeldOut(
        *_ratio(in_bits, np.concatenate(characters), cluster), *_ratio(in_bits, np.concatenate(tokens), cluster)
    )


def _ratio(total: Floats, size: Ints, cluster: Ints) -> tuple[float, float]:
    """Sum over sum, and its standard error by the spread over clusters: nan if there is but one. Of nothing, nan."""
    if not size.sum():
        return math.nan, math.nan
    ratio = total.sum() / size.sum()
    _, at = np.unique(cluster, return_inverse=True)
    off = np.bincount(at, total - ratio * size)  # of each cluster, 0 in sum
    many = len(off) / (len(off) - 1) if len(off) > 1 else math.nan
    return float(ratio), float(np.sqrt(many * (off**2).sum()) / size.sum())
