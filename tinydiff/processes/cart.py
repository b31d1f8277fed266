"""CART: masked diffusion trained with weights that follow the context (Dream, Ye et al. 2025, section 3.2).

A masked token between visible ones can be told; one in the middle of nothing cannot. So each masked position counts by
how near it is to what is visible, in place of the weight w(t) that all masks of a sequence share:

    w_i = 1/2 sum over visible j of p (1 - p)^(|i - j| - 1)

The best denoiser is the same wherever this is positive. But the loss is no bound: where all is MASK every weight is 0,
so that the first step of writing from nothing is never trained. `bound` stays that of masked diffusion.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..data import Batch
from ..tensor import Tensor
from ..transformer import Model
from .discrete import T_MIN
from .divided import Draws
from .masked import MaskedDiffusion


class CART(MaskedDiffusion):
    """Masked diffusion with context-adaptive noise rescheduling at token level.

    Parameters
    ----------
    vocab_size, schedule : as of `MaskedDiffusion`
    p : how fast the weight falls with the distance, between 0 and 1

    """

    def __init__(self, vocab_size: int, schedule: str = "linear", p: float = 0.3) -> None:
        if not 0 < p < 1:
            raise ValueError(f"p is {p}; expected 0 < p < 1")
        super().__init__(vocab_size, schedule)
        self.p = p

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return super().config | {"process": "cart", "p": self.p}

    def weights(self, hidden: Bools) -> Floats:
        """How much each position counts in the loss, (B, L) masks to (B, L)."""
        place = np.arange(hidden.shape[1])
        away = np.abs(place[:, None] - place)
        near = np.where(away > 0, self.p * (1 - self.p) ** (away - 1.0), 0)  # (L, L)
        return np.asarray(np.where(hidden, ~hidden @ near / 2, 0))

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """As of masked diffusion, with the weights above over the number of free positions."""
        label, x0, free = self.known(batch)
        t = T_MIN + (1 - T_MIN) * (np.arange(len(x0)) + rng.random()) / len(x0)
        xt = self.corrupt(x0, t, rng, ~free)
        hidden = xt == self.mask_id
        return label, x0, xt, t, self.weights(hidden) / free.sum(axis=1, keepdims=True)

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """Weighted masked cross-entropy per free position: a scalar, in nats but no bound of anything."""
        label, x0, xt, t, weight = draws
        loss: Tensor = self._weighted_nll(self.told(model, label), x0, xt, t, weight).sum() / len(x0)
        return loss
