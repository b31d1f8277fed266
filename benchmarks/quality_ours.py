"""tinydiff's side of the time to quality."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.cases import SIZES
from benchmarks.ours import describe
from benchmarks.quality_cases import CORPUS, ENTRIES, Board, Entry
from tinydiff import Autoregressive, MaskedDiffusion, Options, Run, Transformer, data, evaluate, kernels, train

__all__ = ["CASES", "describe", "trained"]


def run_of(entry: Entry, board: Board, seed: int) -> Run:
    """A run that has not started."""
    corpus = data.load(CORPUS)
    size, vocab_size = SIZES[board[0]], corpus.vocab_size
    masked = board[1] == "masked"
    process = MaskedDiffusion(vocab_size, estimator=entry.estimator) if masked else Autoregressive(vocab_size)
    model = Transformer(
        vocab_size, size.length, d_model=size.d_model, layers=size.layers, heads=size.heads, precision=entry.precision,
        positions=entry.positions, rng=np.random.default_rng(seed),
    )  # fmt: skip
    steps = entry.steps[board]
    lr, muon_lr = entry.lr[board], entry.lr[board] if entry.optimiser == "muon" else None
    options = Options(
        steps=steps, batch=size.batch, lr=lr, muon_lr=muon_lr, optimiser=entry.optimiser, seed=seed,
        evaluate_every=steps,
    )  # fmt: skip
    return Run(corpus, process, model, options)


def trained(entry: Entry, board: Board, seed: int) -> Iterator[int | tuple[float, float]]:
    """Train; yields the steps done, and last the held-out bits per character and their standard error."""
    run = run_of(entry, board, seed)
    for frame in train(run):
        yield frame.step
    model = run.averaged() if entry.averaged else run.model
    model.precision = "full"  # whatever it was trained in, as a run that is read from its folder
    found = evaluate(model, run.process, run.corpus, windows=3840)
    yield found.mean, found.error


def step(entry: Entry, board: Board) -> Callable[[], object]:
    """A call that does one training step, for the clock."""
    frames = train(run_of(entry, board, 0))
    return lambda: next(frames)


CASES = {
    f"{' '.join(board)} {name}": (lambda entry=entry, board=board: step(entry, board))
    for name, entry in ENTRIES.items()
    if entry.module == "quality_ours" and (entry.precision == "full" or kernels.has_bfloat16())
    for board in entry.steps
}
