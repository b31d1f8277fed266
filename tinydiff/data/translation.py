"""Translation with a known law: every source, every target that it may have, and how probable each is.

    merci bonjour > many thanks hello there
    2023 03 05 > N3 5 March 2023 ¶ ¶

A text is a source of S words, the sign `>`, and a target. Where targets are of different lengths, the number of words
comes first (the LENGTH token of Ghazvininejad et al. 2019), and `¶` fills up what is left. The source is given, the
rest is what a model writes. Because the law p(target | source) is listed, everything about a model can be compared with
what is possible: see `tinydiff.exact.translation`. The tasks themselves are in phrasebook.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np

from ..arrays import Bools, Floats, Ints
from .codec import Words
from .laws import Listed

SIGN = ">"
"""Stands between source and target."""
COUNT = "N"
"""Before the number of words of a target: `N3`."""
FILL = "¶"
"""Fills a target up to the length of the longest."""


class Pair(NamedTuple):
    """A source and one of its targets.

    Attributes
    ----------
    source, target : words
    alignment : for each word of the target, the place in the source of the word that it translates
    p : probability of the two together

    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    alignment: tuple[int, ...]
    p: float


@dataclass(frozen=True)
class Translations(Listed):
    """A law over pairs of source and target that can be listed.

    Attributes
    ----------
    texts : every pair once, as words
    p : (N,) their probabilities
    alignments : (N, T), for each place of the target the place in the source that it translates, -1 for none
    words : those there are, in the order of their ids
    counted : whether targets begin with their number of words
    told : share of the training examples whose length is given too. A model that never sees a part of a target has to
        be trained so if it is ever to be asked for a target of a certain length

    """

    alignments: Ints
    words: tuple[str, ...]
    counted: bool = False
    told: float = 0.0

    def __post_init__(self) -> None:
        if len({len(text.split()) for text in self.texts}) != 1 or len(set(self.texts)) != len(self.texts):
            raise ValueError("texts must be distinct and of one number of words; fill up the shorter ones")
        if self.p.shape != (len(self.texts),) or not (np.isclose(self.p.sum(), 1) and (self.p > 0).all()):
            raise ValueError(
                f"p has shape {self.p.shape} and sums to {self.p.sum():g}; expected positive, summing to 1"
            )
        if not 0 <= self.told <= self.counted:
            most = 1 if self.counted else "0, as all targets are of the same length"
            raise ValueError(f"told is {self.told}; expected 0 <= told <= {most}")

    @staticmethod
    def of(pairs: Iterable[Pair]) -> Translations:
        """The law of these pairs; sources must have the same number of words."""
        pairs = list(pairs)
        if not pairs:
            raise ValueError("pairs is empty; expected at least one source with a target")
        for pair in pairs:
            if not pair.target:
                raise ValueError(f"target of {' '.join(pair.source)!r} is empty; a target has at least one word")
        longest = max(len(pair.target) for pair in pairs)
        counted = min(len(pair.target) for pair in pairs) < longest
        texts, alignments = [], np.full((len(pairs), longest + counted), -1)
        for i, (source, target, alignment, _) in enumerate(pairs):
            count = [COUNT + str(len(target))] * counted
            texts.append(" ".join((*source, SIGN, *count, *target, *[FILL] * (longest - len(target)))))
            alignments[i, counted : counted + len(target)] = alignment
        words = tuple(sorted({FILL, *" ".join(texts).split()}))
        return Translations(tuple(texts), np.array([pair.p for pair in pairs]), alignments, words, counted)

    @cached_property
    def codec(self) -> Words:
        return Words(tuple(" " + word for word in self.words), " " + FILL)

    @property
    def length(self) -> int:
        return len(self.texts[0].split())

    @cached_property
    def ids(self) -> Ints:
        """All texts, (N, L)."""
        return self.encode(" ".join(self.texts)).reshape(len(self.texts), -1)

    def encode(self, text: str) -> Ints:
        """Ids of words, (n,)."""
        place = {word: i for i, word in enumerate(self.words)}
        for word in text.split():
            if word not in place:
                raise ValueError(f"{word!r} is none of the {len(self.words)} words: {' '.join(self.words[:40])} ...")
        return np.array([place[word] for word in text.split()], np.int64)

    def decode(self, ids: Ints) -> str:
        """The words of (n,) ids, with a sign for MASK."""
        return self.codec.decode(ids, " \u2591").strip()

    def valid(self, text: str) -> bool:
        """Whether the text is one of the list."""
        return super().valid(text.strip())

    @property
    def fill_id(self) -> int:
        return self.words.index(FILL)

    @property
    def begin(self) -> int:
        """Where the target begins: after the source and the sign."""
        return int(self.length - self.alignments.shape[1])

    @property
    def given(self) -> Bools:
        """(L,), True for the source and the sign."""
        return np.arange(self.length) < self.begin

    @cached_property
    def lengths(self) -> Ints:
        """Words of each target, (N,)."""
        return np.asarray((self.alignments >= 0).sum(axis=1))

    @cached_property
    def fertilities(self) -> Ints:
        """How many words of the target each word of the source became (Gu et al. 2017): (N, S)."""
        places = np.arange(self.begin - 1)
        return np.asarray((self.alignments[:, :, None] == places).sum(axis=1))

    @cached_property
    def sources(self) -> Ints:
        """Every source once, with the sign: (X, begin)."""
        return np.unique(self.ids[:, : self.begin], axis=0)

    @cached_property
    def source(self) -> Ints:
        """Which of `sources` each text has: (N,)."""
        return np.unique(self.ids[:, : self.begin], axis=0, return_inverse=True)[1].reshape(-1)

    @property
    def of_source(self) -> Floats:
        """Probability of each source, (X,)."""
        return np.bincount(self.source, self.p)

    @property
    def conditional(self) -> Floats:
        """Probability of each target given its source, (N,)."""
        return np.asarray(self.p / self.of_source[self.source])

    def known(self, ids: Ints, length: Bools | bool = False) -> Bools:
        """What is given of (B, L) texts: the source and the sign, and where the length is (B, 1) told what says so."""
        says = (ids == self.fill_id) | ((np.arange(self.length) == self.begin) & self.counted)
        return np.asarray(self.given | (says & length))

    @property
    def count_ids(self) -> Ints:
        """The token that says "n words", for n = 1 .. the longest: (T - 1,), -1 for lengths that no target has."""
        if not self.counted:
            raise ValueError("all targets of this law are of the same length, and do not say it")
        words = [f"{COUNT}{n}" for n in range(1, self.length - self.begin)]
        return np.array([self.words.index(word) if word in self.words else -1 for word in words])

    def asked(self, source: str, length: int | None = None) -> tuple[Ints, Bools]:
        """A source whose target is still to be written: (L,) ids, and which of them are given.

        Parameters
        ----------
        length : how many words the target is to have, where targets differ in that; None leaves it open

        """
        words = source.split()
        if len(words) != self.begin - 1:
            raise ValueError(
                f"source has {len(words)} words: {source!r}; expected {self.begin - 1}, like {self.example!r}"
            )
        ids = np.append(self.encode(" ".join((*words, SIGN))), [self.fill_id] * (self.length - self.begin))
        if not (ids[: self.begin] == self.sources).all(axis=1).any():
            raise ValueError(f"source is {source!r}, which is none; one is {self.example!r}")
        if length is None:
            return ids, self.given
        there = sorted(set(self.lengths.tolist()))
        if length not in there:
            raise ValueError(
                f"length is {length}, but targets have {', '.join(map(str, there))} words: choose one of those"
            )
        if not self.counted:
            return ids, self.given
        ids[self.begin] = self.count_ids[length - 1]
        return ids, self.given | (np.arange(self.length) == self.begin) | (np.arange(self.length) > self.begin + length)

    @property
    def example(self) -> str:
        """A source."""
        return self.decode(self.sources[0, :-1])

    def target(self, ids: Ints) -> str:
        """The words of the target of (L,) ids, without their number and what fills up."""
        words = self.decode(ids[self.begin + self.counted :]).split()
        while words and words[-1] == FILL:
            words.pop()
        return " ".join(words)

    def modes(self) -> Translations:
        """The law if every source had its likeliest target only, the first of several: distilled by a perfect teacher.

        Sequence-level knowledge distillation (Kim and Rush 2016) in the limit of a perfect teacher and search.
        """
        best = np.array([np.flatnonzero(self.source == x)[0] for x in range(len(self.sources))])
        for x in range(len(best)):
            mine = np.flatnonzero(self.source == x)
            best[x] = mine[self.conditional[mine].argmax()]
        return replace(
            self, texts=tuple(self.texts[i] for i in best), p=self.of_source, alignments=self.alignments[best]
        )
