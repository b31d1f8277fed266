"""Mask-Predict: write everything, mask again what is least sure, write that again (Ghazvininejad et al. 2019).

Pass 1 of T writes all N positions at once. Pass t + 1, for t = 1 .. T - 1, masks the

    n_t = max(1, floor(N (T - t) / T))

positions that are least sure, among all N, and writes them again from one look at the others. All of it is greedy: the
likeliest word. Unlike in the orders of masked diffusion (orders.py), where what is committed stays, any word may go.

How sure a word is can mean two things.

- "kept", the paper's: the probability that it had when it was written. Words that stay are not asked again, so one that
  was written early, with little to go by, looks unsure for ever, and goes, even if all the others were built around it.
- "fresh": its probability given all the others as they are now, p(y^i | y^{-i}). That takes N more evaluations a pass,
  each with one position masked.

For n = 3, 4 or 5 words in any order the first does not end in one that is right, with up to n + 2 passes, and the
second does from n passes on (tests/identities/test_lineage.py, N7, with a model that knows the law).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..transformer import Model
from .canvas import Canvas
from .decoder import Masks, check_steps
from .draws import Draw, logits_at, reveal, untempered
from .frames import Frame
from .quotas import highest

Confidence = Literal["kept", "fresh"]
DIGITS = 10  # probabilities that differ less are ties, which go to the left; float32 differs in the seventh


@dataclass(frozen=True)
class MaskPredict:
    """Mask-Predict in `steps` passes.

    Attributes
    ----------
    steps : T, by default one per free position; more are allowed
    confidence : "kept" or "fresh", see above
    draw : which word, by default the likeliest

    """

    steps: int | None = None
    confidence: Confidence = "kept"
    draw: Draw = Draw(temperature=0.0)

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.confidence not in get_args(Confidence):
            raise ValueError(f"confidence is {self.confidence!r}; expected one of {', '.join(get_args(Confidence))}")

    def __call__(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per pass: `remasked` are the positions that it masked, `committed` those that it wrote."""
        steps = canvas.most if self.steps is None else self.steps
        frame = canvas.first(steps)
        yield frame
        total = canvas.free.sum(axis=1)  # N of each sequence
        state, sure = canvas.start, frame.confidence
        for step in range(steps):
            if step == 0:
                hidden = canvas.free
            else:
                if self.confidence == "fresh":
                    sure = np.where(canvas.free, leave_one_out(process, model, state, canvas), sure)
                doubt = np.where(canvas.free, -np.round(sure, DIGITS), -np.inf)
                hidden = highest(doubt, np.maximum(total * (steps - step) // steps, 1))
            t = process.schedule.inverse(1 - hidden.mean(axis=1))
            tokens, drawn = reveal(model, np.where(hidden, canvas.mask_id, state), hidden, t, self.draw, rng)
            state, sure = np.where(hidden, tokens, state), np.where(hidden, drawn, sure)
            again = hidden if step else np.zeros_like(hidden)
            yield canvas.frame(step + 1, steps, 0.0, state, sure, hidden, again)


def leave_one_out(process: Masks, model: Model, state: Ints, canvas: Canvas) -> Floats:
    """p(y^i | y^{-i}) of every free position of full texts, 0 elsewhere: (B, L). One evaluation for each position."""
    sure = np.zeros(state.shape)
    t = process.schedule.inverse(np.full(len(state), 1 - 1 / state.shape[1]))
    for i in range(state.shape[1]):
        alone: Bools = canvas.free & (np.arange(state.shape[1]) == i)
        if alone.any():
            p = untempered(logits_at(model, np.where(alone, canvas.mask_id, state), alone, t))
            sure[alone] = p[np.arange(len(p)), state[alone]]
    return sure
