"""Preferences: two answers to a prompt, of which one was preferred.

    {"prompt": "Who?", "chosen": "Me.", "rejected": "Nobody knows."}

Both answers lie on a canvas of the model's length behind the same prompt, which is given. If the tokens have an end of
a text, EOS, it fills what is left and counts like any token, as in `pairs`: log p of a canvas is log p of its answer.
(LLaDA 1.5 leaves EOS out, and so prefers between answers of known lengths.) Without one, prompt and answer must fill
the canvas.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..arrays import Bools, Ints
from .codec import Codec
from .pairs import read_rows

_EXAMPLE = '{"prompt": "Who?", "chosen": "Me.", "rejected": "You."}'


@dataclass(frozen=True)
class Preferences:
    """N pairs of answers.

    Attributes
    ----------
    chosen, rejected : (N, L) token ids of prompt and answer
    given : (N, L), True on the prompt; None without prompts

    """

    chosen: Ints
    rejected: Ints
    given: Bools | None = None

    def __post_init__(self) -> None:
        if self.chosen.ndim != 2 or self.chosen.shape != self.rejected.shape or not len(self.chosen):
            raise ValueError(
                f"chosen has shape {self.chosen.shape} and rejected {self.rejected.shape}; expected (N, L) for both, "
                "N of at least 1"
            )
        if self.given is not None and self.given.shape != self.chosen.shape:
            raise ValueError(f"given has shape {self.given.shape}; expected {self.chosen.shape}, one per position")
        same = np.flatnonzero((self.chosen == self.rejected).all(axis=1))
        if len(same):
            raise ValueError(f"pair {same[0] + 1} has two equal answers; expected one that is better, leave it out")
        moved = np.flatnonzero(((self.chosen != self.rejected) & ~self.free).any(axis=1))
        if len(moved):
            raise ValueError(f"pair {moved[0] + 1} has two prompts; expected answers to the same one")

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def free(self) -> Bools:
        """Where the answers are, (N, L)."""
        return np.ones(self.chosen.shape, bool) if self.given is None else ~self.given

    def at(self, rows: Ints | slice) -> Preferences:
        """Some of the pairs."""
        return Preferences(self.chosen[rows], self.rejected[rows], None if self.given is None else self.given[rows])


def preferences_of(path: Path | str, lines: str, codec: Codec, length: int) -> Preferences:
    """The preferences of a file of JSON lines for a model of that codec and length; ValueError for the first bad line.

    Parameters
    ----------
    path : its name, for messages
    lines : its text

    """
    chosen: list[Ints] = []
    rejected: list[Ints] = []
    given: list[Bools] = []
    for number, row in read_rows(path, lines, ("prompt", "chosen", "rejected"), _EXAMPLE):
        if row["chosen"] == row["rejected"]:
            raise ValueError(f"line {number} of {path} has two equal answers, {row['chosen'][:40]!r}; leave it out")
        prompt = _encoded(row["prompt"], codec, f"prompt of line {number} of {path}")
        given.append(np.arange(length) < len(prompt))
        for key, into in (("chosen", chosen), ("rejected", rejected)):
            answer = _encoded(row[key], codec, f"{key} of line {number} of {path}")
            into.append(_canvas(prompt, answer, codec.eos_id, length, f"line {number} of {path}: prompt and {key}"))
    if not chosen:
        raise ValueError(f"{path} has no preferences; expected lines of {_EXAMPLE}")
    return Preferences(np.stack(chosen), np.stack(rejected), np.stack(given))


def _encoded(text: str, codec: Codec, what: str) -> Ints:
    unknown = codec.unknown(text)
    if len(unknown):
        start, end = unknown[0]
        raise ValueError(f"{what} has {text[start:end]!r}, which the model does not know; use its alphabet")
    return codec.encode(text)


def _canvas(prompt: Ints, answer: Ints, eos: int | None, length: int, what: str) -> Ints:
    """Prompt, answer and EOS up to the length."""
    size = len(prompt) + len(answer)
    if eos is None and (size != length or not len(answer)):
        raise ValueError(
            f"{what} are {size} tokens, but the texts of this run are {length} long and have no end; give an answer of "
            f"{length - len(prompt)}"
        )
    if size + (eos is not None) > length:
        raise ValueError(f"{what} are {size} tokens and their end, but the model has {length}; shorten one of them")
    return np.concatenate([prompt, answer, np.full(length - size, 0 if eos is None else eos)]).astype(np.int64)
