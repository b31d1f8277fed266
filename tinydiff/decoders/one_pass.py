"""The whole text in one look: non-autoregressive translation (Gu et al. 2017).

    p(y | x) = prod_i p(y^i | x)

The fastest decoder there is, and the one that cannot agree with itself: words of different translations meet. Any model
of masks can be asked so, and one that is trained for it and nothing else is `processes.OnePass`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..transformer import Model
from .canvas import Canvas
from .decoder import Masks
from .draws import Draw, reveal
from .frames import Frame


@dataclass(frozen=True)
class AtOnce:
    """All free positions from one look.

    Attributes
    ----------
    draw : which word, by default the likeliest

    """

    draw: Draw = Draw(temperature=0.0)

    def __call__(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """The empty canvas, and the full one."""
        yield (frame := canvas.first(1))
        t = process.schedule.inverse(1 - canvas.free.mean(axis=1))
        tokens, sure = reveal(model, canvas.start, canvas.free, t, self.draw, rng)
        state = np.where(canvas.free, tokens, canvas.start)
        yield canvas.frame(1, 1, 0.0, state, np.where(canvas.free, sure, frame.confidence), canvas.free)
