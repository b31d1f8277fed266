"""`tinydiff demo`: train a small model of stories in less than a minute, watch masks dissolve, and say how good it is.

The law of the stories is known (`tinydiff.data.stories`), so "how good" has exact answers: nats per story against the
entropy of the law, which no model can go below; the share of stories that keep every rule; and how varied those are,
since a model that tells one good story again and again would be right every time.
"""

from __future__ import annotations

import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from .. import box, data, learning
from ..data.stories import EOS, RULES, Stories
from ..decoders import Decoder, Draw, Gibbs, LowConfidence
from ..learning.files import quoted
from ..processes import Autoregressive, MaskedDiffusion, Process
from ..transformer import Transformer
from ..views import terminal
from .common import say

D_MODEL, LAYERS, HEADS = 64, 2, 4
STEPS = 4000
OPTIONS = {"batch": 32, "optimiser": "muon", "lr": 0.03, "muon_lr": 0.02, "warmup": 20, "ema": 0.99}
POWER = 0.5
"""Of the weights of the loss: what stands on many masks is learnt sooner."""
EMBEDDINGS = 25.0
"""How much larger than the Transformer's own the embeddings start: at 0.5, so that words differ from the first step."""
SEED = 0
ORDER = LowConfidence(draw=Draw(0.7), choice_temperature=box.CHOICE_TEMPERATURES["stories"])
DECODER = Gibbs(ORDER, rounds=6)
"""Chosen on the frontier of valid and varied, see `python -m benchmarks.stories`. Sharper draws and less noise break
fewer rules by telling fewer stories. What small networks get wrong they decided among masks, about who is he and who is
she; asked again, with two thirds of the story there, they put it right, and the stories stay as varied as they were."""
FEW = 8
COUNTED = 200
COMMAND_FOLDER = "" if shutil.which("tinydiff") else ".venv/bin/"  # `make demo` does not put the command on the path
BLANKS = (
    "In the park, _ found a red kite. Her _ Tom came to play. Then it grew hot, so _ _ _ _. She let Tom take the _ "
    "home. _ went home with the _ kite."
)


def new_run(folder: Path | None, steps: int = STEPS, process: str = "masked", **options: int) -> learning.Run:
    """A run on stories whose network and rates suit them; the autoregressive one is for the box."""
    corpus = data.load("stories")
    made: Process = (
        MaskedDiffusion(corpus.vocab_size, estimator="count", power=POWER)
        if process == "masked"
        else Autoregressive(corpus.vocab_size)
    )
    model = Transformer(
        corpus.vocab_size, corpus.law.length, d_model=D_MODEL, layers=LAYERS, heads=HEADS, positions="learned",
        rng=np.random.default_rng(SEED),
    )  # fmt: skip
    model.params["embed"].data *= np.float32(EMBEDDINGS)
    chosen = OPTIONS | {"steps": steps, "seed": SEED, "evaluate_every": max(steps // 4, 1), "evaluate_windows": 512}
    return learning.Run(corpus, made, model, learning.Options(**(chosen | options)), folder)  # type: ignore[arg-type]


class Quality(NamedTuple):
    """How good some drawn stories are.

    Attributes
    ----------
    valid : the share that keeps every rule
    variety : of those, the entropy of their choices over that of as many real ones, see `Stories.variety`
    different : of those, how many are different stories, over their number
    broken : the rules that the others break first

    """

    valid: float
    variety: float
    different: float
    broken: Counter[str]


def quality(model: Transformer, process: MaskedDiffusion, law: Stories, decoder: Decoder, texts: int) -> Quality:
    """Draw that many texts and judge them; the same ones at every call."""
    *_, last = process.sample(model, law.length, texts, decoder=decoder, rng=np.random.default_rng(SEED + 1))
    faults = law.faults(last.state)
    good = last.state[[fault is None for fault in faults]]
    n = max(len(good), 1)
    real = law.draw(n, np.random.default_rng(SEED + 1))
    variety = law.variety(good) / law.variety(real) if n > 1 else 0.0
    different = len(np.unique(good, axis=0)) / n
    return Quality(len(good) / texts, variety, different, Counter(fault for fault in faults if fault))


def show(console: Console, folder: Path, corpus: data.Examples) -> None:
    """Sample from the run in `folder`, many steps and few; fill in blanks; print its figures and what to try next."""
    model, process, codec, _ = learning.load(folder)
    law = corpus.law
    assert isinstance(process, MaskedDiffusion)
    assert isinstance(law, Stories)
    assert codec is not None

    def shown(title: str, batch: int, decoder: Decoder, **known: object) -> None:
        frames = process.sample(model, law.length, batch, decoder=decoder, rng=np.random.default_rng(SEED), **known)  # type: ignore[arg-type]
        last = terminal.show_sampling(console, codec, frames, title=title, delay=0.05)
        for ids in last.state:
            fault = law.faults(ids[None])[0]
            text = codec.decode(ids).replace(EOS, "").strip()
            say(text + (f"\n    breaks the rule of {fault}: {RULES[fault]}" if fault else "") + "\n")

    console.print(
        "\nNow the other way: from nothing but masks to a story, the surest words first. "
        f"Then second thoughts: {DECODER.rounds} times a third of it is masked at random and written again.\n"
    )
    shown("masked diffusion", 3, DECODER)
    console.print(f"\nThe same model in {FEW} steps: words that are committed together do not know of one another.\n")
    few = replace(ORDER, steps=FEW)
    shown(f"{FEW} steps", 1, few)
    console.print("\nGaps can be anywhere: what is given says what fits.\n")
    say(BLANKS)
    x0, given = data.with_blanks(codec, " " + BLANKS + EOS, "_")
    shown("infill", 1, LowConfidence(), x0=x0, given=given)

    held_out = learning.evaluate(model, process, corpus, windows=4096)
    bits, best = held_out.per_token * law.length, law.entropy / math.log(2)
    say(f"held-out: {bits:.1f} bits per story; {bits / best:.3f} of the best possible, the law's entropy of {best:.1f}")
    ways = ((f"{law.length} steps and second thoughts", DECODER), (f"{law.length} steps", ORDER), (f"{FEW} steps", few))
    for title, decoder in ways:
        found = quality(model, process, law, decoder, COUNTED)
        told = f"{title}: {100 * found.valid:.1f} % of {COUNTED} stories keep every rule"
        if found.valid > 0.5:
            told += (
                f"; those have {found.variety:.2f} of the law's entropy, and {100 * found.different:.0f} % of them are "
                "different"
            )
        if found.broken:
            told += f"; broken most: {', '.join(f'{rule} {n}' for rule, n in found.broken.most_common(3))}"
        say(told)
    say("\nNext:")
    for command in (
        f"tinydiff sample {quoted(folder)} --rounds {DECODER.rounds}",
        f"tinydiff sample {quoted(folder)} --steps 16",
        f'tinydiff infill {quoted(folder)} "{BLANKS}"',
        f"tinydiff page {quoted(folder)} --out stories.html",
        "tinydiff sample prose",
        "tinydiff train --text FILE --out runs/mine",
    ):
        say(f"  {COMMAND_FOLDER}{command}")
    say("  make lessons")
