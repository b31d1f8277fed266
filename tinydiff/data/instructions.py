"""Instructions with exact answers: whether a model follows them is a comparison of two strings.

    copy dcab>     dcab        what it can see, where it stands
    reverse dcab>  bacd        the last is first: easy in any order but left to right
    sort dcab>     abcd        every letter counts
    add 17 25>     42          carries run right to left
    find b:a3 b7>  7           a look-up

20,000 pairs, as many of each task, in a random order that is always the same; no prompt comes twice, so that those held
out were never trained on. Letters are a to h, words have three to six of them, numbers up to two digits, lists two to
four entries.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from .codec import Characters, Codec
from .pairs import RAINBOW, Pairs, check_rainbow

NAME = "instructions"
LETTERS = "abcdefgh"
EACH = 4_000
SEED = 0


def _word(rng: np.random.Generator) -> str:
    return "".join(LETTERS[i] for i in rng.integers(0, len(LETTERS), rng.integers(3, 7)))


def copy(rng: np.random.Generator) -> tuple[str, str]:
    """The word."""
    word = _word(rng)
    return f"copy {word}>", word


def reverse(rng: np.random.Generator) -> tuple[str, str]:
    """The word backwards."""
    word = _word(rng)
    return f"reverse {word}>", word[::-1]


def sort(rng: np.random.Generator) -> tuple[str, str]:
    """The letters in alphabetical order."""
    word = _word(rng)
    return f"sort {word}>", "".join(sorted(word))


def add(rng: np.random.Generator) -> tuple[str, str]:
    """The sum."""
    a, b = rng.integers(0, 100, 2).tolist()
    return f"add {a} {b}>", str(a + b)


def find(rng: np.random.Generator) -> tuple[str, str]:
    """The digit beside the letter."""
    keys = [LETTERS[i] for i in rng.permutation(len(LETTERS))[: rng.integers(2, 5)]]
    digits = rng.integers(0, 10, len(keys))
    at = rng.integers(len(keys))
    listed = " ".join(f"{key}{digit}" for key, digit in zip(keys, digits, strict=True))
    return f"find {keys[at]}:{listed}>", str(digits[at])


TASKS: dict[str, Callable[[np.random.Generator], tuple[str, str]]] = {
    "copy": copy, "reverse": reverse, "sort": sort, "add": add, "find": find,
}  # fmt: skip
"""By the first word of the prompt: a task draws a prompt and its answer."""


@dataclass(frozen=True)
class Instructions(Pairs):
    """The corpus."""

    @property
    def recipe(self) -> dict[str, Any]:
        """Options of `tinydiff train` that suit it."""
        return {"length": 24, "batch": 64, "steps": 2000}


@cache
def pairs(each: int = EACH) -> tuple[tuple[str, str], ...]:
    """That many distinct prompts of every task with their answers, mixed."""
    rng, drawn = np.random.default_rng(SEED), dict[str, str]()
    for number, task in enumerate(TASKS.values(), 1):
        while len(drawn) < number * each:
            prompt, answer = task(rng)
            drawn[prompt] = answer
    prompts = [*drawn]
    return tuple((prompts[i], drawn[prompts[i]]) for i in rng.permutation(len(prompts)))


def load(codec: Codec | None = None, rainbow: int = 0) -> Instructions:
    """The corpus, its answers ended by EOS and filled up by that or by a rainbow, see `Pairs`."""
    check_rainbow(rainbow)
    every = pairs()
    text = "".join(text for pair in every for text in pair) + RAINBOW[:rainbow]
    return Instructions(NAME, every, codec or Characters.of(text, eos=True), rainbow)
