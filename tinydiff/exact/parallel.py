"""What many tokens per look do, on two laws where it can be summed: repeats, and pairs that come apart.

A **random order** of L different words: tokens of one look do not know of each other, so some word comes twice.

**Twins**: L/2 pairs, each one of V values twice, all independent. A pair comes apart only if one look draws both. When
S steps reveal each token at a time of its own (ancestral sampling, linear schedule), that has the chance 1/S, and the
two then agree by chance, 1/V. So with a = 1 - (1 - 1/V)/S for each pair

    P(text is whole) = a^(L/2),      KL(law || what is written) / L = -log(a) / 2 nats per token.

The one falls with L, the other has no L in it, and P = exp(-L KL per token): steps enough for a good perplexity are a
number, steps enough for a whole text are a number per token (Feng et al. 2025, arXiv 2502.09622, for Markov chains).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..arrays import check_counts


def repeats(quotas: Sequence[int]) -> float:
    """The expected number of equal neighbours in a random order of L words, of which look i writes quotas[i].

    At random positions, each look draws from the words that are not there yet, which are the true conditionals as long
    as none came twice. Of L - 1 neighbours (L - 1) (k choose 2) / (L choose 2) = k (k - 1) / L come from one look of k,
    and with m words to draw from they are equal with 1/m:

        sum over looks of k (k - 1) / L * E[1 / m]
    """
    if min(quotas, default=0) < 1:
        raise ValueError(f"quotas is {list(quotas)}; expected at least one step, each writing at least one position")
    length, total = sum(quotas), 0.0
    left = {length: 1.0}  # the law of m
    for k in quotas:
        total += k * (k - 1) / length * sum(p / m for m, p in left.items())
        left = _after(left, k)
    return total


def twins(length: int, steps: int, values: int) -> tuple[float, float]:
    """Nats per token lost, and the share of whole texts: `length` / 2 pairs of one of `values`, in that many steps."""
    if length < 2 or length % 2:
        raise ValueError(f"length is {length}; expected an even number, at least 2: tokens come in pairs")
    check_counts(steps=steps, values=values)
    agree = 1 - (1 - 1 / values) / steps
    return -math.log(agree) / 2, agree ** (length // 2)


def _after(left: dict[int, float], k: int) -> dict[int, float]:
    """The law of the words left when k are drawn, each from all that were left before."""
    found: dict[int, float] = {}
    for m, p in left.items():
        new = {0: p}  # different ones among those drawn so far
        for _ in range(k):
            grown: dict[int, float] = {}
            for u, q in new.items():
                grown[u] = grown.get(u, 0.0) + q * u / m
                grown[u + 1] = grown.get(u + 1, 0.0) + q * (m - u) / m
            new = grown
        for u, q in new.items():
            found[m - u] = found.get(m - u, 0.0) + q
    return {m: p for m, p in found.items() if m > 0}
