"""tinydiff's side of the time to quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.ours import describe
from benchmarks.quality_cases import CORPUS, ENTRIES, MODES, SIZE, Entry, Mode
from tinydiff import Autoregressive, MaskedDiffusion, Options, Run, Transformer, data, evaluate, train

__all__ = ["CASES", "describe", "trained"]


def run_of(entry: Entry, mode: Mode, seed: int) -> Run:
    """A run that has not started."""
    corpus = data.load(CORPUS)
    size, vocab_size = SIZE, corpus.vocab_size
    process = MaskedDiffusion(vocab_size, estimator=entry.estimator) if mode == "masked" else Autoregressive(vocab_size)
    model = Transformer(
        vocab_size, size.length, d_model=size.d_model, layers=size.layers, heads=size.heads,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    steps = entry.steps[mode]
    options = Options(
        steps=steps, batch=size.batch, lr=entry.lr, optimiser=entry.optimiser, seed=seed, evaluate_every=steps
    )
    return Run(corpus, process, model, options)


def trained(entry: Entry, mode: Mode, seed: int) -> Iterator[int | tuple[float, float]]:
    """Train; yields the steps done, and last the held-out bits per character and their standard error."""
    run = run_of(entry, mode, seed)
    for frame in train(run):
        yield frame.step
    found = evaluate(run.averaged() if entry.averaged else run.model, run.process, run.corpus, windows=3840)
    yield found.mean, found.error


def step(entry: Entry, mode: Mode) -> Callable[[], object]:
    """A call that does one training step, for the clock."""
    frames = train(run_of(entry, mode, 0))
    return lambda: next(frames)


CASES = {
    f"{mode} {name}": (lambda entry=entry, mode=mode: step(entry, mode))
    for name, entry in ENTRIES.items()
    if entry.module == "quality_ours"
    for mode in MODES
}
