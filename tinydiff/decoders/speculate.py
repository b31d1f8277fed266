"""Guess several tokens from one look, check them in one call, keep what one at a time would have written.

Self-speculation with a model of masks (ASSD, Guo and Ermon 2025; Leviathan et al. 2023 for the rule). For the next k
positions of an order that was fixed beforehand, one look gives the laws p_1 .. p_k, and drafts are drawn from them as
if they were independent. A second call reads the canvases in which one draft more is written each: it knows the laws
q_j = p(x_j | what is visible, drafts before j) that one token at a time would have drawn from. Then, in order,

    keep draft x_j with probability min(1, q_j(x_j) / p_j(x_j));
    at the first that is not kept, draw from the law proportional to (q_j - p_j)^+ instead, and stop.

The text has exactly the law of one token at a time: x_j is kept or drawn with min(p, q) + (q - p)^+ = q. The first
draft is always kept, as its two laws are the same, so two calls give at least two tokens: never more calls than tokens.

To draw afresh from q_j after a rejection gives min(p, q) + (1 - sum min(p, q)) q, another law.

A call on k canvases costs the arithmetic of k. It pays where a call is what costs, and not on a busy processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ..arrays import Bools, Floats, Ints, check_counts
from ..transformer import Model
from .canvas import Canvas
from .decoder import Masks
from .draws import Draw, categorical, logits_at, unconstrained, untempered
from .frames import Frame

Way = Literal["left_to_right", "random"]


@dataclass(frozen=True)
class Speculate:
    """Drafts of one look, verified in one call; a frame for each round of the two.

    Attributes
    ----------
    drafts : k, how many tokens are guessed at once; 1 is one token at a time
    order : "left_to_right", or "random", drawn for each text before it begins
    draw : which token, see `Draw`; its law is what is kept

    """

    drafts: int = 4
    order: Way = "left_to_right"
    draw: Draw = Draw()

    def __post_init__(self) -> None:
        check_counts(drafts=self.drafts)
        if self.order not in get_args(Way):
            raise ValueError(f"order is {self.order!r}; expected one of {', '.join(get_args(Way))}")

    def __call__(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per round; `steps` of a frame is how many there may be at most."""
        return self._frames(process, unconstrained(model), canvas, rng)

    def _frames(self, process: Masks, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        frame = canvas.first(canvas.most)
        yield frame
        state, confidence, step = canvas.start, frame.confidence, 0
        rows = np.arange(len(state))[:, None]
        rank = np.arange(state.shape[1]) if self.order == "left_to_right" else rng.random(state.shape)
        way = np.where(canvas.free, rank, np.inf).argsort(axis=1)  # the free positions, in order, first
        total = canvas.free.sum(axis=1)
        while (left := (state == canvas.mask_id).sum(axis=1)).any():
            ahead = (total - left)[:, None] + np.arange(min(self.drafts, left.max()))
            there = ahead < total[:, None]  # (B, k): a row may have fewer left
            at = np.take_along_axis(way, np.minimum(ahead, state.shape[1] - 1), axis=1)
            allowed = None if canvas.allowed is None else np.take_along_axis(canvas.allowed, at[..., None], axis=1)
            p, sure = self._laws(process, model, state, at, there, allowed)
            draft = categorical(p, rng)  # (B, k)
            q = p.copy()
            if (behind := there & (np.arange(at.shape[1]) > 0)).any():  # the first has nothing before it: q is p
                others, sure_of_others = self._laws(process, model, state, at, behind, allowed, draft)
                q, sure = (np.where(behind[..., None], *laws) for laws in ((others, p), (sure_of_others, sure)))
            of_p, of_q = (np.take_along_axis(law, draft[..., None], axis=-1)[..., 0] for law in (p, q))
            kept = rng.random(draft.shape) * of_p < of_q
            kept[:, 0] = True
            good = np.logical_and.accumulate(kept, axis=1)
            redrawn = ~good & np.concatenate([good[:, :1], good[:, :-1]], axis=1)  # the first that is not kept
            more = np.where(redrawn[..., None], np.maximum(q - p, 0), q)
            tokens = np.where(redrawn, categorical(more, rng), draft)
            written = (good | redrawn) & there
            chosen, before = np.zeros(state.shape, bool), state
            chosen[np.broadcast_to(rows, at.shape)[written], at[written]] = True
            state, confidence = before.copy(), confidence.copy()
            state[np.broadcast_to(rows, at.shape)[written], at[written]] = tokens[written]
            sure = np.take_along_axis(sure, tokens[..., None], axis=-1)[..., 0]
            confidence[np.broadcast_to(rows, at.shape)[written], at[written]] = sure[written]
            step += 1
            masked = state == canvas.mask_id
            yield canvas.frame(
                step, step + int(masked.sum(axis=1).max()), float(masked.mean()), state, confidence, chosen
            )

    def _laws(
        self,
        process: Masks,
        model: Model,
        state: Ints,
        at: Ints,
        there: Bools,
        allowed: Bools | None,
        draft: Ints | None = None,
    ) -> tuple[Floats, Floats]:
        """Laws at the next positions `at` (B, k), as drawn from and untempered: (B, k, V) each, uniform if not `there`.

        All from the state as it is, or each behind the `draft` (B, k) of those before it: one call, on B k canvases.
        """
        (batch, k), length = at.shape, state.shape[1]
        canvases = np.repeat(state[:, None], 1 if draft is None else k, axis=1)  # (B, 1 or k, L)
        where = np.zeros(canvases.shape, bool)
        for j in range(k):
            here = np.flatnonzero(there[:, j])
            where[here, 0 if draft is None else j, at[here, j]] = True
            if draft is not None:
                for i in range(j):
                    canvases[here, j, at[here, i]] = draft[here, i]
        flat = canvases.reshape(-1, length)
        t = process.schedule.inverse(1 - (flat == process.mask_id).mean(axis=1))  # type: ignore[attr-defined]
        asked = where.any(axis=-1).ravel()
        logits = logits_at(model, flat[asked], where.reshape(-1, length)[asked], t[asked])  # (n, V)
        dense = np.zeros((batch, length if draft is None else k, logits.shape[-1]))
        dense[where[:, 0] if draft is None else there] = logits
        if draft is None:
            dense = np.take_along_axis(dense, at[..., None], axis=1)
        if allowed is not None:
            dense = np.where(allowed, dense, -np.inf)
        rows = dense.reshape(-1, dense.shape[-1])
        return self.draw.probabilities(rows).reshape(dense.shape), untempered(rows).reshape(dense.shape)
