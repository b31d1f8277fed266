"""The decoder of masked models: every step draws tokens, commits the best of them, and masks the rest again.

Committing k positions at once treats them as independent given what is visible. That is the price of fewer steps: the
text is no longer drawn from the law of the process, but a good order loses little (`tinydiff.exact.unmask_law`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..schedules import Schedule
from ..transformer import Model
from .draws import Draw, check_allowed, logits_at, reveal, untempered
from .frames import Frame, first_frame
from .orders import ORDERS, Choice, filled, highest

CHOICE_TEMPERATURE = 8.0
"""What `tinydiff sample` and the demo use: enough for models trained for minutes, see `Choice`."""


def unmask(
    model: Model,
    start: Ints,
    mask_id: int,
    schedule: Schedule,
    *,
    steps: int | None = None,
    rng: np.random.Generator,
    draw: Draw = Draw(),
    choice: Choice = Choice(),
    allowed: Bools | None = None,
) -> Iterator[Frame]:
    """Fill (B, L) ids where they hold `mask_id`, a frame per step; the other positions stay.

    Sequences with different numbers of masks each spread their own over the steps.

    Parameters
    ----------
    steps : default one per masked position
    draw, choice : how to draw tokens and how to choose among them
    allowed : (L, V) or (B, L, V), the tokens that each position may hold; confidence is measured among those

    """
    length = start.shape[1]
    if choice.block_length is not None and choice.block_length > length:
        raise ValueError(f"block_length is {choice.block_length}; expected 1 <= block_length <= {length}")
    in_blocks = masks_in_blocks(start == mask_id, choice.block_length)
    most, blocks = max(int(in_blocks.sum()), 1), int((in_blocks > 0).sum())
    if choice.threshold is not None and steps is not None:
        raise ValueError(
            f"steps is {steps} and threshold is {choice.threshold}, which decides how many there are; leave one out"
        )
    steps = most if steps is None else steps
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1")
    if steps > most:
        raise ValueError(f"steps is {steps}, but only {most} positions are masked; use at most {most}")
    if choice.threshold is None and steps < blocks:
        raise ValueError(f"steps is {steps}; {blocks} blocks of {choice.block_length} need at least one step each")
    return _unmask(model, start, mask_id, schedule, steps, rng, draw, choice, check_allowed(allowed, start, mask_id))


def _unmask(
    model: Model,
    start: Ints,
    mask_id: int,
    schedule: Schedule,
    steps: int,
    rng: np.random.Generator,
    draw: Draw,
    choice: Choice,
    allowed: Bools | None,
) -> Iterator[Frame]:
    length, threshold = start.shape[1], choice.threshold
    block_length = choice.block_length or length
    frame = first_frame(start, mask_id, steps)
    yield frame
    state, confidence, step = start.copy(), frame.confidence.copy(), 0
    in_blocks = masks_in_blocks(start == mask_id, choice.block_length)
    for block, block_steps in zip(range(0, length, block_length), shares(in_blocks, steps), strict=True):
        inside = (np.arange(length) >= block) & (np.arange(length) < block + block_length)
        total = ((state == mask_id) & inside).sum(axis=1)  # (B,)
        for i in range(block_steps if threshold is None else int(total.max())):
            masked = state == mask_id
            hidden = masked & inside
            t = schedule.inverse(1 - masked.mean(axis=1))
            if threshold is None:
                done, more = (filled(total, j, block_steps, choice.commits) for j in (i, i + 1))
                quota = more - done  # (B,)
            elif hidden.any():
                quota = hidden.any(axis=1).astype(np.int64)  # at least
            else:
                break
            if choice.remasking == "random" and threshold is None:  # chosen before the model is asked: less to ask
                chosen = highest(np.where(hidden, rng.random(state.shape), -np.inf), quota)
                tokens, sure = reveal(model, state, chosen, t, draw, rng, allowed)
            else:
                tokens, sure, rank = _ranked(model, state, hidden, t, draw, rng, choice.remasking, allowed)
                if choice.choice_temperature > 0:
                    left = hidden.sum(axis=1, keepdims=True) / np.maximum(total[:, None], 1)  # (B, 1)
                    rank += choice.choice_temperature * left * rng.gumbel(size=rank.shape)
                if threshold is not None:
                    certain = sure > threshold  # 0 where nothing was drawn
                    rank[certain], quota = np.inf, np.maximum(certain.sum(axis=1), quota)
                chosen = highest(rank, quota)
            step += 1
            state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
            left_over = state == mask_id
            until = steps if threshold is None else step + int(masks_in_blocks(left_over, choice.block_length).sum())
            yield Frame(step, until, float(left_over.mean()), state, chosen, np.zeros_like(chosen), confidence)


def masks_in_blocks(masked: Bools, block_length: int | None) -> Ints:
    """The most masks that any sequence (B, L) has in each block: (blocks,)."""
    starts = np.arange(0, masked.shape[1], block_length or masked.shape[1])
    return np.asarray(np.add.reduceat(masked, starts, axis=1, dtype=np.int64).max(axis=0, initial=0))


def shares(in_blocks: Ints, steps: int) -> Ints:
    """How many of the steps each block gets: one if it holds masks, and the rest in proportion to its other masks."""
    more = np.maximum(in_blocks - 1, 0).cumsum()
    rest = (steps - int((in_blocks > 0).sum())) * more // max(int(more[-1]), 1)
    return np.asarray((in_blocks > 0) + np.diff(rest, prepend=0))


def _ranked(
    model: Model,
    state: Ints,
    hidden: Bools,
    t: Floats,
    draw: Draw,
    rng: np.random.Generator,
    remasking: str,
    allowed: Bools | None,
) -> tuple[Ints, Floats, Floats]:
    """Draw at all `hidden` positions: tokens, their confidence and the rank of the positions, (B, L) each."""
    tokens, sure, rank = np.zeros_like(state), np.zeros(state.shape), np.full(state.shape, -np.inf)
    if hidden.any():
        logits = logits_at(model, state, hidden, t, allowed)
        p = untempered(logits)  # (n, V)
        drawn = draw.tokens(logits, p, rng)
        tokens[hidden], sure[hidden] = drawn, p[np.arange(len(p)), drawn]
        rank[hidden] = rng.random(len(p)) if remasking == "random" else ORDERS[remasking](p, drawn)
    return tokens, sure, rank
