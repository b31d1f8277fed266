"""Invented facts, "name is description", for the reversal curse (Berglund et al. 2023).

    abcd=wxyz       the layout that all facts are told in
    wxyz:abcd       the layout that some of them are told in as well

Names and descriptions are strings of letters, drawn at random, from two alphabets. A model knows a fact forwards if it
completes `abcd=` and backwards if it finds the name of a description: in the same layout, `____=wxyz`, which takes a
model that fills in; or in the other, `wxyz:`, for a fact that was never told that way.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np

from ..arrays import Bools, Ints
from .batch import Batch
from .codec import Characters

NAMES, DESCRIPTIONS = "abcdefgh", "qrstuvwx"
Question = Literal["forward", "backward", "other"]


@dataclass(frozen=True)
class Facts:
    """K facts in two layouts, as data to train on; there is nothing to hold out, as facts do not follow from others.

    Attributes
    ----------
    names, descriptions : (K, m) ids
    told : (K,) facts that are told in the other layout as well
    reversed : whether every text also comes with its tokens turned round (Golovneva et al. 2024)

    """

    names: Ints
    descriptions: Ints
    told: Bools
    reversed: bool = False

    name, unit = "facts", "bits per character"

    @property
    def codec(self) -> Characters:
        return Characters(NAMES + DESCRIPTIONS + "=:")

    @property
    def vocab_size(self) -> int:
        return int(self.codec.vocab_size)

    @property
    def length(self) -> int:
        """Of every text."""
        return 2 * int(self.names.shape[1]) + 1

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint keeps of it."""
        return {"name": self.name, "sha256": hashlib.sha256(self.texts.tobytes()).hexdigest()} | self.codec.config

    def texts_of(self, other: bool, rows: Ints | Bools | slice = slice(None)) -> Ints:
        """Facts in one layout or the other, (n, L)."""
        first, second = (self.descriptions, self.names) if other else (self.names, self.descriptions)
        sign = np.full((len(first), 1), self.vocab_size - 1 - (not other))
        return np.concatenate([first, sign, second], axis=1)[rows]

    @cached_property
    def texts(self) -> Ints:
        """All that is trained on, (n, L)."""
        texts = np.concatenate([self.texts_of(False), self.texts_of(True, self.told)])
        return np.concatenate([texts, texts[:, ::-1]]) if self.reversed else texts

    def asked(self, question: Question) -> tuple[Ints, Bools, Bools]:
        """The facts that a question is about, as texts (n, L); what of them is given, (L,); which facts, (K,)."""
        m = self.names.shape[1]
        place, every = np.arange(self.length), np.ones(len(self.names), bool)
        if question == "forward":
            return self.texts_of(False), place <= m, every
        if question == "backward":
            return self.texts_of(False), place >= m, every
        if question == "other":
            return self.texts_of(True, ~self.told), place <= m, ~self.told
        raise ValueError(f"question is {question!r}; expected 'forward', 'backward' or 'other'")

    def check_length(self, length: int) -> None:
        """ValueError unless windows are whole texts."""
        if length != self.length:
            raise ValueError(f"length is {length}, but the facts are texts of {self.length}; use that")

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """Random texts, (size, length)."""
        self.check_length(length)
        at = rng.integers(0, len(self.texts), size)
        return Batch(self.texts[at], cluster=at)


def facts(count: int = 40, letters: int = 4, told: float = 0.5, seed: int = 0) -> Facts:
    """Facts drawn at random, no name and no description twice.

    Parameters
    ----------
    count : of facts
    letters : m, of each name and each description
    told : share of them that is told in the other layout as well

    """
    most = len(NAMES) ** letters
    if not 1 <= count <= most:
        raise ValueError(f"count is {count}; expected 1 <= count <= {most}, the names of {letters} letters")
    if not 0 <= told <= 1:
        raise ValueError(f"told is {told}; expected 0 <= told <= 1, a share of the facts")
    rng = np.random.default_rng(seed)
    each = [rng.choice(most, count, replace=False) for _ in range(2)]
    spelled = [(n[:, None] // len(NAMES) ** np.arange(letters)) % len(NAMES) for n in each]
    return Facts(spelled[0], spelled[1] + len(NAMES), np.arange(count) < round(told * count))
