"""How many positions each step commits, and in which part of the text."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from .. import kernels
from ..arrays import Bools, Floats, Ints, check_counts
from .canvas import Canvas

Commits = Literal["linear", "cosine"]


def check_commits(commits: str) -> None:
    """ValueError for a name that is not one of `Commits`."""
    if commits not in get_args(Commits):
        raise ValueError(f"commits is {commits!r}; expected one of {', '.join(get_args(Commits))}")


def check_block_length(block_length: int | None) -> None:
    """ValueError for blocks that hold nothing."""
    if block_length is not None:
        check_counts(block_length=block_length)


def filled(total: Ints, step: int, steps: int, commits: Commits) -> Ints:
    """How many of its `total` (B,) masks each sequence has filled after `step` of `steps` steps: (B,).

    The share left after a fraction r of the steps is 1 - r for "linear", an even number per step, and cos(pi r / 2) for
    "cosine", few at first and more as there is more to go by (MaskGIT, section 3.3). As long as there are enough masks,
    every step fills at least one.
    """
    even = total * step // steps
    if commits == "linear" or step == steps:
        return even
    # cos(pi/3) = 1/2 is the only rational share on the way (Niven's theorem), so the only one whose product with a
    # whole number can be whole, where the last bit would decide.
    share = 0.5 if 3 * step == 2 * steps else 1 - np.cos(np.pi / 2 * step / steps)
    return np.asarray(np.where(total < steps, even, np.maximum(np.floor(total * share).astype(np.int64), step)))


def blocks_of(canvas: Canvas, block_length: int | None) -> Ints:
    """The block that each position belongs to, (B, L), -1 for the prompt.

    Blocks are counted from the end of each sequence's prompt, the positions that are given before the first free one
    (LLaDA, Nie et al. 2025, section 2.4; Fast-dLLM, Wu et al. 2025). None for one block.
    """
    length = canvas.start.shape[1]
    block_length = length if block_length is None else block_length
    if block_length > length:
        raise ValueError(f"block_length is {block_length}; expected 1 <= block_length <= {length}")
    prompt = canvas.free.argmax(axis=1)  # where the first free position is
    return np.asarray(np.maximum((np.arange(length) - prompt[:, None]) // block_length, -1))


def masks_in_blocks(masked: Bools, blocks: Ints) -> Ints:
    """The most masks that any sequence has in each block: (B, L), (B, L) to (blocks,)."""
    every = np.arange(int(blocks.max()) + 1)
    return np.asarray([(masked & (blocks == block)).sum(axis=1).max() for block in every])


def shares(in_blocks: Ints, steps: int) -> Ints:
    """How many of the steps each block gets: one if it holds masks, and the rest in proportion to its other masks."""
    more = np.maximum(in_blocks - 1, 0).cumsum()
    rest = (steps - int((in_blocks > 0).sum())) * more // max(int(more[-1]), 1)
    return np.asarray((in_blocks > 0) + np.diff(rest, prepend=0))


def highest(rank: Floats, quota: Ints) -> Bools:
    """Mark the quota[b] highest of the ranks (B, L) of row b, ties to the left."""
    most = int(quota.max(initial=0))
    _, at = kernels.topk(rank, most)  # (B, most), highest first
    chosen = np.zeros(rank.shape, bool)
    np.put_along_axis(chosen, at, np.arange(most) < quota[:, None], axis=1)
    return chosen
