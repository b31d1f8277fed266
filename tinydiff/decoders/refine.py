"""Iterative refinement: the text goes through the model again and again (Lee, Mansimov and Cho 2018).

    y_0 = the likeliest words given the source alone,    y_t = the likeliest words given the source and y_{t-1}

All positions are written anew in every pass, each on its own: a text that is torn between right ones may well stay so.
As it is a function of the text before, it comes to an end: at a fixed point, which the model would not change any more,
or in a cycle of several texts, which is none. The paper's code stops when any of the last few outputs comes back, and
so takes a cycle for a fixed point; `orbit` tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Bools, Ints
from ..transformer import Model
from .canvas import Canvas
from .decoder import check_steps
from .draws import Draw, reveal
from .frames import Frame


@dataclass(frozen=True)
class Refine:
    """Refinement in at most `steps` passes, fewer if every text of the batch has come back to an earlier one.

    Attributes
    ----------
    steps : the first pass counts
    draw : which words the first pass takes; by default the likeliest, as all later ones do

    """

    steps: int = 10
    draw: Draw = Draw(temperature=0.0)

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def __call__(self, process: Any, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per pass; `committed` are the positions that changed."""
        frame = canvas.first(self.steps)
        yield frame
        state, seen = canvas.start, np.zeros((0, *canvas.start.shape), np.int64)
        back: Bools = np.zeros(len(state), bool)
        for step in range(1, self.steps + 1):
            draw = self.draw if step == 1 else Draw(temperature=0.0)
            tokens, sure = reveal(model, state, canvas.free, np.zeros(len(state)), draw, rng)
            before, state = state, np.where(canvas.free, tokens, canvas.start)
            confidence = np.where(canvas.free, sure, frame.confidence)
            yield canvas.frame(step, self.steps, 0.0, state, confidence, state != before)
            back = back | (seen == state).all(axis=-1).any(axis=0)
            seen = np.concatenate([seen, state[None]])
            if back.all():
                return


def orbit(states: Sequence[Ints]) -> tuple[Ints, Ints]:
    """Where the texts of successive passes, (B, L) each, come to rest: passes and period, (B,) each.

    `passes` that it took to the first text that comes back, counted from 1. A `period` of 1 is a fixed point, more is a
    cycle, and 0 says that no text has come back yet; `passes` is then all of them.
    """
    texts = np.stack(list(states))  # (P, B, L)
    passes, period = np.full(texts.shape[1], len(texts)), np.zeros(texts.shape[1], np.int64)
    for b in range(texts.shape[1]):
        first: dict[bytes, int] = {}
        for i, text in enumerate(np.ascontiguousarray(texts[:, b])):
            at = first.setdefault(text.tobytes(), i)
            if at < i:
                passes[b], period[b] = at + 1, i - at
                break
    return passes, period
