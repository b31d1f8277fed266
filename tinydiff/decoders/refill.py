"""Sampling from a BERT: fill all masks at once, then mask some and fill them again, over and over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..arrays import Floats, Ints
from ..transformer import Model
from .canvas import Canvas
from .decoder import check_steps
from .draws import Draw, categorical
from .frames import Frame


class Refillable(Protocol):
    """What this decoder needs of its process: how much to mask, and what may come back."""

    rate: float

    def refill(self, model: Model, xt: Ints, draw: Draw | None = None) -> Floats:
        """Laws of every position after filling the masks of x_t: (B, L, V)."""
        ...


@dataclass(frozen=True)
class Refill:
    """Rounds of masking at the rate of the process and filling: a Gibbs-like chain (Wang and Cho 2019).

    Attributes
    ----------
    steps : rounds, the first one included; default one per position
    draw : which token, see `Draw`

    """

    steps: int | None = None
    draw: Draw = Draw()

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def __call__(self, process: Refillable, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per round."""
        steps = canvas.start.shape[1] if self.steps is None else self.steps
        frame = canvas.first(steps)
        yield frame
        state, confidence = canvas.start, frame.confidence
        for step in range(1, steps + 1):
            chosen = canvas.free & ((rng.random(state.shape) < process.rate) | (step == 1))
            law = process.refill(model, np.where(chosen, canvas.mask_id, state), self.draw)
            state = np.where(chosen, categorical(law, rng), state)
            sure = np.take_along_axis(law, state[..., None], axis=-1)[..., 0]
            confidence = np.where(chosen, sure, confidence)
            again = chosen if step > 1 else np.zeros_like(chosen)
            yield canvas.frame(step, steps, 1 - step / steps, state, confidence, chosen, again)
