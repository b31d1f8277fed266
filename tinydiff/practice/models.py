"""Networks that are small enough to know everything about: a table of logits for every state.

There are (V + 1)^L states of L positions with V tokens and MASK; the table has a row of (L, V) logits for each, drawn
at random. So the conditionals of one state have nothing to do with those of another, as in a network that has learnt
nothing: what is right for it is right for all.
"""

from __future__ import annotations

import numpy as np

from .. import kernels, ops
from ..arrays import Bools, Floats, Ints
from ..tensor import Tensor


class Table:
    """A `Model` of masked diffusion, in float64.

    Parameters
    ----------
    strength : standard deviation of the logits
    tilt : is added to the logits of token 0 for every mask in a state: how sure the model is depends on their number

    Attributes
    ----------
    params : its only parameter, "table"

    """

    def __init__(
        self, vocab_size: int, length: int, rng: np.random.Generator, strength: float = 1.5, tilt: float = 0.0
    ) -> None:
        self.vocab_size, self.length = vocab_size, length
        states = (vocab_size + 1) ** length
        logits = strength * rng.standard_normal((states, length, vocab_size))
        place = np.arange(states)[:, None] // (vocab_size + 1) ** np.arange(length)[::-1] % (vocab_size + 1)
        logits[..., 0] += tilt * (place == vocab_size).sum(axis=1)[:, None]
        self.params = {"table": Tensor(logits.reshape(states, -1), requires_grad=True)}

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        """Tokens (B, L) to logits (B, L, V), or (n, V) for the positions of `select`."""
        logits = ops.embedding(self.params["table"], self.states(x)).reshape(len(x), self.length, self.vocab_size)
        return logits if select is None else ops.take_rows(logits, select)

    def states(self, x: Ints) -> Ints:
        """The row of the table for each of the texts (B, L)."""
        x = np.asarray(x, np.int64)
        if x.ndim != 2 or x.shape[1] != self.length:
            raise ValueError(f"x has shape {x.shape}; the model reads (B, {self.length}) token ids")
        if x.size and not (x.min() >= 0 and x.max() <= self.vocab_size):
            raise ValueError(f"x contains {x.max()}; the model reads 0 <= id <= {self.vocab_size}, the last being MASK")
        return np.asarray(x @ (self.vocab_size + 1) ** np.arange(self.length)[::-1])


class Asked:
    """A model as a plain function from (B, L) ids to (B, L, V) probabilities, which counts the rows it is asked for.

    Parameters
    ----------
    log : whether to answer with log probabilities

    """

    def __init__(self, model: Table, log: bool = False) -> None:
        self.model, self.rows = model, 0
        logits = model.params["table"].data.reshape(-1, model.length, model.vocab_size)
        self._answers = kernels.log_softmax(logits) if log else kernels.softmax(logits)

    def __call__(self, x: Ints) -> Floats:
        """The answer for a batch, or for one sequence (L,)."""
        x = np.asarray(x)
        batch = x[None] if x.ndim == 1 else x
        self.rows += len(batch)
        answer = self._answers[self.model.states(batch)]
        return answer[0] if x.ndim == 1 else answer


class Reduced:
    """The model on what is free, the rest being given: a `Model` of shorter sequences.

    Parameters
    ----------
    x : (L,) ids, MASK where free

    """

    def __init__(self, model: Table, x: Ints) -> None:
        self.model, self.x, self.vocab_size = model, x, model.vocab_size
        self.free = np.flatnonzero(x == model.vocab_size)

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        """Tokens (B, A) of the free positions to logits (B, A, V)."""
        whole = np.tile(self.x, (len(x), 1))
        whole[:, self.free] = x
        logits = self.model(whole)[:, self.free]
        return logits if select is None else ops.take_rows(logits, select)
