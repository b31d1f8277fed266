"""A text as token ids, with its last tenth held out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..arrays import Ints
from .batch import Batch
from .codec import Codec

HELD_OUT = 0.1  # this last part of every corpus is never trained on


@dataclass(frozen=True)
class Corpus:
    """A text as token ids, its last tenth held out.

    Attributes
    ----------
    name : "python_docs", "python_source" or the path of a file
    text : the characters
    codec : between characters and ids

    """

    name: str
    text: str
    codec: Codec

    unit = "bits per character"
    short_unit = "bits/char"

    @property
    def recipe(self) -> dict[str, Any]:
        """Options of `tinydiff train` that suit it: the general ones are for text."""
        return {}

    @property
    def description(self) -> str:
        return f"{len(self.text):,} characters, {self.vocab_size} distinct"

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: its name, the digest of its text, and its alphabet."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return {"name": self.name, "sha256": digest, "alphabet": self.codec.alphabet}

    @property
    def vocab_size(self) -> int:
        return self.codec.vocab_size

    @cached_property
    def ids(self) -> Ints:
        """The whole text, (N,)."""
        return self.codec.encode(self.text)

    @property
    def train(self) -> Ints:
        """All but the last tenth."""
        return self.ids[: int((1 - HELD_OUT) * len(self.ids))]

    @property
    def held_out(self) -> Ints:
        """The last tenth."""
        return self.ids[int((1 - HELD_OUT) * len(self.ids)) :]

    def check_length(self, length: int) -> None:
        """Raise ValueError unless windows of `length` fit into both parts."""
        shortest = min(len(self.train), len(self.held_out))
        if not 1 <= length <= shortest:
            use = f"use a length of 1 to {shortest} or " if shortest else "use "
            raise ValueError(
                f"length is {length}, but the held-out tenth of {self.name} has {shortest} characters; {use}"
                f"a text of at least {10 * max(length, 1)} characters"
            )

    def batch(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Ints:
        """Random windows of consecutive characters, (size, length)."""
        ids = self.held_out if held_out else self.train
        if length > len(ids):
            self.check_length(length)
        starts = rng.integers(0, len(ids) - length + 1, size)
        return np.asarray(ids[starts[:, None] + np.arange(length)])

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """The windows of `batch`, of which nothing is known beforehand."""
        return Batch(self.batch(length, size, rng, held_out=held_out))
