"""Sampling from the reverse process itself, exactly.

- `ancestral`: every masked position is revealed on its own with the probability the reverse process gives it.
- `first_hitting`: its limit of infinitely many steps, in as many steps as there are masks.
- `chain`: any other reverse chain on tokens, where every position may change at every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..schedules import Schedule
from ..transformer import Model
from .draws import Draw, categorical, reveal
from .frames import Frame, first_frame
from .orders import highest

Reverse: TypeAlias = Callable[[Ints, float, float], Floats]
"""A reverse chain: x_t (B, L) and the times t > s to the law of each position of x_s, (B, L, S)."""


def chain(reverse: Reverse, start: Ints, fixed: Bools, times: Floats, rng: np.random.Generator) -> Iterator[Frame]:
    """Walk a reverse chain: draw every position of x_s from p(x_s | x_t), for each pair of neighbouring times.

    Parameters
    ----------
    start : (B, L) the state at the last time
    fixed : (B, L) positions that keep their tokens
    times : (steps + 1,) from 0 upwards

    """
    steps = len(times) - 1
    nothing = np.zeros(start.shape, bool)
    state, confidence = start.copy(), fixed.astype(np.float64)
    yield Frame(0, steps, float(times[-1]), state, nothing, nothing, confidence)
    for step in range(1, steps + 1):
        t, s = float(times[steps - step + 1]), float(times[steps - step])
        law = reverse(state, t, s)
        drawn = np.where(fixed, state, categorical(law, rng))
        sure = np.take_along_axis(law, drawn[..., None], axis=-1)[..., 0]
        changed = drawn != state
        confidence = np.where(changed, sure, confidence)
        state = drawn
        yield Frame(step, steps, s, state, changed, nothing, confidence)


def ancestral(
    model: Model,
    start: Ints,
    mask_id: int,
    schedule: Schedule,
    *,
    steps: int,
    rng: np.random.Generator,
    draw: Draw = Draw(),
    allowed: Bools | None = None,
) -> Iterator[Frame]:
    """Ancestral sampling of the masked chain (Austin et al. 2021; Sahoo et al. 2024, eq. 6).

    Going from time t to s < t, each masked position is revealed with probability (alpha_s - alpha_t) / (1 - alpha_t),
    independently of the others.

    Parameters
    ----------
    start : (B, L) token ids; positions holding `mask_id` are filled, the others stay
    allowed : (B, L, V), the tokens that each position may hold

    """
    alpha = schedule.grid(steps)
    frame = first_frame(start, mask_id, steps)
    yield frame
    state, confidence = start.copy(), frame.confidence.copy()
    for step in range(1, steps + 1):
        now, after = steps - step + 1, steps - step  # grid points of t and s
        show = (alpha[after] - alpha[now]) / (1 - alpha[now])
        chosen = (state == mask_id) & (rng.random(state.shape) < show)
        tokens, sure = reveal(model, state, chosen, np.full(len(state), now / steps), draw, rng, allowed)
        state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
        yield Frame(step, steps, after / steps, state, chosen, np.zeros_like(chosen), confidence)


def first_hitting(
    model: Model,
    start: Ints,
    mask_id: int,
    schedule: Schedule,
    *,
    rng: np.random.Generator,
    draw: Draw = Draw(),
    allowed: Bools | None = None,
) -> Iterator[Frame]:
    """One position per step, at the times when the continuous-time process reveals them (Zheng et al. 2024, section 3).

    Each of the n positions masked at time t stays so until s with probability (1 - alpha_s) / (1 - alpha_t), so the
    first of them is revealed when 1 - alpha_s = (1 - alpha_t) u^(1/n), u uniform, and it is equally likely to be any.
    As many steps as masks, and exactly the law of ancestral sampling in infinitely many.
    """
    steps = max(int((start == mask_id).sum(axis=1).max()), 1)
    frame = first_frame(start, mask_id, steps)
    yield frame
    state, confidence = start.copy(), frame.confidence.copy()
    masked_fraction = np.ones(len(start))  # 1 - alpha_t of each sequence
    for step in range(1, steps + 1):
        masked = state == mask_id
        left = np.maximum(masked.sum(axis=1), 1)
        masked_fraction = masked_fraction * rng.random(len(start)) ** (1 / left)
        t = schedule.inverse(1 - masked_fraction)
        chosen = highest(np.where(masked, rng.random(state.shape), -np.inf), np.minimum(masked.sum(axis=1), 1))
        tokens, sure = reveal(model, state, chosen, t, draw, rng, allowed)
        state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
        now = np.where((state == mask_id).any(axis=1), t, 0)  # a sequence without masks is done
        yield Frame(step, steps, float(now.mean()), state, chosen, np.zeros_like(chosen), confidence)
