"""A text as token ids, with its last tenth held out."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
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
    codec : between text and ids

    """

    name: str
    text: str
    codec: Codec

    unit = "bits per character"
    """Of its figures, whatever the tokens, so that codecs can be compared."""
    short_unit = "bits/char"

    @property
    def recipe(self) -> dict[str, Any]:
        """Options of `tinydiff train` that suit it: the general ones are for text."""
        return {}

    @property
    def description(self) -> str:
        tokens = f" in {len(self.ids):,} {self.codec.unit}s" if len(self.ids) != len(self.text) else ""
        return f"{len(self.text):,} characters{tokens}, {self.vocab_size} distinct"

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: its name, the digest of its text, and its codec."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return {"name": self.name, "sha256": digest} | self.codec.config

    @property
    def vocab_size(self) -> int:
        return self.codec.vocab_size

    @cached_property
    def ids(self) -> Ints:
        """The whole text, (N,), in the smallest integers that can hold it."""
        small = np.min_scalar_type(self.codec.vocab_size)
        return np.concatenate([self.codec.encode(part).astype(small) for part in _parts(self.text)])

    @property
    def train(self) -> Ints:
        """All but the last tenth."""
        return self.ids[: int((1 - HELD_OUT) * len(self.ids))]

    @property
    def held_out(self) -> Ints:
        """The last tenth."""
        return self.ids[int((1 - HELD_OUT) * len(self.ids)) :]

    @property
    def untrained(self) -> dict[str, int]:
        """The tokens of the held-out part that the training part does not have, and how often each occurs there."""
        return not_in(self.train, self.held_out, self.codec)

    def check_length(self, length: int) -> None:
        """Raise ValueError unless windows of `length` fit into both parts."""
        shortest = min(len(self.train), len(self.held_out))
        if not 1 <= length <= shortest:
            use = f"use a length of 1 to {shortest} or " if shortest else "use "
            raise ValueError(
                f"length is {length}, but the held-out tenth of {self.name} has {shortest} {self.codec.unit}s; {use}"
                f"a text of at least {10 * max(length, 1)} {self.codec.unit}s"
            )

    def batch(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Ints:
        """Random windows of consecutive tokens, (size, length)."""
        return np.asarray(self.examples(length, size, rng, held_out=held_out).x0)

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """The windows of `batch`, of which nothing is known beforehand."""
        ids = self.held_out if held_out else self.train
        if length > len(ids):
            self.check_length(length)
        starts = rng.integers(0, len(ids) - length + 1, size)
        return _windows(ids, starts, length)


@dataclass(frozen=True)
class Unseen(Corpus):
    """A whole text that was never trained on: all of it is held out. Characters that the codec lacks are skipped."""

    @property
    def train(self) -> Ints:
        """Nothing."""
        return self.ids[:0]

    @property
    def held_out(self) -> Ints:
        """All of it."""
        return self.ids

    @cached_property
    def ids(self) -> Ints:
        """The whole text, (N,); -1 where it has characters that the codec does not."""
        known = set("".join(self.codec.tokens))
        parts = re.split("([" + re.escape("".join(sorted(set(self.text) - known)) or "\0") + "]+)", self.text)
        gap = np.array([-1])
        ids = [gap if i % 2 else self.codec.encode(part) for i, part in enumerate(parts) if part]
        return np.concatenate(ids) if ids else gap[:0]

    @property
    def unknown(self) -> dict[str, int]:
        """The characters that the codec does not have, and how often each occurs."""
        known = set("".join(self.codec.tokens))
        return {c: n for c, n in Counter(self.text).most_common() if c not in known}

    def starts(self, length: int) -> Ints:
        """Where a window of that length begins without a character that is skipped."""
        broken = np.concatenate([[0], np.cumsum(self.ids < 0)])
        return np.flatnonzero(broken[length:] == broken[: len(broken) - length])

    def check_length(self, length: int) -> None:
        """Raise ValueError unless there are windows of `length`."""
        if not 1 <= length <= len(self.ids) or not len(self.starts(length)):
            what = f"and {len(self.unknown)} characters that the model does not know" if self.unknown else ""
            raise ValueError(
                f"length is {length}, but {self.name} has {len(self.ids)} {self.codec.unit}s {what}".rstrip()
                + ", so that no window fits; use a longer text"
            )

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """Random windows of consecutive tokens, (size, length)."""
        starts = self.starts(length)
        return _windows(self.ids, starts[rng.integers(0, len(starts), size)], length)


def not_in(known: Ints, ids: Ints, codec: Codec) -> dict[str, int]:
    """The tokens of (M,) ids that (N,) others do not have, the most frequent first, and how often each occurs."""
    distinct, counts = np.unique(ids, return_counts=True)
    new = ~np.isin(distinct, known)
    order = np.argsort(-counts[new], kind="stable")
    return {codec.tokens[i]: int(n) for i, n in zip(distinct[new][order], counts[new][order], strict=True)}


def _windows(ids: Ints, starts: Ints, length: int) -> Batch:
    """Windows from these places on; those of one stretch of four windows are one cluster."""
    x0 = ids[starts[:, None] + np.arange(length)].astype(np.int64)
    return Batch(x0, cluster=starts // (4 * length))


def _parts(text: str, size: int = 1 << 20) -> Iterator[str]:
    """A long text in parts that end with a line, so that whatever is made of one part does not fill the memory."""
    start = 0
    while start < len(text) or start == 0:
        end = text.find("\n", start + size) + 1 or len(text)
        yield text[start:end]
        start = end or 1
