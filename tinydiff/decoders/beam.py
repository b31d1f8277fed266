"""Beam search for autoregressive models: the likeliest whole text, as far as a narrow search can tell.

At each position every one of the `width` best beginnings is continued by every token, and the best `width` of all these
are kept (Lowerre 1976). Width 1 is greedy. A width of as many as there are beginnings finds the likeliest text of all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import kernels
from ..arrays import Floats, Ints, check_counts
from ..tensor import no_grad
from ..transformer import Model
from .canvas import Canvas
from .draws import untempered
from .frames import Frame
from .next_token import check_prefix


@dataclass(frozen=True)
class Beam:
    """The likeliest text of those that a search of that width meets.

    Attributes
    ----------
    width : beginnings kept at each position

    """

    width: int = 4

    def __post_init__(self) -> None:
        check_counts(width=self.width)

    def __call__(self, process: Any, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per token, showing the best beginning so far; ValueError unless what is given is a prompt."""
        check_prefix(canvas)
        return self._frames(model, canvas)

    def _frames(self, model: Model, canvas: Canvas) -> Iterator[Frame]:
        batch, length = canvas.start.shape
        steps = canvas.most
        yield canvas.first(steps)
        beams = canvas.start[:, None]  # (B, W, L), the best first; W grows from 1
        total = np.zeros((batch, 1))  # log probability of each
        sure = canvas.given[:, None].astype(np.float64)  # (B, W, L) of each token
        for i in range(length - steps, length):
            beams, total, sure = self._continued(model, canvas, i, beams, total, sure)
            chosen = canvas.free & (np.arange(length) == i)
            state = beams[:, 0]
            t = float((state == canvas.mask_id).mean())
            yield canvas.frame(i + 1 - length + steps, steps, t, state, sure[:, 0], chosen)

    def _continued(
        self, model: Model, canvas: Canvas, i: int, beams: Ints, total: Floats, sure: Floats
    ) -> tuple[Ints, Floats, Floats]:
        """The best beginnings of i + 1 tokens from those of i, with their log probabilities and those of each token."""
        batch, wide, _ = beams.shape
        before = np.full((batch * wide, i + 1), canvas.mask_id, np.int64)  # the special token, and what is there
        before[:, 1:] = beams[:, :, :i].reshape(batch * wide, i)
        last = np.tile(np.arange(i + 1) == i, (len(before), 1))
        with no_grad():
            logits = model(before, causal=True, select=last).data  # (B W, V)
        if canvas.allowed is not None:
            logits = np.where(np.repeat(canvas.allowed[:, i], wide, axis=0), logits, -np.inf)
        p = untempered(logits).reshape(batch, wide, -1)
        vocab = p.shape[-1]
        forced = canvas.given[:, i, None, None]  # a longer prompt goes on, at no price
        here = np.arange(vocab) == canvas.start[:, i, None, None]
        with np.errstate(divide="ignore"):
            score = total[:, :, None] + np.where(forced, np.where(here, 0.0, -np.inf), np.log(p))
        flat = score.reshape(batch, wide * vocab)
        total, at = kernels.topk(flat, min(self.width, wide * vocab))  # (B, W'), best first
        parent, token = at // vocab, at % vocab
        rows = np.arange(batch)[:, None]
        beams, sure = beams[rows, parent], sure[rows, parent]  # copies
        beams[:, :, i] = token
        sure[:, :, i] = np.where(canvas.given[:, i, None], 1.0, p[rows, parent, token])
        return beams, total, sure
