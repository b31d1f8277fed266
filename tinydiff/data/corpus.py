"""A text as token ids, with its last tenth held out."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..arrays import Ints
from .batch import Batch
from .codec import Codec, other_form, parts

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
        try:
            return np.concatenate([self.codec.encode(part).astype(small) for part in parts(self.text)])
        except ValueError:
            self.codec.encode(self.text)  # names the place in the whole text, not in the part
            raise

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
    """A whole text that was never trained on: all of it is held out. What the codec cannot say is skipped."""

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
        """The whole text, (N,); -1 where it has something that the codec does not."""
        small, gap = np.min_scalar_type(-1 - self.codec.vocab_size), np.array([-1])
        whole = []
        for part in parts(self.text):
            ids: list[Ints] = []
            at = 0
            for start, end in _joined(self.codec.unknown(part)):
                ids += [self.codec.encode(part[at:start]), gap]
                at = end
            ids.append(self.codec.encode(part[at:]))
            whole.append(np.concatenate(ids).astype(small))
        return np.concatenate(whole)

    @cached_property
    def unknown(self) -> dict[str, int]:
        """What the codec cannot say, and how often it occurs."""
        counts: Counter[str] = Counter()
        for part in parts(self.text):
            counts.update(part[start:end] for start, end in self.codec.unknown(part))
        return dict(counts.most_common())

    @property
    def other_form(self) -> str | None:
        """How to have more of it known, if it is in another Unicode form than the training text."""
        return other_form(self.text[: 1 << 20], set("".join(self.codec.tokens))) if self.unknown else None

    @cached_property
    def stretches(self) -> tuple[Ints, Ints]:
        """Where each stretch without a gap begins, and how many tokens it has: (n,) both."""
        gaps = np.flatnonzero(self.ids < 0)
        begins = np.concatenate([[0], gaps + 1])
        return begins, np.concatenate([gaps, [len(self.ids)]]) - begins

    @property
    def longest(self) -> int:
        """Tokens of the longest stretch."""
        return int(self.stretches[1].max())

    def check_length(self, length: int) -> None:
        """Raise ValueError unless there are windows of `length`."""
        if not self.longest:
            raise ValueError(
                f"{self.name} has nothing that the model knows, so that there is nothing to evaluate; use a text "
                "in the language and alphabet of its own"
            )
        if not 1 <= length <= self.longest:
            between = " between what the model does not know" if self.unknown else ""
            raise ValueError(
                f"length is {length}, but {self.name} has at most {self.longest} {self.codec.unit}s in a row{between}; "
                f"use a length of 1 to {self.longest}"
            )

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """Random windows without a gap, (size, length), all equally likely."""
        self.check_length(length)
        begins, sizes = self.stretches
        until = np.cumsum(np.maximum(sizes - length + 1, 0))  # windows of all stretches up to each
        at = rng.integers(0, until[-1], size)
        which = np.searchsorted(until, at, side="right")
        return _windows(self.ids, begins[which] + at - np.where(which > 0, until[which - 1], 0), length)


def not_in(known: Ints, ids: Ints, codec: Codec) -> dict[str, int]:
    """The tokens of (M,) ids that (N,) others do not have, the most frequent first, and how often each occurs."""
    distinct, counts = np.unique(ids, return_counts=True)
    new = ~np.isin(distinct, known)
    order = np.argsort(-counts[new], kind="stable")
    return {codec.tokens[i]: int(n) for i, n in zip(distinct[new][order], counts[new][order], strict=True)}


def _joined(spans: Ints) -> Ints:
    """Spans with those that touch made one, (n, 2)."""
    apart = spans[1:, 0] != spans[:-1, 1]
    first, last = np.r_[True, apart], np.r_[apart, True]
    return np.stack([spans[first, 0], spans[last, 1]], axis=1) if len(spans) else spans


def _windows(ids: Ints, starts: Ints, length: int) -> Batch:
    """Windows from these places on; those of one stretch of four windows are one cluster."""
    x0 = ids[starts[:, None] + np.arange(length)].astype(np.int64)
    return Batch(x0, cluster=starts // (4 * length))
