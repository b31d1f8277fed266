"""The law of self-speculation by enumerating drafts, acceptances and redraws; `tinydiff.decoders` is not used."""

from __future__ import annotations

import numpy as np

from ..arrays import Floats, check_counts
from ..processes.discrete import DiscreteDiffusion, token_probabilities
from ..transformer import Model
from .states import all_sequences, state_index


def speculative_law(
    process: DiscreteDiffusion, model: Model, length: int, drafts: int, *, afresh: bool = False
) -> tuple[Floats, float, int]:
    """Law of the text written left to right with that many drafts per look, and how many calls that takes.

    Parameters
    ----------
    afresh : draw from q itself after a rejection, not from what (q - p)^+ leaves: not the law of one at a time

    Returns
    -------
    law : (V^L,), in the order of `all_sequences`
    mean, most : expected and largest number of calls

    """
    check_counts(length=length, drafts=drafts)
    v = process.vocab_size
    law = np.zeros(v**length)
    calls, most = 0.0, 0
    waiting: list[tuple[tuple[int, ...], float, int]] = [((), 1.0, 0)]  # written so far, its probability, calls
    while waiting:
        text, weight, spent = waiting.pop()
        if len(text) == length:
            law[state_index(np.array([text]), v)[0]] += weight
            calls, most = calls + weight * spent, max(most, spent)
            continue
        k = min(drafts, length - len(text))
        look = _laws(process, model, text, length)[:k]  # (k, V): all from one look
        for draft in all_sequences(v, k):
            written, mass, done = list(text), weight * float(look[np.arange(k), draft].prod()), spent + 1 + (k > 1)
            for j, token in enumerate(draft.tolist()):
                q, p = _laws(process, model, tuple(written), length)[0], look[j]
                keep = min(1.0, float(q[token] / p[token]))
                rest = q if afresh else np.maximum(q - p, 0)
                if keep < 1:
                    for other in np.flatnonzero(rest):
                        chance = mass * (1 - keep) * float(rest[other] / rest.sum())
                        waiting.append(((*written, int(other)), chance, done))
                written.append(token)
                mass *= keep
            waiting.append((tuple(written), mass, done))
    return law, calls, most


def _laws(process: DiscreteDiffusion, model: Model, text: tuple[int, ...], length: int) -> Floats:
    """p(x_i | text) of every position that is not written yet, from one look: (L - n, V)."""
    state = np.full((1, length), process.mask_id)
    state[0, : len(text)] = text
    return np.asarray(token_probabilities(model, state, 0.5)[0, len(text) :])
