"""What is possible in one look: entropies of translations whose law is known, by summing over the list.

A model that writes all T words at once from one look at the source is a product of laws q_i(y^i | x). The best of them
is that of the marginals, and what it must lose is the total correlation:

    min_q E[-log prod_i q_i(y^i | x)] = sum_i H(Y^i | x) = H(Y | x) + TC(Y | x)

TC is 0 if the words of a target do not depend on one another given its source. Whatever else is known beforehand, the
length or how many words each source word becomes, is one more condition, and what it takes off TC is what it is worth.

Beside these, the two measures of Zhou, Gu and Neubig (2020) from the law of a target word given the source word that it
translates, C (how much there is to learn) and F (how far a simpler law is from the real one).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from ..arrays import Floats, Ints
from ..data.translation import Translations
from ..processes.discrete import divergence

Known = Literal["source", "length", "fertility"]


def groups(law: Translations, known: Known = "source") -> Ints:
    """The number of the condition that each text is under, (N,): the same source, and the same length or fertility."""
    parts = [law.source[:, None]]
    if known == "length":
        parts.append(law.lengths[:, None])
    elif known == "fertility":
        parts.append(law.fertilities)
    elif known != "source":
        raise ValueError(f"known is {known!r}; expected 'source', 'length' or 'fertility'")
    return np.unique(np.concatenate(parts, axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def target_entropy(law: Translations, known: Known = "source") -> float:
    """H(Y | x), or H(Y | x, length or fertility), in nats per target: the NLL that nothing can be below."""
    at = groups(law, known)
    return float(-(law.p * np.log(law.p / np.bincount(at, law.p)[at])).sum()) + 0.0  # of none it is 0, not -0


def marginals(law: Translations, known: Known = "source") -> Floats:
    """P(Y^i = v | condition) for every condition of `groups`: (C, T, V)."""
    at, targets = groups(law, known), law.ids[:, law.begin :]
    p = np.zeros((at.max() + 1, targets.shape[1], law.codec.vocab_size))
    for i, words in enumerate(targets.T):
        np.add.at(p[:, i], (at, words), law.p)
    return np.asarray(p / p.sum(axis=-1, keepdims=True))


def total_correlation(law: Translations, known: Known = "source") -> float:
    """TC = sum_i H(Y^i | condition) - H(Y | condition), in nats: what the best single look loses."""
    p, weight = marginals(law, known), np.bincount(groups(law, known), law.p)
    each = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=(1, 2))  # (C,)
    return float(weight @ each) - target_entropy(law, known)


def valid_at_once(law: Translations, known: Known = "source") -> float:
    """Share of valid targets among those drawn from the marginals: sum over the list of prod_i P(y^i | condition)."""
    p, at, targets = marginals(law, known), groups(law, known), law.ids[:, law.begin :]
    each = p[at[:, None], np.arange(targets.shape[1]), targets].prod(axis=1)  # (N,)
    return float(np.bincount(at, law.p) @ np.bincount(at, each))


def word_law(law: Translations) -> tuple[Floats, Floats]:
    """Of every source word, the law of the target words that translate it, (W, V), and how often it occurs, (W,).

    W source words, in the order of their ids. By the alignments of the law, wherever the words stand.
    """
    words = np.unique(law.sources[:, :-1])
    counts = np.zeros((law.codec.vocab_size, law.codec.vocab_size))
    rows, places = np.nonzero(law.alignments >= 0)
    np.add.at(
        counts,
        (law.ids[rows, law.alignments[rows, places]], law.ids[:, law.begin :][rows, places]),
        law.p[rows],
    )
    return counts[words] / counts[words].sum(axis=1, keepdims=True), counts[words].sum(axis=1)


def complexity(law: Translations) -> float:
    """C = 1/|V_x| sum over source words of H(target word | source word), in nats (Zhou et al. 2020, section 3.2)."""
    p, _ = word_law(law)
    return float(-(p * np.log(np.where(p > 0, p, 1))).sum(axis=1).mean()) + 0.0


def faithfulness(law: Translations, simpler: Translations) -> float:
    """F = 1/|V_x| sum over source words of KL(p_real || p_simpler), in nats (Zhou et al. 2020, section 3.2).

    Infinite as soon as the simpler law drops a word altogether, as the law of modes does.
    """
    (real, _), (other, _) = word_law(law), word_law(simpler)
    return float(divergence(real, other).mean())


def translation_distance(law: Translations, other: Translations) -> float:
    """Total variation between the two laws of the target, on average over the sources."""
    q = dict(zip(other.texts, other.p, strict=True))
    p = dict(zip(law.texts, law.p, strict=True))
    return float(sum(abs(p.get(text, 0.0) - q.get(text, 0.0)) for text in {**p, **q}) / 2)
