"""A token from logits: temperature, top-k, nucleus, and which tokens a position may hold.

Draws use float64, one uniform number per token against the cumulative law: float32 Gumbel noise cannot exceed 16.6 and
silently sharpens the distribution (Zheng et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..arrays import Bools, Floats, Ints, check_counts, one_hot
from ..tensor import Tensor, no_grad
from ..transformer import Model


@dataclass(frozen=True)
class Draw:
    """How to draw a token from logits.

    Attributes
    ----------
    temperature : divides the logits; 0 takes the most probable token
    top_k : only the k most probable tokens, ties to the lower id
    top_p : only the fewest most probable tokens that together reach probability p (nucleus, Holtzman et al. 2020)

    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_k is not None:
            check_counts(top_k=self.top_k)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; expected 0 < top_p <= 1")

    def __call__(self, logits: Floats, rng: np.random.Generator) -> tuple[Ints, Floats]:
        """A token per row of (n, V) logits.

        Returns
        -------
        tokens : (n,)
        confidence : (n,) probability of each token before temperature, top_k and top_p

        """
        p = untempered(logits)
        tokens = self.tokens(logits, p, rng)
        return tokens, p[np.arange(len(tokens)), tokens]

    def tokens(self, logits: Floats, p: Floats, rng: np.random.Generator) -> Ints:
        """A token per row of (n, V) logits whose `untempered` probabilities are known: (n,)."""
        if self.temperature == 0:
            return np.asarray(logits.argmax(axis=-1))
        as_it_is = self.temperature == 1 and self.top_k is None and self.top_p is None
        return categorical(p if as_it_is else kernels.softmax(self._tempered(logits)), rng)

    def probabilities(self, logits: Floats) -> Floats:
        """The law that tokens are drawn from, for each row of (n, V) logits."""
        p = untempered(logits)
        if self.temperature == 0:
            return one_hot(logits.argmax(axis=-1), p.shape[-1])
        return kernels.softmax(self._tempered(logits))

    def _tempered(self, logits: Floats) -> Floats:
        """Logits after temperature, top_k and top_p, float64."""
        kept = logits.astype(np.float64)
        if self.temperature != 1:
            kept = (kept - kept.max(axis=-1, keepdims=True)) / self.temperature  # the largest stays finite
        if self.top_k is not None or self.top_p is not None:
            kept = np.where(self._shortlist(kept), kept, -np.inf)
        return kept

    def _shortlist(self, logits: Floats) -> Bools:
        """Which tokens of each row survive top_k, then top_p."""
        k = logits.shape[-1] if self.top_k is None else min(self.top_k, logits.shape[-1])
        values, tokens = kernels.topk(logits, k)  # most probable first
        keep = np.ones(values.shape, bool)
        if self.top_p is not None:
            p = kernels.softmax(values)
            # The token that crosses p is kept, so at least one always is; and at 1 all, whatever is lost in rounding.
            keep = (p.cumsum(axis=-1) - p < self.top_p) | (self.top_p == 1)
        allowed = np.zeros(logits.shape, bool)
        np.put_along_axis(allowed, tokens, keep, axis=-1)
        return allowed


def untempered(logits: Floats) -> Floats:
    """What the model says: (n, V) logits to probabilities in float64, by which confidence is measured."""
    if not np.isfinite(logits.max(initial=-np.inf, axis=-1)).all():
        raise ValueError("logits contain NaN or inf: the model's weights are broken or training diverged")
    return kernels.softmax(logits.astype(np.float64))


def categorical(p: Floats, rng: np.random.Generator) -> Ints:
    """Draw from laws (..., S), which need not be normalised: (...). States of probability zero are never drawn."""
    cumulative = np.cumsum(p, axis=-1, dtype=np.float64)
    total = cumulative[..., -1:]
    if not (np.isfinite(total) & (total > 0)).all():
        raise ValueError("probabilities contain NaN, inf or a row of zeros: the model's weights are broken")
    u = rng.random((*p.shape[:-1], 1))
    return np.asarray((cumulative / total <= u).sum(axis=-1))


def constrained(model: Model, allowed: Bools | None) -> Model:
    """The model that gives probability zero to whatever is not allowed: (B, L, V), True for what a position may hold.

    It is conditioned, not corrected: allowed tokens keep their ratio, and confidence is measured among them.
    """
    if allowed is None:
        return model

    def told(x: Any, t: Floats | None = None, *, select: Bools | None = None, **options: Any) -> Tensor:
        logits = model(x, t, select=select, **options).data
        return Tensor(np.where(allowed if select is None else allowed[select], logits, -np.inf))

    told.unconstrained = model  # type: ignore[attr-defined]
    return told


def unconstrained(model: Model) -> Model:
    """The model itself, for decoders that ask it in other batches than the canvas and constrain what it says."""
    free: Model = getattr(model, "unconstrained", model)
    return free


def logits_at(model: Model, state: Ints, where: Bools, t: Floats) -> Floats:
    """The model's answer at the n positions `where`, in order: (n, V)."""
    with no_grad():
        return model(state, t, select=where).data


def reveal(
    model: Model, state: Ints, where: Bools, t: Floats, draw: Draw, rng: np.random.Generator
) -> tuple[Ints, Floats]:
    """The model's draw at the positions `where`: tokens and confidences, (B, L), 0 elsewhere."""
    tokens, confidence = np.zeros_like(state), np.zeros(state.shape)
    if where.any():
        tokens[where], confidence[where] = draw(logits_at(model, state, where, t), rng)
    return tokens, confidence
