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

    RemaskCap          min(eta, most_t)
    RemaskRescale      eta most_t
    RemaskConfidence   eta most_t times the softmax, over the visible tokens, of minus the confidence that they were
                       committed with

`RemaskConfidence` bends the argument: sigma differs between tokens and is 0 for masked ones, so that nothing is
revealed in exchange, more stays masked than 1 - alpha_t says, and the last step, where sigma is 0, reveals all that is
left.

More steps mean more chances to mend, so quality goes on rising beyond one step per token: compute at inference time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .. import kernels
from ..arrays import Bools, Floats
from ..transformer import Model
from .canvas import Canvas
from .decoder import Masks, check_steps
from .draws import Draw, reveal
from .frames import Frame


@dataclass(frozen=True)
class Remask:
    """Base of the three: ancestral sampling with remasking.

    Attributes
    ----------
    steps : default one per free position; may be more
    eta : strength, 0 (plain ancestral sampling) to 1
    draw : which token, see `Draw`

    """

    steps: int | None = None
    eta: float = 1.0
    draw: Draw = Draw()

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta is {self.eta}; expected 0 <= eta <= 1")

    def sigma(self, most: float, visible: Bools, confidence: Floats) -> tuple[float, Floats | float]:
        """Sigma of masked tokens, and of visible ones: for all, or for each (B, L)."""
        raise NotImplementedError

    def __call__(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per step."""
        steps = canvas.most if self.steps is None else self.steps
        alpha = process.schedule.grid(steps)
        frame = canvas.first(steps)
        yield frame
        state, confidence = canvas.start, frame.confidence
        for step in range(1, steps + 1):
            now, after = steps - step + 1, steps - step  # grid points of t and s
            masked, visible = state == canvas.mask_id, canvas.free & (state != canvas.mask_id)
            most = min(1.0, (1 - alpha[after]) / alpha[now]) if alpha[now] > 0 else 1.0
            exchange, sigma = self.sigma(most, visible, confidence)
            back = visible & (rng.random(state.shape) < sigma)
            show = (alpha[after] - (1 - exchange) * alpha[now]) / (1 - alpha[now])
            chosen = masked & (rng.random(state.shape) < show)
            tokens, sure = reveal(model, state, chosen, np.full(len(state), now / steps), self.draw, rng)
            state = np.where(chosen, tokens, np.where(back, canvas.mask_id, state))
            confidence = np.where(chosen, sure, np.where(back, 0, confidence))
            yield canvas.frame(step, steps, after / steps, state, confidence, chosen, back)


@dataclass(frozen=True)
class RemaskCap(Remask):
    """The same sigma in every step, as far as it is a probability (ReMDM-cap, Wang et al. 2025)."""

    eta: float = 0.02

    def sigma(self, most: float, visible: Bools, confidence: Floats) -> tuple[float, float]:
        """min(eta, most) for all."""
        return min(self.eta, most), min(self.eta, most)


@dataclass(frozen=True)
class RemaskRescale(Remask):
    """The same share of the largest possible sigma in every step (ReMDM-rescale, Wang et al. 2025)."""

    eta: float = 0.1

    def sigma(self, most: float, visible: Bools, confidence: Floats) -> tuple[float, float]:
        """Eta most for all."""
        return self.eta * most, self.eta * most


@dataclass(frozen=True)
class RemaskConfidence(Remask):
    """More often the tokens that the model was less sure of (ReMDM-conf, Wang et al. 2025)."""

    eta: float = 1.0

    def sigma(self, most: float, visible: Bools, confidence: Floats) -> tuple[float, Floats]:
        """Nothing for masked tokens, eta most for the visible ones together."""
        return 0.0, self.eta * most * least_sure(visible, confidence)


def least_sure(visible: Bools, confidence: Floats) -> Floats:
    """The softmax of minus the confidence over the visible tokens of each sequence, 0 elsewhere: (B, L)."""
    weight = kernels.softmax(np.where(visible, -confidence, -1e9))  # finite: there may be no visible token
    return np.where(visible, weight, 0)
