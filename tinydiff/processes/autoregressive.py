"""The autoregressive rival: the same transformer, left to right.

log p(x) = sum_i log p(x^i | x^{<i}), exact rather than a bound. Seen as diffusion, the corruption is deterministic: at
time t the last round(t L) tokens are gone (Austin et al. 2021, appendix A.3), and each reverse step restores one.

The network reads the special token (id V) as the start of the sequence and, at position i, the token before i.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .. import decoders, ops
from ..arrays import Bools, Floats, Ints, check_counts
from ..data import Batch
from ..tensor import Tensor, no_grad
from ..transformer import Model
from .discrete import share
from .divided import Divided, Draws


class Autoregressive(Divided):
    """Left-to-right language model over `vocab_size` tokens."""

    needs_time = False
    decoded_by: tuple[type[decoders.Decoder], ...] = (decoders.NextToken, decoders.Beam)

    def __init__(self, vocab_size: int) -> None:
        check_counts(vocab_size=vocab_size)
        self.vocab_size = vocab_size
        self.start_id = vocab_size

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {"process": "autoregressive", "vocab_size": self.vocab_size}

    def corrupt(self, x0: Ints, t: Floats, rng: np.random.Generator, given: Bools | None = None) -> Ints:
        """Replace the last round(t A) of the A free tokens by the special one: (B, L) ids and (B,) times to (B, L)."""
        length = x0.shape[1]
        kept = length - np.floor(np.asarray(t) * _prefix_left(given, x0).sum(axis=1) + 0.5)  # halves up
        return np.where(np.arange(length) < kept[:, None], x0, self.start_id)

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """Labels, ids, and which are free, that is not given, as a prefix of each sequence must be. No chance in it."""
        batch = Batch.of(batch)
        x0 = np.asarray(batch.x0)
        return batch.label, x0, _prefix_left(batch.given, x0)

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """Cross-entropy of every free token given those before it: a scalar in nats per free token.

        Each sequence has the mean of its own free tokens.
        """
        label, x0, free = draws
        nll = self._nll(decoders.conditioned(model, label), x0)  # (B * L,)
        return nll.mean() if free.all() else (nll * (free * share(free)[:, None]).ravel()).mean()

    def bound(self, model: Model, batch: Batch | Ints, rng: np.random.Generator) -> Floats:
        """Exact -log p(free | given), where what is given is a prefix of each sequence: (B,) nats per sequence."""
        model, x0, free = self.unpacked(model, batch)
        with no_grad():
            nll = self._nll(model, x0).data.astype(np.float64).reshape(x0.shape)
        return np.asarray(np.where(free, nll, 0).sum(axis=1))

    def unpacked(self, model: Model, batch: Batch | Ints) -> tuple[Model, Ints, Bools]:
        """The model, told the labels of the batch; its ids; and which of them are free, that is not given: (B, L)."""
        batch = Batch.of(batch)
        x0 = np.asarray(batch.x0)
        return decoders.conditioned(model, batch.label), x0, _prefix_left(batch.given, x0)

    def sample(
        self,
        model: Model,
        length: int,
        batch: int = 1,
        *,
        decoder: decoders.Decoder | None = None,
        x0: ArrayLike | None = None,
        given: ArrayLike | None = None,
        allowed: Bools | None = None,
        rng: np.random.Generator,
    ) -> Iterator[decoders.Frame]:
        """Generate (batch, length) ids left to right, a frame per token.

        Parameters
        ----------
        decoder : a `decoders.NextToken`, or a `decoders.Beam`
        x0, given : (L,) or (B, L) token ids, and where they are known beforehand: a prompt, whose length may differ
            from row to row
        allowed : (L, V) or (B, L, V), True for the tokens that a position may hold

        """
        chosen = decoders.suited(decoder, self.decoded_by, type(self).__name__)
        canvas = decoders.Canvas.of(length, batch, self.start_id, x0=x0, given=given, allowed=allowed)
        return chosen(self, model, canvas, rng)

    def _nll(self, model: Model, x0: Ints) -> Tensor:
        """-log p of every token given those before it, (B * L,)."""
        start = np.full((len(x0), 1), self.start_id, np.int64)
        logits = model(np.concatenate([start, x0[:, :-1]], axis=1), causal=True)  # (B, L, V)
        return ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), np.ascontiguousarray(x0).reshape(-1))


def _prefix_left(given: Bools | None, x0: Ints) -> Bools:
    """Which positions a prompt leaves free, (B, L), or ValueError if what is given is no prefix."""
    free = np.ones(x0.shape, bool) if given is None else ~np.asarray(given)
    broken = np.argwhere(free[:, :-1] & ~free[:, 1:])
    if len(broken):
        row, i = broken[0]
        raise ValueError(
            f"given is True at position {i + 1} of sequence {row}, behind position {i}, which is free; an "
            "autoregressive model scores what follows a prefix: give a prefix, or use a masked model"
        )
    return free
