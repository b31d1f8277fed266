"""`tinydiff demo`: train for about as long as asked, show masks dissolving, and say what to try next."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from .. import data, learning
from ..decoders import CHOICE_TEMPERATURE, Draw, Frame, LowConfidence
from ..learning.files import quoted
from ..processes import MaskedDiffusion
from ..transformer import Transformer
from ..views import terminal
from .common import say

LENGTH, D_MODEL, LAYERS, HEADS = 128, 96, 3, 4
OPTIONS = learning.Options(batch=16, evaluate_every=500)
SEED = 0
TRIAL_STEPS = 30
COMMAND_FOLDER = "" if shutil.which("tinydiff") else ".venv/bin/"  # `make demo` does not put the command on the path


def new_run(folder: Path, seconds: float) -> learning.Run:
    """A run of as many steps as this machine does in about that time."""
    corpus = data.load("python_docs")
    process = MaskedDiffusion(corpus.vocab_size)

    def model() -> Transformer:
        return Transformer(
            corpus.vocab_size, LENGTH, d_model=D_MODEL, layers=LAYERS, heads=HEADS, rng=np.random.default_rng(SEED)
        )

    trial = learning.Run(corpus, process, model(), OPTIONS)
    frames = learning.train(trial)
    times = []
    for _ in range(TRIAL_STEPS):
        start = time.perf_counter()
        next(frames)
        times.append(time.perf_counter() - start)
    steps = max(OPTIONS.warmup, round(seconds / float(np.median(times))))
    return learning.Run(corpus, process, model(), replace(OPTIONS, steps=steps), folder)


def show(console: Console, folder: Path, corpus: data.Corpus, training_speed: float | None) -> None:
    """Sample from the run in `folder`, then print its figures and what to try next."""
    model, process, codec, _ = learning.load(folder)
    assert isinstance(process, MaskedDiffusion)
    assert codec is not None
    console.print("\nNow the other way: from nothing but masks to text, the most confident characters first.\n")
    decoder = LowConfidence(draw=Draw(0.7), choice_temperature=CHOICE_TEMPERATURE)
    frames = process.sample(model, model.length, 2, decoder=decoder, rng=np.random.default_rng(SEED))
    seconds = []

    def timed() -> Iterator[Frame]:
        while True:
            start = time.perf_counter()
            frame = next(frames, None)
            seconds.append(time.perf_counter() - start)
            if frame is None:
                return
            yield frame

    last = terminal.show_sampling(console, codec, timed(), title="masked diffusion", delay=0.05)
    for ids in last.state:
        say(codec.decode(ids) + "\n")
    held_out = learning.evaluate(model, process, corpus, windows=1024)
    say(f"held-out: {held_out.mean:.3f} +- {held_out.error:.3f} bits per character (an upper bound, 1,024 windows)")
    speed = f"{last.state.size / sum(seconds):.0f} characters/s sampling in {last.steps} steps"
    say(f"speed: {'' if training_speed is None else f'{training_speed:.0f} characters/s training, '}{speed}")
    say("\nNext:")
    for command in (
        f"tinydiff sample {quoted(folder)} --steps 16",
        f'tinydiff infill {quoted(folder)} "the ______ statement is used to"',
        f"tinydiff evaluate {quoted(folder)}",
        "tinydiff train --text FILE --out runs/mine",
    ):
        say(f"  {COMMAND_FOLDER}{command}")
    say("  make lessons")
