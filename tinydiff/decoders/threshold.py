"""Decoders for which the text decides how many tokens a step commits, and the first of them: whatever is likely enough.

The others, which promise something, are in `certified`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..transformer import Model
from .canvas import Canvas
from .decoder import Masks
from .draws import Draw
from .frames import Frame
from .orders import ask
from .quotas import blocks_of, check_block_length, highest, masks_in_blocks


class TextDecides:
    """Base: look, draw everywhere, commit what `picked` picks, until nothing is masked."""

    draw: Draw
    block_length: int | None

    def picked(self, hidden: Bools, sure: Floats, p: Floats) -> Bools:
        """Which of the `hidden` (B, L) to commit, at least one of each row that has any.

        By the probability of what was drawn, `sure` (B, L), and the laws at the n hidden ones, p (n, V).
        """
        raise NotImplementedError

    def __call__(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per step; `steps` of a frame is how many there may be at most."""
        return self._frames(process, model, canvas, blocks_of(canvas, self.block_length), rng)

    def _frames(
        self, process: Masks, model: Model, canvas: Canvas, blocks: Ints, rng: np.random.Generator
    ) -> Iterator[Frame]:
        in_blocks = masks_in_blocks(canvas.free, blocks)
        frame = canvas.first(int(in_blocks.sum()))
        yield frame
        state, confidence, step, left = canvas.start, frame.confidence, 0, canvas.free
        for block in range(len(in_blocks)):
            inside, later = blocks == block, int(in_blocks[block + 1 :].sum())
            hidden = left & inside
            while hidden.any():
                t = process.schedule.inverse(1 - left.mean(axis=1))
                tokens, sure, p = ask(model, state, hidden, t, self.draw, rng)
                chosen = self.picked(hidden, sure, p)
                step += 1
                state, confidence = np.where(chosen, tokens, state), np.where(chosen, sure, confidence)
                left = state == canvas.mask_id
                hidden = left & inside
                until = step + int(hidden.sum(axis=1).max()) + later
                yield canvas.frame(step, until, float(left.mean()), state, confidence, chosen)


@dataclass(frozen=True)
class Threshold(TextDecides):
    """Commit every drawn token that is likelier than the threshold, at least the likeliest (Fast-dLLM, Wu et al. 2025).

    Attributes
    ----------
    threshold : probability
    draw : which token, see `Draw`
    block_length : fill blocks of this length, counted from the end of the prompt, left to right; None for the whole
        text at once

    """

    threshold: float = 0.9
    draw: Draw = Draw()
    block_length: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}; expected 0 < threshold < 1")
        check_block_length(self.block_length)

    def picked(self, hidden: Bools, sure: Floats, p: Floats) -> Bools:
        """Those above the threshold."""
        quota = np.maximum((sure > self.threshold).sum(axis=1), hidden.any(axis=1))
        return highest(np.where(hidden, sure, -np.inf), quota)
