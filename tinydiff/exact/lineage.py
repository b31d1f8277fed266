"""Mask-Predict written out again from its definition, with every draw of every pass enumerated.

No code of `tinydiff.decoders` is used.
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np

from ..arrays import Floats, Ints
from ..processes.discrete import DiscreteDiffusion, token_probabilities
from ..transformer import Model
from .states import all_sequences, state_index

DIGITS = 10  # probabilities that differ less than rounding does are ties


def mask_predict_law(
    process: DiscreteDiffusion,
    model: Model,
    start: Ints,
    passes: int,
    confidence: Literal["kept", "fresh"] = "kept",
    greedy: bool = True,
) -> Floats:
    """Law of what Mask-Predict makes of `start` in T passes (Ghazvininejad et al. 2019, section 3): (V^L,).

    In the order of `all_sequences`. Pass 1 fills all N masks of `start`, (L,). Pass t = 2 .. T masks those
    max(1, floor(N (T - t + 1) / T)) of the N positions whose confidence is the lowest, ties to the left, and fills them
    from one look. "kept": the confidence of a word is the probability that it had when it was filled in. "fresh": its
    probability given all the others as they are now.

    Parameters
    ----------
    greedy : fill in the likeliest word, the first of several; otherwise a draw

    """
    v = process.vocab_size
    free = [int(i) for i in np.flatnonzero(start == v)]
    ways: dict[tuple[tuple[int, ...], tuple[float, ...]], float] = {
        (tuple(int(x) for x in start), (0.0,) * len(start)): 1.0
    }
    for t in range(passes):
        after: dict[tuple[tuple[int, ...], tuple[float, ...]], float] = {}
        for (state, kept), weight in ways.items():
            count = len(free) if t == 0 else max(1, len(free) * (passes - t) // passes)
            sure = dict(zip(range(len(start)), kept, strict=True))
            if confidence == "fresh" and t > 0:
                sure |= {i: _probabilities(model, _hide(state, [i], v))[i, state[i]] for i in free}
            hidden = sorted(sorted(free, key=lambda i: (round(float(sure[i]), DIGITS), i))[:count])
            p = _probabilities(model, _hide(state, hidden, v))
            if greedy:
                choices = [tuple(int(p[i].round(DIGITS).argmax()) for i in hidden)]
            else:
                choices = list(itertools.product(range(v), repeat=len(hidden)))
            for words in choices:
                share = 1.0 if greedy else float(np.prod([p[i, w] for i, w in zip(hidden, words, strict=True)]))
                if share > 0:
                    new, known = list(state), list(kept)
                    for i, w in zip(hidden, words, strict=True):
                        new[i], known[i] = w, float(p[i, w])
                    way = tuple(new), tuple(known)
                    after[way] = after.get(way, 0.0) + weight * share
        ways = after
    law = np.zeros(len(all_sequences(v, len(start))))
    for (state, _), weight in ways.items():
        law[state_index(np.array([state]), v)[0]] += weight
    return law


def _hide(state: tuple[int, ...], where: list[int], mask_id: int) -> tuple[int, ...]:
    return tuple(mask_id if i in where else x for i, x in enumerate(state))


def _probabilities(model: Model, state: tuple[int, ...]) -> Floats:
    return np.asarray(token_probabilities(model, np.array([state]), 0.5)[0])
