"""Texts whose law is known, so that samples have an exact score: is it valid, and how probable is it?

Every example has the same length; a shorter one is padded with spaces on the right, which the model has to learn too.

- sums: `17+25=42 `, operands from 10 to 99, all 8,100 equally likely. Digits depend on one another through the carry.
- agreement: `the dogs near the hen feed themselves.  ` The number of the subject decides the verb and the pronoun,
  with a phrase in between whose own number must not distract. Words are not equally likely.
- chain: 64 letters of a Markov chain over 6, whose transitions are few and far from equal.

- stories: five sentences about two people and a thing, in words, see stories.py.

`Listed` laws list every text there is; `Chain` is known by its transition matrix.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from ..arrays import Floats, Ints
from .codec import Characters, Codec
from .stories import Stories


class Law(Protocol):
    """What is known of such texts."""

    @property
    def codec(self) -> Codec: ...

    @property
    def length(self) -> int:
        """Characters of every text."""
        ...

    @property
    def entropy(self) -> float:
        """Nats per text: the NLL under its own law that real texts have on average."""
        ...

    def log_p(self, ids: Ints) -> Floats:
        """(n, L) ids to (n,) nats, -inf for texts that are not valid."""
        ...

    def draw(self, n: int, rng: np.random.Generator) -> Ints:
        """(n, L) ids of texts drawn from the law."""
        ...

    def valid(self, text: str) -> bool:
        """Whether the text has a probability above zero."""
        ...


@dataclass(frozen=True)
class Listed:
    """A law over texts that can be listed.

    Attributes
    ----------
    texts : every valid text once, all of one length
    p : (N,) their probabilities

    """

    texts: tuple[str, ...]
    p: Floats

    def __post_init__(self) -> None:
        if len({len(text) for text in self.texts}) != 1 or len(set(self.texts)) != len(self.texts):
            raise ValueError("texts must be distinct and of one length; pad the shorter ones")
        if self.p.shape != (len(self.texts),) or not (np.isclose(self.p.sum(), 1) and (self.p > 0).all()):
            raise ValueError(
                f"p has shape {self.p.shape} and sums to {self.p.sum():g}; expected positive, summing to 1"
            )

    @cached_property
    def codec(self) -> Codec:
        return Characters.of("".join(self.texts))

    @property
    def length(self) -> int:
        return len(self.texts[0])

    @property
    def entropy(self) -> float:
        return float(-(self.p * np.log(self.p)).sum())

    @cached_property
    def ids(self) -> Ints:
        """All texts, (N, L)."""
        return self.codec.encode("".join(self.texts)).reshape(len(self.texts), -1)

    @cached_property
    def _place(self) -> dict[bytes, int]:
        return {row.tobytes(): i for i, row in enumerate(self.ids)}

    def places(self, ids: Ints) -> Ints:
        """Where each of (n, L) texts stands in the list, -1 for texts that are not valid: (n,)."""
        rows = np.ascontiguousarray(ids, np.int64)
        return np.array([self._place.get(row.tobytes(), -1) for row in rows], np.int64)

    def log_p(self, ids: Ints) -> Floats:
        """(n, L) ids to (n,) nats, -inf for texts that are not valid."""
        at = self.places(ids)
        return np.where(at >= 0, np.log(self.p)[at], -np.inf)

    def draw(self, n: int, rng: np.random.Generator) -> Ints:
        """(n, L) ids of texts drawn from the law."""
        return np.asarray(self.ids[rng.choice(len(self.p), n, p=self.p)])

    def valid(self, text: str) -> bool:
        """Whether the text is one of the list."""
        return text in self._texts

    @cached_property
    def _texts(self) -> frozenset[str]:
        return frozenset(self.texts)


@dataclass(frozen=True)
class Chain:
    """A Markov chain: log p(x) = log start[x^1] + sum_i log matrix[x^{i-1}, x^i].

    Attributes
    ----------
    alphabet : a letter per state
    start : (V,)
    matrix : (V, V), row-stochastic
    length : letters of each text

    """

    alphabet: str
    start: Floats
    matrix: Floats
    length: int

    def __post_init__(self) -> None:
        v = len(self.alphabet)
        if self.start.shape != (v,) or self.matrix.shape != (v, v) or self.length < 1:
            raise ValueError(
                f"start has shape {self.start.shape} and matrix {self.matrix.shape} for length {self.length}; expected "
                f"({v},) and ({v}, {v}) for an alphabet of {v}, and a length of at least 1"
            )
        if not (np.allclose(self.matrix.sum(axis=1), 1) and np.isclose(self.start.sum(), 1)):
            raise ValueError("start and the rows of matrix must sum to 1")
        if (self.matrix < 0).any() or (self.start < 0).any():
            raise ValueError("start and matrix contain negative numbers; they are probabilities")

    @cached_property
    def codec(self) -> Codec:
        return Characters(self.alphabet)

    @property
    def entropy(self) -> float:
        """H(x^1) + sum_i H(x^i | x^{i-1})."""
        law, total = self.start, float(_plogp(self.start).sum())
        for _ in range(self.length - 1):
            total += float(law @ _plogp(self.matrix).sum(axis=1))
            law = law @ self.matrix
        return -total

    def log_p(self, ids: Ints) -> Floats:
        """(n, L) ids to (n,) nats, -inf where a transition is impossible."""
        if ids.shape[1] != self.length:
            raise ValueError(f"ids has shape {ids.shape}; expected (n, {self.length})")
        with np.errstate(divide="ignore"):
            start, matrix = np.log(self.start), np.log(self.matrix)
        return np.asarray(start[ids[:, 0]] + matrix[ids[:, :-1], ids[:, 1:]].sum(axis=1))

    def draw(self, n: int, rng: np.random.Generator) -> Ints:
        """(n, L) ids of texts drawn from the law."""
        ids = np.empty((n, self.length), np.int64)
        cumulative, u = self.matrix.cumsum(axis=1), rng.random((n, self.length))
        ids[:, 0] = (self.start.cumsum() <= u[:, :1]).sum(axis=1)
        for i in range(1, self.length):
            ids[:, i] = (cumulative[ids[:, i - 1]] <= u[:, i : i + 1]).sum(axis=1)
        return np.minimum(ids, len(self.alphabet) - 1)  # rows may sum to a little less than 1

    def valid(self, text: str) -> bool:
        """Whether the text has the right length and letters, and no impossible transition."""
        if len(text) != self.length or set(text) - set(self.alphabet):
            return False
        return bool(self.log_p(self.codec.encode(text)[None])[0] > -math.inf)


def _plogp(p: Floats) -> Floats:
    return np.asarray(p * np.log(np.where(p > 0, p, 1)))


def sums() -> Listed:
    """`17+25=42 `: every sum of two numbers from 10 to 99, equally likely. 9 characters."""
    texts = [f"{a}+{b}={a + b}".ljust(9) for a, b in itertools.product(range(10, 100), repeat=2)]
    return Listed(tuple(texts), np.full(len(texts), 1 / len(texts)))


NOUNS = {"dog": 0.4, "hen": 0.3, "cow": 0.2, "fox": 0.1}
PLACES = {"near": 0.6, "by": 0.4}
VERBS = {"feed": 0.5, "see": 0.3, "hear": 0.2}
DISTRACTED = 0.75  # share of the sentences with a phrase between subject and verb


def _sentences() -> Iterator[tuple[str, float]]:
    for (noun, of_noun), plural in itertools.product(NOUNS.items(), (False, True)):
        phrases = [("", 1 - DISTRACTED)]
        for (place, of_place), (other, of_other), others in itertools.product(
            PLACES.items(), NOUNS.items(), (False, True)
        ):
            phrases.append((f" {place} the {other}{'s' * others}", DISTRACTED * of_place * of_other / 2))
        for (phrase, of_phrase), (verb, of_verb) in itertools.product(phrases, VERBS.items()):
            pronoun = "themselves" if plural else "itself"
            text = f"the {noun}{'s' * plural}{phrase} {verb}{'s' * (not plural)} {pronoun}."
            yield text, of_noun / 2 * of_phrase * of_verb


def agreement() -> Listed:
    """`the dogs near the hen feed themselves.  `: subject, verb and pronoun agree in number. 40 characters."""
    texts, p = zip(*_sentences(), strict=True)
    return Listed(tuple(text.ljust(40) for text in texts), np.array(p))


def chain(length: int = 64) -> Chain:
    """Six letters, each followed by one of three: by the next with 0.7, the one after with 0.2, itself with 0.1."""
    v = 6
    eye = np.eye(v)
    matrix = 0.7 * np.roll(eye, 1, axis=1) + 0.2 * np.roll(eye, 2, axis=1) + 0.1 * eye
    return Chain("abcdef", np.full(v, 1 / v), matrix, length)


LAWS: dict[str, Callable[[], Law]] = {"sums": sums, "agreement": agreement, "chain": chain, "stories": Stories}
