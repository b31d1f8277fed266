"""Between characters and token ids."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..arrays import Ints


@dataclass(frozen=True)
class Codec:
    """One token per character of a fixed alphabet: id i is `alphabet[i]`."""

    alphabet: str

    def __post_init__(self) -> None:
        if not self.alphabet or len(set(self.alphabet)) != len(self.alphabet):
            raise ValueError(f"alphabet is {self.alphabet!r}; expected at least one character and none twice")

    @staticmethod
    def of(text: str) -> Codec:
        """The codec whose alphabet is the characters of `text`, in code-point order."""
        if not text:
            raise ValueError("text is empty; an alphabet needs at least one character")
        return Codec("".join(sorted(set(text))))

    @property
    def vocab_size(self) -> int:
        return len(self.alphabet)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {character: i for i, character in enumerate(self.alphabet)}

    def encode(self, text: str) -> Ints:
        """Ids of the characters, (len(text),)."""
        try:
            return np.fromiter((self._ids[c] for c in text), np.int64, len(text))
        except KeyError:
            at = next(i for i, c in enumerate(text) if c not in self._ids)
            shown = self.alphabet if len(self.alphabet) <= 120 else self.alphabet[:120] + "..."
            raise ValueError(
                f"text contains {text[at]!r} (U+{ord(text[at]):04X}) at position {at}, which this alphabet of "
                f"{self.vocab_size} characters does not have: {shown!r}"
            ) from None

    def decode(self, ids: Ints, mask: str = "\u2591") -> str:
        """Characters of (L,) ids; the id after the last character is shown as `mask`."""
        if ids.size and not (ids.min() >= 0 and ids.max() <= self.vocab_size):
            raise ValueError(f"ids contains {ids.min()}..{ids.max()}; expected 0 <= id <= {self.vocab_size}")
        symbols = [*self.alphabet, mask]
        return "".join(symbols[i] for i in ids)
