"""The autoregressive rival: the same transformer, left to right.

log p(x) = sum_i log p(x^i | x^{<i}), exact rather than a bound. Seen as diffusion, the corruption is deterministic: at
time t the last round(t L) tokens are gone (Austin et al. 2021, appendix A.3), and each reverse step restores one.

The network reads the special token (id V) as the start of the sequence and, at position i, the token before i.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import ops, samplers
from ..arrays import Floats, Ints
from ..tensor import Tensor, no_grad
from ..transformer import Model, Transformer


class Autoregressive:
    """Left-to-right language model over `vocab_size` tokens."""

    needs_time = False

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
        kept = length - np.round(np.asarray(t) * length)
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
        rng: np.random.Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Iterator[samplers.Frame]:
        """Generate (batch, length) ids left to right, a frame per token. A Transformer keeps its keys and values."""
        draw = samplers.Draw(temperature, top_k, top_p)
        if length < 1 or batch < 1:
            raise ValueError(f"length is {length} and batch is {batch}; both must be at least 1")
        return self._generate(model, np.full((batch, length), self.start_id, np.int64), draw, rng)

    def _generate(
        self, model: Model, state: Ints, draw: samplers.Draw, rng: np.random.Generator
    ) -> Iterator[samplers.Frame]:
        batch, length = state.shape
        cache = model.new_cache(batch) if isinstance(model, Transformer) else None
        frame = samplers.first_frame(state, self.start_id, length)
        yield frame
        confidence = frame.confidence
        before = np.full((batch, 1), self.start_id, np.int64)  # what the network reads: the sequence shifted by one
        for i in range(length):
            with no_grad():
                if isinstance(model, Transformer):
                    logits = model(before[:, i:], causal=True, cache=cache).data[:, -1]  # (B, V)
                else:
                    logits = model(before, causal=True).data[:, -1]
            tokens, sure = draw(logits, rng)
            chosen = np.zeros(state.shape, bool)
            chosen[:, i] = True
            state, confidence = np.where(chosen, tokens[:, None], state), np.where(chosen, sure[:, None], confidence)
            before = np.concatenate([before, tokens[:, None]], axis=1)
            t = 1 - (i + 1) / length
            yield samplers.Frame(i + 1, length, t, state, chosen, np.zeros_like(chosen), confidence)

    def _nll(self, model: Model, x0: Ints) -> Tensor:
        """-log p of every token given those before it, (B * L,)."""
        start = np.full((len(x0), 1), self.start_id, np.int64)
        logits = model(np.concatenate([start, x0[:, :-1]], axis=1), causal=True)  # (B, L, V)
        return ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), np.ascontiguousarray(x0).reshape(-1))
