"""The law of decoders that commit several positions at once, by enumerating every draw of every step.

How far it is from the law of committing one at a time is what the steps dial costs. No code of `tinydiff.decoders` is
used: orders are written out again from their definitions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

from ..arrays import Floats, Ints
from ..processes.discrete import DiscreteDiffusion, token_probabilities
from ..transformer import Model
from .states import all_sequences, state_index


def unmask_law(
    process: DiscreteDiffusion,
    model: Model,
    quotas: Sequence[int],
    order: Literal["random", "low_confidence", "entropy", "margin"] = "random",
) -> Floats:
    """Law of the text when step i commits `quotas[i]` positions, all drawn from one look: (V^L,), L = sum(quotas).

    In the order of `all_sequences`. Tokens are drawn at temperature 1; ties of an order go to the left. The model must
    not depend on t.
    """
    if min(quotas, default=0) < 1:
        raise ValueError(f"quotas is {list(quotas)}; expected at least one step, each committing at least one position")
    v, length = process.vocab_size, sum(quotas)
    states = all_sequences(v + 1, length)
    law = (states == v).all(axis=1).astype(np.float64)
    for k in quotas:
        alive = np.flatnonzero(law)
        p = token_probabilities(model, states[alive], 0.5)  # (n, L, V)
        after = np.zeros(len(states))
        for state, weight, laws in zip(states[alive], law[alive], p, strict=True):
            masked = np.flatnonzero(state == v)
            draws = all_sequences(v, len(masked))  # (V^m, m)
            sure = laws[masked][np.arange(len(masked)), draws]  # (V^m, m)
            mass = weight * sure.prod(axis=1)
            for kept, share in _kept(laws[masked], sure, k, order):
                filled = np.tile(state, (len(draws), 1))
                np.put_along_axis(filled, masked[kept], np.take_along_axis(draws, kept, axis=1), axis=1)
                np.add.at(after, state_index(filled, v + 1), share * mass)
        law = after
    return np.asarray(law[(states < v).all(axis=1)])


def _kept(laws: Floats, sure: Floats, k: int, order: str) -> list[tuple[Ints, float]]:
    """Which k of m positions are kept, (n, k) for the n draws, and with what probability.

    From the laws there, (m, V), and the probabilities of what was drawn, (n, m).
    """
    n, m = sure.shape
    if order == "random":
        every = list(itertools.combinations(range(m), k))
        return [(np.tile(subset, (n, 1)), 1 / math.comb(m, k)) for subset in every]
    if order == "low_confidence":
        rank = sure
    elif order == "entropy":
        rank = np.tile((laws * np.log(np.where(laws > 0, laws, 1))).sum(axis=1), (n, 1))
    elif order == "margin":
        largest = np.sort(laws, axis=1)
        rank = np.tile(largest[:, -1] - largest[:, -2], (n, 1))
    else:
        raise ValueError(f"order is {order!r}; expected 'random', 'low_confidence', 'entropy' or 'margin'")
    return [(np.argsort(-rank, axis=1, kind="stable")[:, :k], 1.0)]


def total_variation(p: Floats, q: Floats) -> float:
    """Half the sum of |p - q| of two laws over the same states: 0 for equal ones, 1 for disjoint ones."""
    if np.shape(p) != np.shape(q):
        raise ValueError(f"p has shape {np.shape(p)} and q has shape {np.shape(q)}; expected the same states")
    return float(np.abs(np.asarray(p) - np.asarray(q)).sum() / 2)
