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
from ..arrays import Bools, Floats, Ints
from ..tensor import Tensor, no_grad
from ..transformer import Model


class Autoregressive:
    """Left-to-right language model over `vocab_size` tokens."""

    needs_time = False
    decoded_by: tuple[type[decoders.Decoder], ...] = (decoders.NextToken,)

    def __init__(self, vocab_size: int) -> None:
        if vocab_size < 1:
            raise ValueError(f"vocab_size is {vocab_size}; it must be at least 1")
        self.vocab_size = vocab_size
        self.start_id = vocab_size

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {"process": "autoregressive", "vocab_size": self.vocab_size}

    def corrupt(self, x0: Ints, t: Floats, rng: np.random.Generator) -> Ints:
        """Replace the last round(t L) tokens by the special one: (B, L) ids and (B,) times to (B, L) ids."""
        length = x0.shape[1]
        kept = length - np.floor(np.asarray(t) * length + 0.5)  # halves up, for every length
        return np.where(np.arange(length) < kept[:, None], x0, self.start_id)

    def loss(self, model: Model, x0: Ints, rng: np.random.Generator) -> Tensor:
        """Cross-entropy of every token given those before it: a scalar in nats per token."""
        return self._nll(model, x0).mean()

    def bound(self, model: Model, x0: Ints, rng: np.random.Generator) -> Floats:
        """Exact -log p(x0): (B, L) ids to (B,) nats per sequence."""
        with no_grad():
            return np.asarray(self._nll(model, x0).data.astype(np.float64).reshape(x0.shape).sum(axis=1))

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
        decoder : a `decoders.NextToken`
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
