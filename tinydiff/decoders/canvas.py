"""What a decoder is given to fill: token ids, of which some are known beforehand, and what the others may become."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..arrays import Bools, Floats, Ints, check_counts
from .frames import Frame


@dataclass(frozen=True)
class Canvas:
    """A batch to be filled.

    Attributes
    ----------
    start : (B, L) token ids where `given`, and `mask_id` everywhere else
    given : (B, L) positions that are known; they stay as they are
    mask_id : the id that stands for nothing yet, V
    allowed : (B, L, V), True for the tokens that a position may hold; None for all

    """

    start: Ints
    given: Bools
    mask_id: int
    allowed: Bools | None = None

    @staticmethod
    def of(
        length: int,
        batch: int,
        mask_id: int,
        *,
        x0: ArrayLike | None = None,
        given: ArrayLike | None = None,
        allowed: Bools | None = None,
    ) -> Canvas:
        """The canvas of (batch, length) positions, or ValueError for one that nobody can fill.

        Parameters
        ----------
        x0 : (L,) or (B, L) token ids at the positions that are given; what it has elsewhere is ignored
        given : (L,) or (B, L) bool, True where a position is known
        allowed : (L, V) or (B, L, V) bool, True for the tokens that a position may hold

        """
        check_counts(length=length, batch=batch)
        shape = (batch, length)
        if (x0 is None) != (given is None):
            raise ValueError(
                "x0 is there and given is missing; given, a bool for each position, says which of its tokens to keep"
                if given is None
                else "given is there and x0 is missing; x0 has the token ids of the positions that are given"
            )
        if x0 is None or given is None:
            start, known = np.full(shape, mask_id, np.int64), np.zeros(shape, bool)
        else:
            known, ids = _given(np.asarray(given), shape), np.asarray(x0)
            if ids.shape not in ((length,), shape) or ids.dtype.kind not in "iu":
                raise ValueError(
                    f"x0 has shape {ids.shape} and dtype {ids.dtype}; expected ({length},) or {shape} token ids"
                )
            start = np.where(known, ids, mask_id).astype(np.int64)
            wrong = np.argwhere(known & ((start < 0) | (start >= mask_id)))
            if len(wrong):
                b, i = wrong[0]
                raise ValueError(
                    f"x0 has {start[b, i]} at the given position {i} of sequence {b}; expected 0 <= id < {mask_id}"
                )
        return Canvas(start, known, mask_id, None if allowed is None else _allowed(allowed, start, known, mask_id))

    @property
    def free(self) -> Bools:
        """The positions that are to be filled, (B, L)."""
        return ~self.given

    @property
    def most(self) -> int:
        """The most positions that any sequence has to fill."""
        return int(self.free.sum(axis=1).max())

    def first(self, steps: int, t: float | None = None, state: Ints | None = None) -> Frame:
        """The frame before any step: what is given, and masks or whatever `state` has in their place."""
        nothing = np.zeros(self.given.shape, bool)
        t = float(self.free.mean()) if t is None else t
        state = self.start.copy() if state is None else state
        return Frame(0, steps, t, state, nothing, nothing, self.given.astype(np.float64), self.given)

    def frame(
        self, step: int, steps: int, t: float, state: Ints, confidence: Floats, committed: Bools,
        remasked: Bools | None = None,
    ) -> Frame:  # fmt: skip
        """A later one."""
        remasked = np.zeros_like(committed) if remasked is None else remasked
        return Frame(step, steps, t, state, committed, remasked, confidence, self.given)


def _given(given: Bools, shape: tuple[int, int]) -> Bools:
    """Which positions are known, (B, L), from one row for all or one for each."""
    if given.shape not in (shape[1:], shape) or given.dtype != bool:
        raise ValueError(
            f"given has shape {given.shape} and dtype {given.dtype}; expected ({shape[1]},) or {shape} booleans, one "
            "per position"
        )
    known = np.broadcast_to(given, shape).copy()
    full = np.flatnonzero(known.all(axis=1))
    if len(full):
        raise ValueError(f"given leaves nothing free in sequence {full[0]}; at least one position must be free")
    return known


def _allowed(allowed: Bools, start: Ints, given: Bools, mask_id: int) -> Bools:
    """The constraints of every position, (B, L, V), from the same for all sequences or one for each."""
    allowed, (batch, length) = np.asarray(allowed), start.shape
    if allowed.dtype != bool or allowed.shape not in ((length, mask_id), (batch, length, mask_id)):
        raise ValueError(
            f"allowed has shape {allowed.shape} and dtype {allowed.dtype}; expected ({length}, {mask_id}) or "
            f"({batch}, {length}, {mask_id}) booleans"
        )
    allowed = np.broadcast_to(allowed, (batch, length, mask_id))
    none = np.argwhere(~given & ~allowed.any(axis=-1))
    if len(none):
        b, i = none[0]
        raise ValueError(f"allowed leaves no token for position {i} of sequence {b}; allow at least one")
    here = np.take_along_axis(allowed, np.where(given, start, 0)[..., None], axis=-1)[..., 0]
    against = np.argwhere(given & ~here)
    if len(against):
        b, i = against[0]
        raise ValueError(
            f"allowed and given contradict each other: token {start[b, i]} is given at position {i} of sequence {b}, "
            "but is not allowed there; change one of them"
        )
    return allowed
