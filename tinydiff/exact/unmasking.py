"""The law of decoders that commit several positions at once, by enumerating every draw of every step.

How far it is from the law of committing one at a time is what the steps dial costs. No code of `tinydiff.decoders` is
used: orders are written out again from their definitions.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from ..arrays import Floats, Ints
from ..processes.discrete import DiscreteDiffusion, token_probabilities
from ..transformer import Model
from .states import all_sequences, state_index

Order = Literal["random", "left_to_right", "low_confidence", "most_likely", "entropy", "margin"]


def unmask_law(process: DiscreteDiffusion, model: Model, quotas: Sequence[int], order: Order = "random") -> Floats:
    """Law of the text when step i commits `quotas[i]` positions, all drawn from one look: (V^L,), L = sum(quotas).

    In the order of `all_sequences`. Tokens are drawn at temperature 1; ties of an order go to the left. The model must
    not depend on t.
    """
    v, length = process.vocab_size, _length(quotas)
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


def replayed(process: DiscreteDiffusion, model: Model, quotas: Sequence[int], order: Order = "random") -> Floats:
    """What replaying the decoder on each text x says of p(x): (V^L,), in the order of `all_sequences`.

    The decoder of `unmask_law` is run with the tokens of x in place of its draws, and the probabilities of those that
    it commits are multiplied: the mean of that over the decoder's chance. It is p(x) for orders that follow a rule of
    the state, and no likelihood for low_confidence, whose choice of positions depends on what else could have come up.
    """
    v, length = process.vocab_size, _length(quotas)
    texts = all_sequences(v, length)
    found = np.empty(len(texts))
    for n, x in enumerate(texts):
        ways = {(v,) * length: 1.0}  # states on the way to x, and the product so far times the chance of the way
        for k in quotas:
            after: dict[tuple[int, ...], float] = {}
            for state, weight in ways.items():
                masked = np.flatnonzero(np.array(state) == v)
                laws = token_probabilities(model, np.array([state]), 0.5)[0][masked]  # (m, V)
                sure = laws[np.arange(len(masked)), x[masked]]  # (m,)
                for kept, share in _kept(laws, sure[None], k, order):
                    filled = np.array(state)
                    filled[masked[kept[0]]] = x[masked[kept[0]]]
                    way = tuple(filled.tolist())
                    after[way] = after.get(way, 0.0) + weight * share * float(sure[kept[0]].prod())
            ways = after
        found[n] = sum(ways.values())
    return found


def _length(quotas: Sequence[int]) -> int:
    if min(quotas, default=0) < 1:
        raise ValueError(f"quotas is {list(quotas)}; expected at least one step, each committing at least one position")
    return sum(quotas)


def _kept(laws: Floats, sure: Floats, k: int, order: Order) -> list[tuple[Ints, float]]:
    """Which k of m positions are kept, (n, k) for the n draws, and with what probability.

    From the laws there, (m, V), and the probabilities of what was drawn, (n, m).
    """
    n, m = sure.shape
    if order == "random":
        every = list(itertools.combinations(range(m), k))
        return [(np.tile(subset, (n, 1)), 1 / math.comb(m, k)) for subset in every]
    if order == "left_to_right":
        rank = np.tile(-np.arange(m), (n, 1))
    elif order == "low_confidence":
        rank = sure
    elif order == "most_likely":
        rank = np.tile(laws.max(axis=1), (n, 1))
    elif order == "entropy":
        rank = np.tile((laws * np.log(np.where(laws > 0, laws, 1))).sum(axis=1), (n, 1))
    elif order == "margin":
        largest = np.sort(laws, axis=1)
        rank = np.tile(largest[:, -1] - largest[:, -2], (n, 1))
    else:
        raise ValueError(f"order is {order!r}; expected one of {', '.join(get_args(Order))}")
    return [(np.argsort(-rank, axis=1, kind="stable")[:, :k], 1.0)]


def total_variation(p: Floats, q: Floats) -> float:
    """Half the sum of |p - q| of two laws over the same states: 0 for equal ones, 1 for disjoint ones."""
    if np.shape(p) != np.shape(q):
        raise ValueError(f"p has shape {np.shape(p)} and q has shape {np.shape(q)}; expected the same states")
    return float(np.abs(np.asarray(p) - np.asarray(q)).sum() / 2)
