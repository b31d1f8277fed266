"""Listing every state."""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..arrays import Bools, Floats, Ints, check_counts

MOST_STATES = 1_000_000


def all_sequences(symbols: int, length: int) -> Ints:
    """Every sequence over 0 .. symbols - 1, in counting order: (symbols^length, length)."""
    check_counts(symbols=symbols, length=length)
    count = symbols**length
    if count > MOST_STATES:
        fits = int(math.log(MOST_STATES) / math.log(symbols))
        raise ValueError(
            f"{symbols} symbols at length {length} make {count:,} states, more than the {MOST_STATES:,} that can be "
            f"enumerated; with {symbols} symbols use a length of at most {fits}"
        )
    return np.array(list(itertools.product(range(symbols), repeat=length)), np.int64).reshape(count, length)


def all_masks(length: int, given: Bools | None = None) -> Bools:
    """Every set of masks over the positions that are not `given` (L,), in counting order: (2^A, length)."""
    free = free_positions(length, given)
    masks = np.zeros((2 ** len(free), length), bool)
    masks[:, free] = all_sequences(2, len(free))
    return masks


def free_positions(length: int, given: Bools | None) -> Ints:
    """The positions that are not `given`, by default all: (A,)."""
    if given is None:
        return np.arange(length)
    if np.shape(given) != (length,) or np.asarray(given).dtype != bool or np.all(given):
        raise ValueError(
            f"given is {np.asarray(given).tolist()}; expected {length} booleans, one per position, at least one of "
            "them False"
        )
    return np.flatnonzero(~np.asarray(given))


def state_index(states: Ints, symbols: int) -> Ints:
    """The place of each row of `states` in `all_sequences`: (n, L) -> (n,)."""
    return np.asarray(states @ symbols ** np.arange(states.shape[1])[::-1])


def product_law(each: Floats) -> Floats:
    """Law of sequences whose positions are independent: (n, L, S) -> (n, S^L)."""
    joint = np.ones((len(each), 1))
    for i in range(each.shape[1]):
        joint = (joint[:, :, None] * each[:, None, i]).reshape(len(each), -1)
    return joint
