"""Second thoughts about a finished text: mask a random part of it, fill that in again, and over again (block Gibbs).

A round hides a set S of positions, chosen without looking at the text, and draws x_S anew given the rest:

    q(y | x) = sum_S q(S) p(y_S | x_{-S}) [y_{-S} = x_{-S}]     so that     sum_x p(x) q(y | x) = p(y)

The true law stays as it is, whatever the sets, if x_S is drawn from the true conditionals: one position after the other
in any order, by the chain rule. That is block Gibbs sampling (Geman and Geman 1984), and a corrector in the sense of
Campbell et al. (2022): back to the noise at which a share of the text is masked, and forward again.

A network is no true law, and worst where it sees least: what it decided among nothing but masks is where it errs. A
round asks it again where it sees most of a text, and the rounds move towards the law of those better answers. Unlike
`RemaskCap` and its like, which do this on the way, every position is filled as the decoder inside would fill it, one at
a time if it likes, so that nothing is committed in haste at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..transformer import Model
from .blocks import BlockByBlock, within
from .canvas import Canvas
from .decoder import Masks
from .frames import Frame
from .orders import Random
from .quotas import highest
from .speculate import Speculate


@dataclass(frozen=True)
class Gibbs:
    """Fill a text, and then, `rounds` times, a random part of it again.

    Attributes
    ----------
    inside : how masks are filled: any decoder of masked diffusion. The `steps` of an order are those of the first time,
        and of each round, or as many as it has masks if those are fewer
    rounds : how many times, 0 for none
    share : of the free positions, how many a round hides, at least one; 0 to 1

    """

    inside: Any = field(default_factory=Random)
    rounds: int = 4
    share: float = 1 / 3

    def __post_init__(self) -> None:
        if self.rounds < 0:
            raise ValueError(f"rounds is {self.rounds}; it must be 0 (the first draft stays) or more")
        if not 0 < self.share <= 1:
            raise ValueError(f"share is {self.share}; expected 0 < share <= 1")
        if isinstance(self.inside, (BlockByBlock, Gibbs, Speculate)):
            raise ValueError(f"inside is {self.inside!r}; expected a decoder that fills one canvas, once")

    def __call__(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per step, and one for each time that a part is hidden; the model is not asked in those."""
        return self._frames(process, model, canvas, self.inside(process, model, canvas, rng), rng)

    def _frames(
        self, process: Masks, model: Model, canvas: Canvas, draft: Iterator[Frame], rng: np.random.Generator
    ) -> Iterator[Frame]:
        free = canvas.free.sum(axis=1)
        hide = np.maximum(np.round(self.share * free).astype(np.int64), 1)  # (B,)
        each = min(getattr(self.inside, "steps", None) or canvas.most, int(hide.max()))  # steps of a round
        state, confidence, hidden, step = canvas.start, canvas.given.astype(np.float64), canvas.free, 0
        for number in range(self.rounds + 1):
            if number:
                hidden = highest(np.where(canvas.free, rng.random(state.shape), -np.inf), hide)
                state, confidence = np.where(hidden, canvas.mask_id, state), np.where(hidden, 0, confidence)
                part = Canvas(state, ~hidden, canvas.mask_id, canvas.allowed)
                draft = within(self.inside, part)(process, model, part, rng)
            for inner in draft:
                # To a round what it does not hide is given, and certain.
                state, confidence = inner.state, np.where(hidden, inner.confidence, confidence)
                again = hidden if number and inner.step == 0 else inner.remasked
                left = inner.steps - inner.step + (self.rounds - number) * (1 + each)
                yield canvas.frame(step, step + left, inner.t, state, confidence, inner.committed, again)
                step += 1
