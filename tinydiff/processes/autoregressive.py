"""The autoregressive rival: the same transformer, left to right.

log p(x) = sum_i log p(x^i | x^{<i}), exact rather than a bound. Seen as diffusion, the corruption is deterministic: at
time t the last round(t L) tokens are gone (Austin et al. 2021, appendix A.3), and each reverse step restores one.

The network reads the special token (id V) as the start of the sequence and, at position i, the token before i.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import decoders, ops
from ..arrays import Bools, Floats, Ints
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
        given: Ints | None = None,
        allowed: Bools | None = None,
        cache: bool = True,
    ) -> Iterator[decoders.Frame]:
        """Generate (batch, length) ids left to right, a frame per token.

        Parameters
        ----------
        temperature, top_k, top_p : see `decoders.Draw`
        given : (batch, length) or (length,) ids: a prompt, and from there on the special token; the prompts of a batch
            may differ in length
        allowed : (length, V) or (batch, length, V), True for the tokens that a position may hold
        cache : whether a Transformer keeps its keys and values; without, it reads the whole text again for every token

        """
        draw = decoders.Draw(temperature, top_k, top_p)
        if length < 1 or batch < 1:
            raise ValueError(f"length is {length} and batch is {batch}; both must be at least 1")
        start = np.full((batch, length), self.start_id, np.int64)
        if given is not None:
            start = self._prompt(np.asarray(given), start.shape)
        allowed = decoders.check_allowed(allowed, start, self.start_id)
        return self._generate(model, start, draw, rng, allowed, cache)

    def _prompt(self, given: Ints, shape: tuple[int, ...]) -> Ints:
        """A prompt of the shape that is asked for, or ValueError."""
        if given.shape not in (shape[1:], shape):
            raise ValueError(f"given has shape {given.shape}; expected {shape[1:]} or {shape}")
        if not (given.min() >= 0 and given.max() <= self.start_id):
            raise ValueError(f"given contains ids outside 0..{self.start_id} ({self.start_id} is the special token)")
        start = np.broadcast_to(given, shape).astype(np.int64)
        blank = start == self.start_id
        broken = np.argwhere(blank[:, :-1] & ~blank[:, 1:])
        if len(broken):
            raise ValueError(
                f"given has the special token {self.start_id} at position {broken[0, 1]}, inside the prompt; this "
                "model goes left to right and cannot see what follows a blank: fill it in, or use a masked model"
            )
        return start

    def _generate(
        self,
        model: Model,
        start: Ints,
        draw: decoders.Draw,
        rng: np.random.Generator,
        allowed: Bools | None,
        cache: bool,
    ) -> Iterator[decoders.Frame]:
        batch, length = start.shape
        blank = start == self.start_id
        first = length - int(blank.sum(axis=1).max())  # up to here every prompt reaches
        steps = length - first
        frame = decoders.first_frame(start, self.start_id, steps)
        yield frame
        state, confidence = start, frame.confidence
        before = np.full((batch, length + 1), self.start_id, np.int64)  # what the network reads: shifted by one
        before[:, 1:] = start
        kept = model.new_cache(batch) if cache and isinstance(model, Transformer) else None
        read = 0  # positions whose keys and values are kept
        for i in range(first, length):
            with no_grad():
                if kept is not None and isinstance(model, Transformer):
                    last = np.arange(i + 1 - read) == i - read  # only the last position needs an answer
                    logits = model(
                        before[:, read : i + 1], causal=True, cache=kept, select=np.tile(last, (batch, 1))
                    ).data  # (B, V)
                    read = i + 1
                else:
                    last = np.arange(i + 1) == i
                    logits = model(before[:, : i + 1], causal=True, select=np.tile(last, (batch, 1))).data
            if allowed is not None:
                logits = np.where(allowed[:, i], logits, -np.inf)
            tokens, sure = draw(logits, rng)
            chosen = np.zeros(start.shape, bool)
            chosen[:, i] = blank[:, i]  # a longer prompt goes on
            state, confidence = np.where(chosen, tokens[:, None], state), np.where(chosen, sure[:, None], confidence)
            before[:, i + 1] = state[:, i]
            masked = state == self.start_id
            yield decoders.Frame(
                i + 1 - first, steps, float(masked.mean()), state, chosen, np.zeros_like(chosen), confidence
            )

    def _nll(self, model: Model, x0: Ints) -> Tensor:
        """-log p of every token given those before it, (B * L,)."""
        start = np.full((len(x0), 1), self.start_id, np.int64)
        logits = model(np.concatenate([start, x0[:, :-1]], axis=1), causal=True)  # (B, L, V)
        return ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), np.ascontiguousarray(x0).reshape(-1))
