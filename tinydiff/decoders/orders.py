"""Which positions a step commits, and how many.

An order ranks the masked positions by what the model says about them, the surest first, in nats:

- low_confidence: log probability of the token drawn there (MaskGIT, Chang et al. 2022; LLaDA, Nie et al. 2025)
- entropy: minus the entropy of the law there (Dream, Ye et al. 2025)
- margin: log of the difference between the two largest probabilities (Kim et al. 2025)
- random: by chance, whatever the model says

Entropy and margin look at the law, not at the draw, so a position is not preferred because a likely token came up.
Only for such orders do positions that are independent stay so: low_confidence tilts even those towards likely tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from .. import kernels
from ..arrays import Bools, Floats, Ints

Remasking = Literal["low_confidence", "entropy", "margin", "random"]
Commits = Literal["linear", "cosine"]

TINY = float(np.finfo(np.float64).tiny)


def low_confidence(p: Floats, tokens: Ints) -> Floats:
    """Log probability of the drawn tokens: laws (n, V) and (n,) tokens to (n,)."""
    return np.asarray(np.log(np.maximum(p[np.arange(len(p)), tokens], TINY)))


def entropy(p: Floats, tokens: Ints) -> Floats:
    """Minus the entropy of each law: (n, V) to (n,)."""
    return np.asarray((p * np.log(np.maximum(p, TINY))).sum(axis=-1))


def margin(p: Floats, tokens: Ints) -> Floats:
    """Log of how far the likeliest token is ahead of the second: (n, V) to (n,)."""
    best, _ = kernels.topk(p, min(2, p.shape[-1]))
    return np.asarray(np.log(np.maximum(best[:, 0] - (best[:, 1] if best.shape[1] > 1 else 0), TINY)))


ORDERS: dict[str, Callable[[Floats, Ints], Floats]] = {
    "low_confidence": low_confidence,
    "entropy": entropy,
    "margin": margin,
}
"""Those that ask the model."""


@dataclass(frozen=True)
class Choice:
    """How to choose the positions of a step.

    Small models are surest of the commonest token, and committing it everywhere makes it likelier still: text of
    nothing but spaces. `choice_temperature` c > 0 prevents that: to the rank in nats is added c f times Gumbel noise,
    where f, the share of the masks still there, takes the noise away towards the end (MaskGIT, appendix).

    Attributes
    ----------
    remasking : the order of positions, see above; the drawn tokens of the rest are masked again
    commits : how many per step, see `filled`
    threshold : commit whatever the model gives more than this probability, and at least one position, in place of a
        fixed number (Fast-dLLM, Wu et al. 2025); how many steps that takes depends on the text
    block_length : fill blocks of this length left to right, each from its own share of the steps (semi-autoregressive,
        LLaDA, section 2.4); None for the whole sequence at once
    choice_temperature : c

    """

    remasking: Remasking = "low_confidence"
    commits: Commits = "linear"
    threshold: float | None = None
    block_length: int | None = None
    choice_temperature: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("remasking", Remasking), ("commits", Commits)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {', '.join(get_args(known))}")
        if not (np.isfinite(self.choice_temperature) and self.choice_temperature >= 0):
            raise ValueError(f"choice_temperature is {self.choice_temperature}; it must be 0 or more")
        if self.block_length is not None and self.block_length < 1:
            raise ValueError(f"block_length is {self.block_length}; it must be at least 1")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; expected 0 < threshold < 1")
        if self.threshold is not None and self.commits != "linear":
            raise ValueError(
                f"commits is {self.commits!r} and threshold is {self.threshold}; the threshold decides how many "
                "positions a step commits, leave one of them out"
            )


def filled(total: Ints, step: int, steps: int, commits: Commits) -> Ints:
    """How many of its `total` (B,) masks each sequence has filled after `step` of `steps` steps: (B,).

    The share left after a fraction r of the steps is 1 - r for "linear", an even number per step, and cos(pi r / 2) for
    "cosine", few at first and more as there is more to go by (MaskGIT, section 3.3). As long as there are enough masks,
    every step fills at least one.
    """
    even = total * step // steps
    if commits == "linear" or step == steps:
        return even
    share = 1 - np.cos(np.pi / 2 * step / steps)
    return np.asarray(np.where(total < steps, even, np.maximum(np.floor(total * share).astype(np.int64), step)))


def highest(rank: Floats, quota: Ints) -> Bools:
    """Mark the quota[b] highest of the ranks (B, L) of row b, ties to the left."""
    most = int(quota.max(initial=0))
    _, at = kernels.topk(rank, most)  # (B, most), highest first
    chosen = np.zeros(rank.shape, bool)
    np.put_along_axis(chosen, at, np.arange(most) < quota[:, None], axis=1)
    return chosen
