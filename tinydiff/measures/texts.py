"""How good are generated texts? By the law they should have where it is known, by a second model where it is not.

Quality alone can be had cheaply: the same good text over and over. So every measure here comes with how varied the
texts are, next to the same figure of as many real ones:

    valid              share of texts that the true law gives a probability above 0
    nll                nats per text under the true law, over the valid ones; per character under a judge
    entropy            of the n-grams that occur, in nats (plug-in, so at most the log of their number)
    distinct           number of different n-grams over the number of all (Li et al. 2016)
    total variation    between the texts' frequencies and a law that can be listed

The judge is an autoregressive model, whose likelihood is exact, trained apart from the model that is judged. Intervals
are bootstrap ones: percentiles over resamples of the texts (Efron 1979).
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

from ..arrays import Floats, Ints
from ..data.laws import Law, Listed
from ..processes import Autoregressive
from ..transformer import Model

RESAMPLES = 2_000
LEVEL = 0.95
GRAMS = 3  # of texts without a list
JUDGED_AT_ONCE = 64
RESAMPLED_AT_ONCE = 1_000_000


class Measure(Protocol):
    """A way to score texts."""

    @property
    def label(self) -> str:
        """What `score` is, for an axis."""
        ...

    def score(self, ids: Ints) -> Floats:
        """(n, L) texts to (n,), more is better."""
        ...

    def columns(self, ids: Ints) -> dict[str, float]:
        """Further figures of (n, L) texts as a whole."""
        ...


class ByLaw:
    """Validity under a known law; beside it NLL and entropy, and the entropy of as many real texts."""

    label = "share of valid texts"

    def __init__(self, law: Law) -> None:
        self.law = law
        self.n = law.length if isinstance(law, Listed) else GRAMS

    def score(self, ids: Ints) -> Floats:
        """1 for each valid text, 0 for the others."""
        return np.asarray(self.law.log_p(ids) > -np.inf, np.float64)

    def columns(self, ids: Ints) -> dict[str, float]:
        """Nats per valid text and what real ones have on average; entropies; total variation if texts are listed."""
        log_p = self.law.log_p(ids)
        valid = log_p > -np.inf
        real = self.law.draw(len(ids), np.random.default_rng(0))
        found = {
            "nll": float(-log_p[valid].mean()) if valid.any() else float("nan"),
            "nll_real": self.law.entropy,
            "entropy": ngram_entropy(ids, self.n),
            "entropy_real": ngram_entropy(real, self.n),
        }
        if isinstance(self.law, Listed):
            found |= {"tv": total_variation(self.law, ids), "tv_real": total_variation(self.law, real)}
        return found


class ByJudge:
    """Minus the nats per character that an autoregressive judge needs; entropy and distinct n-grams beside it.

    Parameters
    ----------
    process, model : the judge
    real : (m, L) held-out texts to compare with

    """

    label = "minus nats per character, by the judge"

    def __init__(self, process: Autoregressive, model: Model, real: Ints) -> None:
        self.process, self.model, self.real = process, model, real

    def score(self, ids: Ints) -> Floats:
        """Log-likelihood of each text over its length."""
        rng = np.random.default_rng(0)  # an exact likelihood draws nothing
        parts = [ids[i : i + JUDGED_AT_ONCE] for i in range(0, len(ids), JUDGED_AT_ONCE)]
        return np.asarray(-np.concatenate([self.process.bound(self.model, x, rng) for x in parts]) / ids.shape[1])

    def columns(self, ids: Ints) -> dict[str, float]:
        """The judge's NLL, entropy and distinct n-grams, of the texts and of as many real ones."""
        real = self.real[: len(ids)]
        return {
            "nll": float(-self.score(ids).mean()),
            "nll_real": float(-self.score(real).mean()),
            "entropy": ngram_entropy(ids, GRAMS),
            "entropy_real": ngram_entropy(real, GRAMS),
            "distinct": distinct(ids, GRAMS),
            "distinct_real": distinct(real, GRAMS),
        }


def ngrams(ids: Ints, n: int) -> Ints:
    """All n-grams of (B, L) texts, none across two of them: (B (L - n + 1), n)."""
    if not 1 <= n <= ids.shape[1]:
        raise ValueError(f"n is {n}; texts of {ids.shape[1]} tokens have n-grams of 1 to {ids.shape[1]}")
    return np.lib.stride_tricks.sliding_window_view(ids, n, axis=1).reshape(-1, n)


def ngram_entropy(ids: Ints, n: int) -> float:
    """Entropy of the n-grams of (B, L) texts in nats, from their frequencies; n = L is that of whole texts."""
    _, counts = np.unique(ngrams(ids, n), axis=0, return_counts=True)
    p = counts / counts.sum()
    return float(-(p * np.log(p)).sum()) + 0.0  # of a single one it is 0, not -0


def distinct(ids: Ints, n: int) -> float:
    """Number of different n-grams of (B, L) texts over the number of all: "distinct-n"."""
    grams = ngrams(ids, n)
    return len(np.unique(grams, axis=0)) / len(grams)


def total_variation(law: Listed, ids: Ints) -> float:
    """Half the sum of |frequency - p| over every text: of (n, L) samples, real ones being above 0 by chance too."""
    at = law.places(ids)
    frequency = np.bincount(at[at >= 0], minlength=len(law.p)) / len(ids)
    invalid = float((at < 0).mean())
    return float(np.abs(frequency - law.p).sum() + invalid) / 2


def resampled_means(values: Floats, rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """Means of (n,) values drawn again with replacement: (resamples,)."""
    n, together = len(values), max(1, RESAMPLED_AT_ONCE // len(values))
    return np.concatenate(
        [
            values[rng.integers(0, n, (min(together, resamples - i), n))].mean(axis=1)
            for i in range(0, resamples, together)
        ]
    )


def interval(
    values: Floats, level: float = LEVEL, method: Literal["linear", "inverted_cdf"] = "linear"
) -> tuple[float, float]:
    """The middle of that share of some resampled values; "inverted_cdf" keeps to values that are there."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], method=method)
    return float(low), float(high)


def difference(a: Floats, b: Floats, rng: np.random.Generator) -> tuple[float, float, float]:
    """How much better the mean score of (n,) texts is than that of (m,) others: the difference and its interval."""
    low, high = interval(resampled_means(a, rng) - resampled_means(b, rng))
    return float(a.mean() - b.mean()), low, high
