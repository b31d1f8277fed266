"""A model that corrects whole texts: deterministic iterative refinement (Lee, Mansimov and Cho 2018).

The text between two passes is latent, p(y | x) = sum over y_1 .. y_{T-1} of prod_t prod_i p(y_t^i | y_{t-1}, x) with
y_T = y, and of that sum one term is kept, the one that greedy passes take (`decoders.Refine`):

    -log p(y | x) <= -sum_{t < T} log p(yhat_t | yhat_{t-1}, x) - log p(y | yhat_{T-1}, x)

The first pass sees nothing but masks, y_0. Later ones are trained to put right what they may see: half of the time the
model's own first output, half of the time the target itself after some noise,

- repeat: a word takes the place of the next one,
- replace: a word becomes any word,
- swap: two neighbours change places,

each of the three as often, at a uniformly drawn share of the positions, at least one. It is noise of random words, an
ancestor of uniform noise (D3PM), with the very mistake that writing all at once makes: the repeat.
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
from .discrete import ranks, share
from .divided import Divided, Draws

REPEAT, REPLACE, SWAP = range(3)
OWN = 0.5
"""How often a later pass sees the model's own output (alpha of the paper)."""


class Refinement(Divided):
    """Iterative refinement over `vocab_size` tokens.

    Parameters
    ----------
    vocab_size : number V of real tokens; the special token V stands for "nothing yet", which the first pass sees
    passes : T, of `bound`

    """

    needs_time = False
    decoded_by: tuple[type[decoders.Decoder], ...] = (decoders.Refine,)

    def __init__(self, vocab_size: int, passes: int = 4) -> None:
        check_counts(vocab_size=vocab_size, passes=passes)
        self.vocab_size, self.mask_id, self.passes = vocab_size, vocab_size, passes

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {"process": "refinement", "vocab_size": self.vocab_size, "passes": self.passes}

    def corrupt(self, x0: Ints, t: Floats, rng: np.random.Generator, given: Bools | None = None) -> Ints:
        """Noise max(1, floor(t A)) of the A free positions of (B, L) ids, one after the other from the left.

        A position whose right neighbour is not free can only be replaced.
        """
        xt, free = np.array(x0), np.ones(x0.shape, bool) if given is None else ~np.asarray(given)
        count = np.maximum(1, np.floor(np.asarray(t) * free.sum(axis=1)))
        chosen = ranks(free, rng) < count[:, None]
        kinds, words = rng.integers(3, size=x0.shape), rng.integers(self.vocab_size, size=x0.shape)
        for i in range(x0.shape[1]):
            after = min(i + 1, x0.shape[1] - 1)
            pair = free[:, after] & (after > i)  # is there a neighbour?
            here, following = xt[:, i].copy(), xt[:, after].copy()
            replaced = chosen[:, i] & (~pair | (kinds[:, i] == REPLACE))
            repeated, swapped = (chosen[:, i] & pair & (kinds[:, i] == kind) for kind in (REPEAT, SWAP))
            xt[:, i] = np.where(replaced, words[:, i], np.where(swapped, following, here))
            xt[:, after] = np.where(repeated | swapped, here, xt[:, after])
        return xt

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """Labels, x_0, what is free, noised text, and whether a sequence starts from the network's own, (B, 1)."""
        batch = Batch.of(batch)
        x0 = np.asarray(batch.x0)
        free = np.ones(x0.shape, bool) if batch.given is None else ~batch.given
        noised = self.corrupt(x0, rng.random(len(x0)), rng, ~free)
        return batch.label, x0, free, noised, rng.random((len(x0), 1)) < OWN

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """Cross-entropy of the first pass and of a later one, half each: a scalar in nats per free token."""
        label, x0, free, noised, by_itself = draws
        model = decoders.conditioned(model, label)
        nothing = np.where(free, self.mask_id, x0)
        own = np.where(free, self._greedy(model, nothing), x0)
        later = np.where(by_itself, own, noised)
        weight = (free * share(free)[:, None]).ravel()
        first, then = ((self._nll(model, x, x0) * weight).mean() for x in (nothing, later))
        loss: Tensor = (first + then) * 0.5
        return loss

    def bound(self, model: Model, batch: Batch | Ints, rng: np.random.Generator) -> Floats:
        """The bound above in `passes` passes, which nothing is drawn for: (B,) nats per sequence."""
        model, x0, free = self._unpacked(model, batch)
        state, total = np.where(free, self.mask_id, x0), np.zeros(len(x0))
        for step in range(self.passes):
            guess = np.where(free, self._greedy(model, state), x0)
            target = x0 if step == self.passes - 1 else guess
            with no_grad():
                nll = self._nll(model, state, target).data.astype(np.float64).reshape(x0.shape)
            total += np.where(free, nll, 0).sum(axis=1)
            state = guess
        return total

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
        """Write (batch, length) ids, and write them again: a frame per pass. Arguments as of masked diffusion."""
        chosen = decoders.suited(decoder, self.decoded_by, type(self).__name__)
        canvas = decoders.Canvas.of(length, batch, self.mask_id, x0=x0, given=given, allowed=allowed)
        return chosen(self, decoders.constrained(model, canvas.allowed), canvas, rng)

    def _unpacked(self, model: Model, batch: Batch | Ints) -> tuple[Model, Ints, Bools]:
        batch = Batch.of(batch)
        x0 = np.asarray(batch.x0)
        free = np.ones(x0.shape, bool) if batch.given is None else ~batch.given
        return decoders.conditioned(model, batch.label), x0, free

    def _greedy(self, model: Model, x: Ints) -> Ints:
        """The likeliest token of every position: (B, L)."""
        with no_grad():
            return np.asarray(model(x).data.argmax(axis=-1))

    def _nll(self, model: Model, x: Ints, target: Ints) -> Tensor:
        """-log p of every token of the target, seeing x: (B L,)."""
        logits = model(x)
        return ops.cross_entropy(logits.reshape(-1, logits.shape[-1]), np.ascontiguousarray(target).reshape(-1))
