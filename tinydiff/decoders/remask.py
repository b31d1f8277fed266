"""Reverse processes that mask committed tokens again: mistakes can be mended (ReMDM, Wang et al. 2025).

Going from time t to s < t, each visible token is masked again with probability sigma_t, and in exchange each masked one
is revealed more often (their eq. 3 to 5):

    q(x_s = x_0 | x_t = x_0)  = 1 - sigma_t
    q(x_s = x_0 | x_t = MASK) = (alpha_s - (1 - sigma_t) alpha_t) / (1 - alpha_t)

The marginals stay those of masked diffusion: if a token is visible at t with probability alpha_t, then at s with

    alpha_t (1 - sigma_t) + (1 - alpha_t) (alpha_s - (1 - sigma_t) alpha_t) / (1 - alpha_t)  =  alpha_s.

So a network trained for masked diffusion serves unchanged, and its NELBO is the case sigma = 0, which is ancestral
sampling. The second line is a probability as long as 0 <= sigma_t <= most_t = min(1, (1 - alpha_s) / alpha_t), and
sigma is a choice within that:

    cap          min(eta, most_t)
    rescale      eta most_t
    confidence   eta most_t times the softmax, over the visible tokens, of minus the confidence they were committed with

"confidence" bends the argument: sigma differs between tokens and is 0 for masked ones, so that nothing is revealed in
exchange, more stays masked than 1 - alpha_t says, and the last step, where sigma is 0, reveals all that is left.

More steps mean more chances to mend, so quality goes on rising beyond one step per token: compute at inference time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

from .. import kernels
from ..arrays import Bools, Floats, Ints
from ..schedules import Schedule
from ..transformer import Model
from .draws import Draw, reveal
from .frames import Frame, first_frame

Remdm = Literal["cap", "rescale", "confidence"]
ETA: dict[str, float] = {"cap": 0.02, "rescale": 0.1, "confidence": 1.0}
"""Default strength of each."""


def remdm(
    model: Model,
    start: Ints,
    mask_id: int,
    schedule: Schedule,
    *,
    steps: int,
    rng: np.random.Generator,
    how: Remdm,
    eta: float | None = None,
    draw: Draw = Draw(),
    allowed: Bools | None = None,
) -> Iterator[Frame]:
    """Ancestral sampling with remasking, a frame per step; positions of `start` without `mask_id` stay.

    Parameters
    ----------
    how, eta : what sigma is, see above; eta in [0, 1], by default `ETA[how]`
    allowed : (B, L, V), the tokens that each position may hold

    """
    if how not in get_args(Remdm):
        raise ValueError(f"remask is {how!r}; expected one of {', '.join(get_args(Remdm))}")
    eta = ETA[how] if eta is None else eta
    if not 0 <= eta <= 1:
        raise ValueError(f"eta is {eta}; expected 0 <= eta <= 1")
    return _remdm(model, start, mask_id, schedule, steps, rng, how, eta, draw, allowed)


def _remdm(
    model: Model,
    start: Ints,
    mask_id: int,
    schedule: Schedule,
    steps: int,
    rng: np.random.Generator,
    how: Remdm,
    eta: float,
    draw: Draw,
    allowed: Bools | None,
) -> Iterator[Frame]:
    alpha = schedule.grid(steps)
    frame = first_frame(start, mask_id, steps)
    yield frame
    free = start == mask_id
    state, confidence = start.copy(), frame.confidence.copy()
    for step in range(1, steps + 1):
        now, after = steps - step + 1, steps - step  # grid points of t and s
        masked, visible = state == mask_id, free & (state != mask_id)
        most = min(1.0, (1 - alpha[after]) / alpha[now]) if alpha[now] > 0 else 1.0
        sigma = min(eta, most) if how == "cap" else eta * most
        exchange = 0.0 if how == "confidence" else sigma  # sigma of masked tokens
        if how == "confidence":
            sigma = sigma * least_sure(visible, confidence)  # (B, L)
        back = visible & (rng.random(state.shape) < sigma)
        show = (alpha[after] - (1 - exchange) * alpha[now]) / (1 - alpha[now])
        chosen = masked & (rng.random(state.shape) < show)
        tokens, sure = reveal(model, state, chosen, np.full(len(state), now / steps), draw, rng, allowed)
        state = np.where(chosen, tokens, np.where(back, mask_id, state))
        confidence = np.where(chosen, sure, np.where(back, 0, confidence))
        yield Frame(step, steps, after / steps, state, chosen, back, confidence)


def least_sure(visible: Bools, confidence: Floats) -> Floats:
    """The softmax of minus the confidence over the visible tokens of each sequence, 0 elsewhere: (B, L)."""
    weight = kernels.softmax(np.where(visible, -confidence, -1e9))  # finite: there may be no visible token
    return np.where(visible, weight, 0)
