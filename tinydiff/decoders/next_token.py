"""The decoder of autoregressive models: left to right, one token per step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..tensor import no_grad
from ..transformer import Model, Transformer
from .canvas import Canvas
from .draws import Draw
from .frames import Frame


@dataclass(frozen=True)
class NextToken:
    """Ancestral sampling left to right: each token from its law given those before, exactly the model's likelihood.

    Attributes
    ----------
    draw : which token, see `Draw`
    cache : whether a Transformer keeps its keys and values; without, it reads the whole text again for every token

    """

    draw: Draw = Draw()
    cache: bool = True

    def __call__(self, process: Any, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per token; ValueError unless what is given is a prompt, in each sequence one of its own length."""
        check_prefix(canvas)
        return self._frames(model, canvas, rng)

    def _frames(self, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        batch, length = canvas.start.shape
        steps = canvas.most
        first = length - steps  # up to here every prompt reaches
        frame = canvas.first(steps)
        yield frame
        state, confidence = canvas.start, frame.confidence
        before = np.full((batch, length + 1), canvas.mask_id, np.int64)  # what the network reads: shifted by one
        before[:, 1:] = state
        kept = model.new_cache(batch) if self.cache and isinstance(model, Transformer) else None
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
            if canvas.allowed is not None:
                logits = np.where(canvas.allowed[:, i], logits, -np.inf)
            tokens, sure = self.draw(logits, rng)
            chosen = np.zeros(state.shape, bool)
            chosen[:, i] = canvas.free[:, i]  # a longer prompt goes on
            state, confidence = np.where(chosen, tokens[:, None], state), np.where(chosen, sure[:, None], confidence)
            before[:, i + 1] = state[:, i]
            t = float((state == canvas.mask_id).mean())
            yield canvas.frame(i + 1 - first, steps, t, state, confidence, chosen)


def check_prefix(canvas: Canvas) -> None:
    """ValueError unless what is given is a prompt, in each sequence one of its own length."""
    broken = np.argwhere(canvas.free[:, :-1] & canvas.given[:, 1:])
    if len(broken):
        b, i = broken[0]
        raise ValueError(
            f"given is no prompt: in sequence {b} position {i} is free and the next one is given; this model goes "
            "left to right and cannot see what follows a blank: fill it in, or use a masked model"
        )
