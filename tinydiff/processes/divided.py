"""A loss in two halves: all that is left to chance, for the whole batch, and then what the network makes of it.

    loss(batch) = loss_of(model, draws) = 1/B sum_b l(model, draws_b),    draws = draw(batch)

What is drawn may tie the sequences of a batch together: times are spread over it, noise is paired with data across it.
The second half does not: its mean over some of the rows is that part of the whole, so that a batch can be shared out
(`tinydiff.learning.shards`) and only the rounding changes.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from ..tensor import Tensor
from ..transformer import Model

Draws: TypeAlias = tuple[Any, ...]
"""Arrays with a row for each sequence, or None: what `loss_of` of the same process reads."""


class Divided:
    """Base of processes whose loss comes in these two halves."""

    def draw(self, batch: Any, rng: np.random.Generator) -> Draws:
        """Corrupt a batch: labels, clean data, and all that was drawn, a row for each sequence."""
        raise NotImplementedError

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """The loss of what was drawn, a scalar: a mean over sequences."""
        raise NotImplementedError

    def loss(self, model: Model, batch: Any, rng: np.random.Generator) -> Tensor:
        """Training loss of a batch: `loss_of` of a `draw`."""
        return self.loss_of(model, self.draw(batch, rng))


def rows(draws: Draws, part: slice) -> Draws:
    """The draws of some of the sequences."""
    return tuple(None if each is None else each[part] for each in draws)


def is_divided(process: Any) -> bool:
    """Whether its loss is that of its halves: a subclass may have written a loss of its own."""
    for kind in type(process).__mro__:
        own = {"draw", "loss_of", "loss"} & vars(kind).keys()
        if own:
            return own != {"loss"}
    return False
