"""A corpus of separate texts of one length with a known law: training windows are whole texts, never pieces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..arrays import Ints
from .batch import Batch
from .codec import Codec
from .corpus import Corpus
from .laws import LAWS, Law, Listed
from .phrasebook import TRANSLATIONS
from .translation import Translations

DRAWS = 20_000
SEED = 0


@dataclass(frozen=True)
class Examples(Corpus):
    """Texts end to end, each of `law.length` tokens; a text is the unit that is drawn, trained on and held out.

    Attributes
    ----------
    law : what the texts are drawn from

    """

    law: Law

    @property
    def recipe(self) -> dict[str, Any]:
        """Options of `tinydiff train` that suit it."""
        return {"length": self.law.length, "batch": 64}

    @property
    def description(self) -> str:
        return (
            f"{len(self.ids) // self.law.length:,} texts of {self.law.length} {self.codec.unit}s, "
            f"{self.vocab_size} distinct"
        )

    @cached_property
    def train(self) -> Ints:
        """All but the last tenth of the texts."""
        return self.ids[: self._until]

    @cached_property
    def held_out(self) -> Ints:
        """The last tenth of the texts."""
        return self.ids[self._until :]

    @property
    def _until(self) -> int:
        texts = len(self.ids) // self.law.length
        return (texts - texts // 10) * self.law.length

    def check_length(self, length: int) -> None:
        """Raise ValueError unless windows are whole texts."""
        if length != self.law.length:
            raise ValueError(
                f"length is {length}, but {self.name} has texts of {self.law.length} {self.codec.unit}s; use that"
            )

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """Random texts, (size, length); a text that comes twice counts once."""
        self.check_length(length)
        texts = (self.held_out if held_out else self.train).reshape(-1, length)
        at = rng.integers(0, len(texts), size)
        return Batch(texts[at].astype(np.int64), cluster=at)


@dataclass(frozen=True)
class Parallel(Examples):
    """Sources with one of their translations each: the source is given, and the target is free."""

    law: Translations

    @property
    def recipe(self) -> dict[str, Any]:
        """Options of `tinydiff train` that suit it: some seconds."""
        return {"length": self.law.length, "batch": 64, "steps": 1000, "optimiser": "adamw", "lr": 4e-3}

    @property
    def description(self) -> str:
        return f"{len(self.ids) // self.law.length:,} pairs of {self.law.length} words, {self.vocab_size} distinct"

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """Random pairs of which the source is given, and in the share `law.told` of them the length."""
        batch = super().examples(length, size, rng, held_out=held_out)
        told = rng.random((size, 1)) < self.law.told
        return replace(batch, given=self.law.known(batch.x0, told))


def parallel(law: Translations, name: str = "translations", draws: int = DRAWS) -> Parallel:
    """A corpus of that many pairs drawn from a law of translations."""
    ids = law.draw(draws, np.random.default_rng(SEED))
    return Parallel(name, law.codec.decode(ids.ravel()), law.codec, law)


def load(name: str, codec: Codec | None = None) -> Examples:
    """The corpus of one of `laws.LAWS`: its list in random order if all are equally likely, 20,000 draws if not.

    So no held-out sum is ever trained on, while the likely ones of other texts are on both sides. Of
    `phrasebook.TRANSLATIONS` always 20,000 draws.
    """
    if name in TRANSLATIONS:
        return parallel(TRANSLATIONS[name](), name)
    law, rng = LAWS[name](), np.random.default_rng(SEED)
    if isinstance(law, Listed) and np.ptp(law.p) == 0:
        ids = law.ids[rng.permutation(len(law.ids))]
    else:
        ids = law.draw(DRAWS, rng)
    return Examples(name, law.codec.decode(ids.ravel()), codec or law.codec, law)
