"""Fill-in-the-middle for models that go left to right: the middle is moved to the end (Bavarian et al. 2022).

    prefix middle suffix   becomes   PRE prefix SUF suffix MID middle END

So an autoregressive model sees both sides of a gap before it writes what is in it, and says itself where that ends. It
takes four tokens more, and training on texts that are cut so; the model itself is none but `Autoregressive`. Diffusion
needs none of it, and is told the length of the gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Ints
from .batch import Batch
from .codec import Codec
from .corpus import Corpus

SENTINELS = 4  # PRE, SUF, MID and END, the ids behind those of the real tokens


@dataclass(frozen=True)
class Middles:
    """A corpus whose windows have, in some share of them, their middle at the end.

    Attributes
    ----------
    corpus : of text
    share : of the windows that are cut, at two places drawn by chance; the others stay as they are
    longest : tokens of a middle at most

    """

    corpus: Corpus
    share: float = 0.5
    longest: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}; expected 0 <= share <= 1")
        if self.longest < 1:
            raise ValueError(f"longest is {self.longest}; a middle has at least 1 token")

    @property
    def name(self) -> str:
        return f"{self.corpus.name}, filled in"

    @property
    def codec(self) -> Codec:
        """That of the corpus, which has no text for the sentinels."""
        return self.corpus.codec

    @property
    def unit(self) -> str:
        return "bits per token"

    @property
    def short_unit(self) -> str:
        return "bits/token"

    @property
    def description(self) -> str:
        return f"{self.corpus.description}, {100 * self.share:g} % of the windows with their middle at the end"

    @property
    def token_lengths(self) -> Ints:
        """One for each token: a sentinel is no character."""
        return np.ones(self.vocab_size, np.int64)

    @property
    def vocab_size(self) -> int:
        """Of the corpus and the four sentinels."""
        return self.corpus.vocab_size + SENTINELS

    @property
    def config(self) -> dict[str, Any]:
        return self.corpus.config | {"middles": self.share, "longest": self.longest}

    def check_length(self, length: int) -> None:
        """ValueError unless there are windows of that length with room for a gap and the sentinels."""
        if length < SENTINELS + 2:
            raise ValueError(f"length is {length}; a text with its middle at the end takes at least {SENTINELS + 2}")
        self.corpus.check_length(length)

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """Random windows, (size, length) token ids."""
        x0 = self.corpus.examples(length, size, rng, held_out=held_out).x0.copy()
        room = length - SENTINELS
        for row in np.flatnonzero(rng.random(size) < self.share):
            cut = int(rng.integers(1, room + 1))  # the text goes on behind it, or END would always be in the last place
            n = int(rng.integers(1, min(self.longest, cut) + 1))
            start = int(rng.integers(0, cut - n + 1))
            x0[row, : cut + SENTINELS] = middle_last(x0[row, :cut], start, start + n, self.corpus.vocab_size)
        return Batch(x0)


def middle_last(ids: Ints, start: int, stop: int, vocab_size: int) -> Ints:
    """The text (n,) with its middle ids[start:stop] at the end, between sentinels: (n + 4,)."""
    if not 0 <= start <= stop <= len(ids):
        raise ValueError(f"start is {start} and stop is {stop}; expected 0 <= start <= stop <= {len(ids)}")
    pre, suf, mid, end = vocab_size + np.arange(SENTINELS)
    return np.concatenate([[pre], ids[:start], [suf], ids[stop:], [mid], ids[start:stop], [end]])


def middle_of(written: Ints, vocab_size: int) -> Ints | None:
    """What stands between MID and END of a text with its middle at the end; None if it never ended, or is broken."""
    mid, end = vocab_size + 2, vocab_size + 3
    at = np.flatnonzero(written == mid)
    if not len(at):
        return None
    middle = written[at[0] + 1 :]
    ends = np.flatnonzero(middle == end)
    if not len(ends) or (middle[: ends[0]] >= vocab_size).any():
        return None
    return middle[: ends[0]]
