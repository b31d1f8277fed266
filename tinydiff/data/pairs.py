"""Prompts and answers: what is asked is given, what is answered is learnt.

A canvas holds the prompt, the answer and the end of the text, EOS, as often as it takes to fill it:

    W h o ?   M e . ¶ ¶ ¶ ¶
    given . . free . . . .

The prompt is never masked nor scored. EOS counts like any token (LLaDA, Nie et al. 2025, section 2.3): so the model
learns where its answer ends, and a decoder that fills the canvas says so.

On a long canvas nearly all of that is EOS, and a decoder that begins with what it is surest of begins with EOS at the
end, which makes EOS before it sure. A rainbow fills up with a cycle of K other tokens after the one EOS (Kim et al.
2026), of which none is that common:

    W h o ?   M e . ¶ ① ② ③ ① ②
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Ints
from .batch import Batch
from .codec import Codec, new_codec
from .corpus import HELD_OUT, not_in

RAINBOW = "①②③④⑤⑥⑦⑧⑨"
"""What a rainbow of up to nine colours is made of."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of texts, the last tenth of them held out.

    Attributes
    ----------
    name : the path of their file
    pairs : (prompt, answer)
    codec : between text and ids, with EOS
    rainbow : how many tokens, the first of RAINBOW, take turns after EOS; 0: EOS itself fills up

    """

    name: str
    pairs: tuple[tuple[str, str], ...]
    codec: Codec
    rainbow: int = 0

    unit = "bits per character"
    short_unit = "bits/char"

    def __post_init__(self) -> None:
        if len(self.pairs) < 2:
            raise ValueError(f"{self.name} has {len(self.pairs)} pair; expected at least 2, one to be held out")
        self._check_parts()

    def _check_parts(self) -> None:
        if self.codec.eos_id is None:
            raise ValueError("codec has no EOS, which ends an answer; make it with eos=True")
        check_rainbow(self.rainbow)
        if len(self.codec.unknown(RAINBOW[: self.rainbow])):
            raise ValueError(
                f"rainbow is {self.rainbow}, but the codec does not know {RAINBOW[: self.rainbow]}: make it for a text "
                "that has them"
            )
        if not any(answer for _, answer in self.pairs[self._until :]):
            raise ValueError(
                f"{self.name} has only empty answers from pair {self._until + 1} on, which are held out; bits per "
                "character need some, so shuffle the lines or add more"
            )

    @property
    def recipe(self) -> dict[str, Any]:
        """Options of `tinydiff train` that suit it: the least power of two that holds the longest pair."""
        return {"length": 1 << (self.longest - 1).bit_length()}

    @property
    def description(self) -> str:
        return (
            f"{len(self.pairs):,} pairs of up to {self.longest} {self.codec.unit}s with their end, "
            f"{self.vocab_size} distinct"
        )

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: its name, the digest of the pairs, and the codec."""
        filled = {"rainbow": self.rainbow} if self.rainbow else {}
        return {"name": self.name, "sha256": self.digest, "pairs": len(self.pairs)} | filled | self.codec.config

    @property
    def digest(self) -> str:
        """Of all pairs."""
        return digest_of(self.pairs)

    @property
    def vocab_size(self) -> int:
        return self.codec.vocab_size

    @cached_property
    def filling(self) -> Ints:
        """The tokens that take turns after the first EOS, (K,)."""
        if not self.rainbow:
            return np.array([self.codec.eos_id])
        return np.concatenate([self.codec.encode(sign) for sign in RAINBOW[: self.rainbow]])

    @cached_property
    def token_lengths(self) -> Ints:
        """Characters of text that each token stands for, (V,): none for what ends a text and fills up."""
        lengths = self.codec.lengths.copy()
        lengths[self.filling] = 0
        return lengths

    @cached_property
    def ids(self) -> list[tuple[Ints, Ints]]:
        """Prompt and answer of each pair, the answer with one EOS."""
        end = np.array([self.codec.eos_id])
        return [(self.codec.encode(p), np.concatenate([self.codec.encode(a), end])) for p, a in self.pairs]

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest pair, EOS included."""
        return max(len(prompt) + len(answer) for prompt, answer in self.ids)

    def check_length(self, length: int) -> None:
        """Raise ValueError unless every pair fits."""
        over = [i for i, (prompt, answer) in enumerate(self.ids) if len(prompt) + len(answer) > length]
        if over:
            raise ValueError(
                f"length is {length}, but {len(over)} of {len(self.ids)} pairs of {self.name} are longer, the first is "
                f"pair {over[0] + 1} and the longest takes {self.longest} {self.codec.unit}s with its end; use a "
                f"length of at least {self.longest}"
            )

    @property
    def train(self) -> Ints:
        """The tokens of the pairs that are trained on, one after the other: (N,)."""
        return np.concatenate([ids for pair in self.ids[: self._until] for ids in pair])

    @property
    def held_out(self) -> Ints:
        """The tokens of the other pairs, (M,)."""
        return np.concatenate([ids for pair in self.ids[self._until :] for ids in pair])

    @property
    def untrained(self) -> dict[str, int]:
        """The tokens of the held-out pairs that the others do not have, and how often each occurs there."""
        return not_in(self.train, self.held_out, self.codec)

    @property
    def _until(self) -> int:
        return min(int((1 - HELD_OUT) * len(self.pairs)), len(self.pairs) - 1)

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """Random pairs on canvases (size, length), their prompts given."""
        self.check_length(length)
        at = rng.integers(self._until, len(self.ids), size) if held_out else rng.integers(0, self._until, size)
        x0, given = np.empty((size, length), np.int64), np.zeros((size, length), bool)
        for row, (prompt, answer) in enumerate(self.ids[i] for i in at):
            end = len(prompt) + len(answer)
            x0[row, : len(prompt)], given[row, : len(prompt)] = prompt, True
            x0[row, len(prompt) : end] = answer
            x0[row, end:] = np.resize(self.filling, length - end)
        return Batch(x0, given=given, cluster=self._first[at])

    @cached_property
    def _first(self) -> Ints:
        """Where each pair occurs first, (N,): those that say the same are no more to learn from than one."""
        places: dict[tuple[str, str], int] = {}
        return np.array([places.setdefault(pair, i) for i, pair in enumerate(self.pairs)])


@dataclass(frozen=True)
class UnseenPairs(Pairs):
    """Pairs that were never trained on: all of them are held out.

    Attributes
    ----------
    unknown, over : how many more there were that the codec cannot say, or that are too long

    """

    unknown: int = 0
    over: int = 0

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError(
                f"{self.name} has no pairs that can be evaluated: {self.unknown} have something that the model does "
                f"not know, {self.over} are too long for it"
            )
        self._check_parts()

    @property
    def _until(self) -> int:
        return 0

    @staticmethod
    def of(name: str, pairs: tuple[tuple[str, str], ...], codec: Codec, length: int, rainbow: int = 0) -> UnseenPairs:
        """Those that a model of that codec and length can be asked."""
        known = [pair for pair in pairs if not any(len(codec.unknown(text)) for text in pair)]
        short = [pair for pair in known if sum(len(codec.encode(text)) for text in pair) < length]  # and EOS
        return UnseenPairs(name, tuple(short), codec, rainbow, len(pairs) - len(known), len(known) - len(short))


def digest_of(pairs: tuple[tuple[str, str], ...]) -> str:
    """SHA-256 of prompts and answers."""
    return hashlib.sha256(json.dumps(pairs).encode()).hexdigest()


def read_pairs(path: Path | str, lines: str) -> tuple[tuple[str, str], ...]:
    """Pairs from JSON lines, {"prompt": ..., "answer": ...} each; ValueError naming the first line that is none."""
    rows = read_rows(path, lines, ("prompt", "answer"), _EXAMPLE)
    return tuple((row["prompt"], row["answer"]) for _, row in rows)


def read_rows(
    path: Path | str, lines: str, keys: tuple[str, ...], example: str
) -> Iterator[tuple[int, dict[str, str]]]:
    """Number and content of each JSON line, an object with text under all keys; ValueError for the first that is none.

    Parameters
    ----------
    path, example : what to call the file, and what a line should look like, for messages

    """
    for number, line in enumerate(lines.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"line {number} of {path} is not JSON ({error}); expected {example}") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in keys):
            raise ValueError(f"line {number} of {path} is {line[:60]!r}; expected {example}")
        yield number, row


_EXAMPLE = '{"prompt": "Who?", "answer": "Me."}'


def check_rainbow(rainbow: int) -> None:
    """ValueError for more colours than there are."""
    if not 0 <= rainbow <= len(RAINBOW):
        raise ValueError(f"rainbow is {rainbow}; expected 0, for EOS alone, to {len(RAINBOW)}")


def pairs_of(
    path: Path | str,
    lines: str,
    codec: Codec | None = None,
    *,
    tokens: str = "characters",
    vocab: int | None = None,
    rainbow: int = 0,
) -> Pairs:
    """The pairs of a file, with that codec or one made for all of their text."""
    check_rainbow(rainbow)
    pairs = read_pairs(path, lines)
    if codec is None and pairs:
        text = "\n".join([*(text for pair in pairs for text in pair), *RAINBOW[:rainbow]])
        codec = new_codec(text, tokens, vocab, eos=True)
    if codec is None:
        raise ValueError(f"{path} has no pairs; expected lines of {_EXAMPLE}")
    return Pairs(str(path), pairs, codec, rainbow)
