"""`tinydiff demo`: train for about as long as asked, show masks dissolving, and say what to try next."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from . import data, training
from .processes import MaskedDiffusion
from .samplers import CHOICE_TEMPERATURE
from .transformer import Transformer
from .views import terminal

LENGTH, D_MODEL, LAYERS, HEADS = 128, 96, 3, 4
OPTIONS = training.Options(batch=16, evaluate_every=500)
SEED = 0
TRIAL_STEPS = 30


def new_run(folder: Path, seconds: float) -> training.Run:
    """A run of as many steps as this machine does in about that time."""
    corpus = data.load("python_docs")
    process = MaskedDiffusion(corpus.vocab_size)

    def model() -> Transformer:
        return Transformer(
            corpus.vocab_size, LENGTH, d_model=D_MODEL, layers=LAYERS, heads=HEADS, rng=np.random.default_rng(SEED)
        )

    trial = training.Run(corpus, process, model(), OPTIONS)
    frames = training.train(trial)
    times = []
    for _ in range(TRIAL_STEPS):
        start = time.perf_counter()
        next(frames)
        times.append(time.perf_counter() - start)
    steps = max(OPTIONS.warmup, round(seconds / float(np.median(times))))
    return training.Run(corpus, process, model(), replace(OPTIONS, steps=steps), folder)


def show(console: Console, folder: Path, corpus: data.Corpus) -> None:
    """Sample from the run in `folder`, then print its figures and what to try next."""
    model, process, codec, _ = training.load(folder)
    assert isinstance(process, MaskedDiffusion)
    console.print("\nNow the other way: from nothing but masks to text, the most confident characters first.\n")
    frames = process.sample(
        model, model.length, 2, rng=np.random.default_rng(SEED), temperature=0.7, choice_temperature=CHOICE_TEMPERATURE
    )  # fmt: skip
    last = terminal.show_sampling(console, codec, frames, title="masked diffusion", delay=0.05)
    for ids in last.state:
        print(codec.decode(ids), end="\n\n")
    mean, error = training.evaluate(model, process, corpus, windows=1024)
    print(f"held-out: {mean:.3f} +- {error:.3f} bits per character (an upper bound, 1,024 windows)")
    print("\nNext:")
    for command in (
        f"tinydiff sample {folder} --steps 16",
        f'tinydiff infill {folder} "the ______ statement is used to"',
        f"tinydiff evaluate {folder}",
        "tinydiff train --text FILE --out runs/mine",
        "make lessons",
    ):
        print(f"  {command}")
