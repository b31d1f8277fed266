"""A batch is one value: what the training loop draws, a process corrupts and scores, and a decoder completes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import Bools, Ints


@dataclass(frozen=True)
class Batch:
    """Clean data, with what is known of it beforehand.

    Attributes
    ----------
    x0 : (B, L) token ids or (B, L, F) vectors
    label : (B,) classes, where the data has some
    given : (B, L), True where a position is known (a prompt, a source, what surrounds a gap): it is never corrupted,
        not scored and never changed. None: nothing is
    cluster : (B,) which piece of the data each comes from: those of one piece overlap or are the same, so that they
        count less than so many. None: all are independent

    """

    x0: Any
    label: Ints | None = None
    given: Bools | None = None
    cluster: Ints | None = None

    def __post_init__(self) -> None:
        if self.given is None:
            return
        shape, given = np.shape(self.x0)[:2], np.asarray(self.given)
        if given.shape != shape or given.dtype != bool:
            raise ValueError(
                f"given has shape {given.shape} and dtype {given.dtype}; expected {shape} booleans, one per position"
            )
        full = np.flatnonzero(given.all(axis=1))
        if len(full):
            raise ValueError(f"given leaves nothing free in sequence {full[0]}; at least one position must be free")

    @staticmethod
    def of(x0: Batch | Any) -> Batch:
        """The batch itself, or data of which nothing more is known as one."""
        return x0 if isinstance(x0, Batch) else Batch(x0)
