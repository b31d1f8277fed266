"""As many positions at once as can be afforded: rules that promise something about what is lost.

Tokens that are committed together are drawn as if they were independent given what is visible. For a set S of them the
laws p_i that the model gives bound what that costs, whatever the joint law with these marginals is:

`EntropyBounded` (Ben-Hamu et al. 2025)    KL(joint || product) <= sum_S H_i - max_S H_i

    so the largest S whose right side stays below gamma nats is committed. If the model's conditionals are true, the
    law of the text is off by at most gamma per step.

`Frechet`    eps_i = 1 - max p_i,  sum_S eps_i + max_S eps_i <= 1

    makes the tuple of likeliest tokens the likeliest tuple. For draws at temperature 0: by Frechet's bound the tuple
    has at least probability 1 - sum eps_i, and any other one has at most max eps_i. It is Fast-dLLM's rule
    (n + 1) eps <= 1 (Wu et al. 2025, theorem 1) with every position counted for itself instead of as the worst one.

Both look at the laws and not at what is drawn from them, so the decoder has an exact likelihood (`replay`). `Threshold`
promises nothing and has none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import Bools, Floats
from .draws import Draw
from .quotas import check_block_length
from .threshold import TextDecides


@dataclass(frozen=True)
class AsManyAs(TextDecides):
    """Base: rank positions by a price and commit the cheapest while the sum of prices stays within a budget.

    Attributes
    ----------
    draw : which token, see `Draw`
    block_length : fill blocks of this length, counted from the end of the prompt, left to right; None for the whole
        text at once

    """

    draw: Draw = Draw()
    block_length: int | None = None

    def __post_init__(self) -> None:
        check_block_length(self.block_length)

    def price(self, p: Floats) -> Floats:
        """Of each position, from its law: (n, V) to (n,), 0 where it is certain."""
        raise NotImplementedError

    def affordable(self, price: Floats) -> Bools:
        """Which of the cheapest (B, L), in rising order, may be committed; inf where there is nothing to commit."""
        raise NotImplementedError

    def picked(self, hidden: Bools, sure: Floats, p: Floats) -> Bools:
        """By the laws alone."""
        return self.chosen(hidden, p)

    def chosen(self, hidden: Bools, p: Floats) -> Bools:
        """Which of the `hidden` (B, L) to commit, whose laws are p (n, V): at least one of each row that has any."""
        price = np.full(hidden.shape, np.inf)
        price[hidden] = self.price(p)
        rows, order = np.arange(len(price))[:, None], price.argsort(axis=1, kind="stable")  # ties to the left
        cheap = self.affordable(price[rows, order])
        cheap[:, 0] = True
        taken = np.empty(hidden.shape, bool)
        taken[rows, order] = cheap
        return taken & hidden


@dataclass(frozen=True)
class EntropyBounded(AsManyAs):
    """Commit while the entropies of all but the last one sum to at most gamma (EB-Sampler, Ben-Hamu et al. 2025).

    Attributes
    ----------
    gamma : nats that a step may lose; 0 commits one position at a time, and any that are certain

    """

    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (np.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(f"gamma is {self.gamma}; it must be 0 (one position at a time) or more")

    def price(self, p: Floats) -> Floats:
        """The entropy."""
        return np.asarray(-(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1))

    def affordable(self, price: Floats) -> Bools:
        """sum H - max H <= gamma: the largest comes last, and is the one left out."""
        others = np.zeros(price.shape)
        price[:, :-1].cumsum(axis=1, out=others[:, 1:])
        return np.asarray(others <= self.gamma)


@dataclass(frozen=True)
class Frechet(AsManyAs):
    """Commit while the doubts, and the largest of them once more, sum to at most `factor`.

    Attributes
    ----------
    factor : up to 1 the promise above holds, with draw=Draw(0); 0 commits one position at a time, and any
        that are certain

    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (np.isfinite(self.factor) and self.factor >= 0):
            raise ValueError(f"factor is {self.factor}; it must be 0 (one position at a time) or more")

    def price(self, p: Floats) -> Floats:
        """1 - the largest probability."""
        return np.asarray(1 - p.max(axis=-1))

    def affordable(self, price: Floats) -> Bools:
        """sum eps + max eps <= factor: the largest comes last."""
        return np.asarray(price.cumsum(axis=1) + price <= self.factor)
