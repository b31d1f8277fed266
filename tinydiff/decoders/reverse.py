"""Sampling masked diffusion from its reverse process itself, exactly: in some number of steps, or infinitely many."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..transformer import Model
from .canvas import Canvas
from .decoder import Masks, check_steps
from .draws import Draw, reveal
from .frames import Frame
from .quotas import highest


@dataclass(frozen=True)
class Ancestral:
    """Ancestral sampling of the masked chain (Austin et al. 2021; Sahoo et al. 2024, eq. 6).

    Going from time t to s < t, each masked position is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t),
    independently of the others. The law is `tinydiff.exact.ancestral_law`.

    Attributes
    ----------
    steps : default one per free position; may be more
    draw : which token, see `Draw`

    """

    steps: int | None = None
    draw: Draw = Draw()

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def __call__(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per step."""
        steps = canvas.most if self.steps is None else self.steps
        alpha = process.schedule.grid(steps)
        frame = canvas.first(steps)
        yield frame
        state, confidence = canvas.start, frame.confidence
        for step in range(1, steps + 1):
            now, after = steps - step + 1, steps - step  # grid points of t and s
            show = (alpha[after] - alpha[now]) / (1 - alpha[now])
            chosen = (state == canvas.mask_id) & (rng.random(state.shape) < show)
            tokens, sure = reveal(model, state, chosen, np.full(len(state), now / steps), self.draw, rng)
            state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
            yield canvas.frame(step, steps, after / steps, state, confidence, chosen)


@dataclass(frozen=True)
class FirstHitting:
    """One position per step, at the times when the continuous-time process reveals them (Zheng et al. 2024, section 3).

    Each of the n positions masked at time t stays so until s with probability (1 - alpha_s) / (1 - alpha_t), so the
    first of them is revealed when 1 - alpha_s = (1 - alpha_t) u^(1/n), u uniform, and it is equally likely to be any.
    As many steps as masks, and exactly the law of ancestral sampling in infinitely many,
    `tinydiff.exact.continuous_law`.

    Attributes
    ----------
    draw : which token, see `Draw`

    """

    draw: Draw = Draw()

    def __call__(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per position."""
        steps = canvas.most
        frame = canvas.first(steps)
        yield frame
        state, confidence = canvas.start, frame.confidence
        masked_fraction = np.ones(len(state))  # 1 - alpha_t of each sequence
        for step in range(1, steps + 1):
            masked = state == canvas.mask_id
            left = masked.sum(axis=1)
            masked_fraction = masked_fraction * rng.random(len(state)) ** (1 / np.maximum(left, 1))
            t = process.schedule.inverse(1 - masked_fraction)
            chosen = highest(np.where(masked, rng.random(state.shape), -np.inf), np.minimum(left, 1))
            tokens, sure = reveal(model, state, chosen, t, self.draw, rng)
            state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
            now = np.where((state == canvas.mask_id).any(axis=1), t, 0)  # a sequence without masks is done
            yield canvas.frame(step, steps, float(now.mean()), state, confidence, chosen)
