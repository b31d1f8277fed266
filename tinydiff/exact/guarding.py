"""What a guard on every state does to a text that is written one token at a time, by going through all ways of it.

No code of `tinydiff.measures.guards` is used but h itself, which is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np

from ..arrays import Floats, Ints
from ..processes.discrete import DiscreteDiffusion, token_probabilities
from ..transformer import Model


class Fate(NamedTuple):
    """Probabilities of what becomes of a text.

    Attributes
    ----------
    refused : it is stopped
    wronged : it is stopped, and if it had been written to its end it would have been harmless
    through : it is finished and forbidden
    steps : the expected number of steps

    """

    refused: float
    wronged: float
    through: float
    steps: float


def guarded_fate(
    process: DiscreteDiffusion, model: Model, danger: Callable[[Ints], Floats], start: Ints, tau: float
) -> Fate:
    """What becomes of a text (L,), MASK where it is to be written, in random order, stopped as soon as h >= tau.

    Parameters
    ----------
    danger : h of states (B, L), 0 or 1 where nothing is hidden
    tau : the threshold, 0 < tau < 1

    """
    if not 0 < tau < 1:
        raise ValueError(f"tau is {tau}; expected 0 < tau < 1, a probability from which on to refuse")

    @cache
    def after(state: tuple[int, ...], stopped: bool) -> tuple[float, float, float, float]:
        """Refused, harmless in the end, through, steps; the second is all that goes on being asked once stopped."""
        h = float(danger(np.array([state]))[0])
        stopped_here = stopped or h >= tau
        hidden = [i for i, token in enumerate(state) if token == process.mask_id]
        if not hidden:
            through = 0.0 if stopped_here else h
            return float(stopped_here), (1 - h) if stopped_here else 0.0, through, 0.0
        p = token_probabilities(model, np.array([state]), 0.5)[0]
        total = np.zeros(4)
        for i in hidden:
            for v in np.flatnonzero(p[i] > 0).tolist():
                following = after((*state[:i], v, *state[i + 1 :]), stopped_here)
                total += p[i, v] / len(hidden) * np.array(following)
        if stopped_here:
            total[0], total[3] = 1.0, 0.0
        else:
            total[3] += 1
        return (float(total[0]), float(total[1]), float(total[2]), float(total[3]))

    return Fate(*after(tuple(int(i) for i in start), False))
