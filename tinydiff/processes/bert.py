"""BERT: masked cross-entropy at one masking rate (Devlin et al. 2019), a single slice of masked diffusion.

The loss at rate u is the integrand of the NELBO at the time when a fraction u is masked:

    NELBO(x_0) = integral_0^1 1/u E[sum of masked cross-entropies at rate u] du

A network that has seen one rate only was never asked about the others, so its NELBO (`bound`) is loose, and it does not
say how to start from nothing. `decoders.Refill` does what can be done with it: mask some tokens, fill them in, over and
over. Filling several tokens at once from their separate laws breaks what ties them together, so even with the true
conditionals the chain settles on another law than the data's (unless it masks one token at a time, Gibbs sampling).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import decoders
from ..arrays import Floats, Ints, one_hot
from ..data import Batch
from ..tensor import no_grad
from ..transformer import Model
from .discrete import share
from .divided import Draws
from .masked import MaskedDiffusion


class Bert(MaskedDiffusion):
    """Masked language model over `vocab_size` tokens.

    Parameters
    ----------
    vocab_size : number V of real tokens; MASK has id V
    rate : probability that a token is masked, in training and in each round of sampling

    """

    decoded_by: tuple[type[decoders.Decoder], ...] = (decoders.Refill,)

    def __init__(self, vocab_size: int, rate: float = 0.15) -> None:
        if not 0 < rate <= 1:
            raise ValueError(f"rate is {rate}; expected 0 < rate <= 1")
        super().__init__(vocab_size)
        self.rate = rate

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {"process": "bert", "vocab_size": self.vocab_size, "rate": self.rate}

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """As of masked diffusion, at one time: the cross-entropy is over the number of masks expected, rate * A."""
        label, x0, free = self.known(batch)
        t = np.full(len(x0), self.rate)  # the linear schedule: the time is the rate
        weight = np.broadcast_to((1 / self.rate * share(free))[:, None], x0.shape)
        return label, x0, self.corrupt(x0, t, rng, ~free), t, weight

    def refill(self, model: Model, xt: Ints, draw: decoders.Draw | None = None) -> Floats:
        """Laws of every position after filling the masks of x_t, (B, L) to (B, L, V); visible tokens stay."""
        draw = draw or decoders.Draw()
        with no_grad():
            logits = model(xt, (xt == self.mask_id).mean(axis=1)).data
        p = draw.probabilities(logits.reshape(-1, self.vocab_size)).reshape(logits.shape)
        seen = one_hot(xt, self.symbols)[..., : self.vocab_size]
        return np.where((xt == self.mask_id)[..., None], p, seen)
