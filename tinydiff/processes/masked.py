"""Masked diffusion (MDLM, Sahoo et al. 2024; MD4, Shi et al. 2024; LLaDA, Nie et al. 2025).

Corruption: each token becomes MASK on its own by time t, with probability 1 - alpha(t). Undoing it needs one thing
only, p(x_0 | x_t) at the masked positions, which the network learns as a cross-entropy. Weighting that by
w(t) = -alpha'(t) / (1 - alpha(t)) makes its average over t an upper bound of -log p(x_0):

    NELBO(x_0) = E_t E_{x_t}[ w(t) sum_{i masked} -log p_theta(x_0^i | x_t) ]      (Sahoo et al. 2024, eq. 10)

The V real tokens have ids 0 .. V - 1 and MASK has id V. The network predicts real tokens only, so MASK has probability
zero; tokens that are not masked contribute nothing to the bound and are carried over when sampling.

The bound of a chain of T steps is that of `D3PM(vocab_size, "absorbing", steps=T)`; this is its limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np

from .. import decoders, ops
from ..arrays import Bools, Floats, Ints
from ..decoders.guidance import prompted
from ..schedules import schedule as named_schedule
from ..tensor import Tensor, no_grad
from ..transformer import Model
from . import transitions
from .discrete import T_MIN, DiscreteDiffusion, Spread, uniforms


class MaskedDiffusion(DiscreteDiffusion):
    """Absorbing-state diffusion over `vocab_size` tokens.

    Parameters
    ----------
    vocab_size : number V of real tokens
    schedule : name of the noise schedule, see `tinydiff.schedules`

    """

    any_order = True

    def __init__(self, vocab_size: int, schedule: str = "linear") -> None:
        super().__init__(transitions.named("absorbing", vocab_size), named_schedule(schedule))

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {"process": "masked", "vocab_size": self.vocab_size, "schedule": self.schedule.name}

    def loss(self, model: Model, x0: Ints, rng: np.random.Generator) -> Tensor:
        """Weighted masked cross-entropy, a scalar in nats per token: an estimate of NELBO / L.

        Each sequence has its own time. The times of a batch are stratified, one in each of B equal parts of the unit
        interval, which lowers the variance (Kingma et al. 2021, appendix I).
        """
        x0 = self._checked(x0, model)
        batch = len(x0)
        t = T_MIN + (1 - T_MIN) * (np.arange(batch) + rng.random()) / batch
        xt = self.corrupt(x0, t, rng)
        weight = np.broadcast_to(self.schedule.weight(t)[:, None], x0.shape)
        nll = self._weighted_nll(model, x0, xt, t, weight)  # (n,)
        return nll.sum() / x0.size

    def bound(
        self,
        model: Model,
        x0: Ints,
        rng: np.random.Generator,
        *,
        estimator: Literal["count", "time"] = "count",
        spread: Spread = "stratified",
    ) -> Floats:
        """One unbiased estimate of each sequence's NELBO: (B, L) ids to (B,) nats per sequence.

        Parameters
        ----------
        estimator : "count" masks exactly k positions, k uniform on 1..L, with weight L / k (LLaDA, eq. 6): less
            variance, and the same mean for every schedule. "time" draws a time and masks independently, weight w(t).
        spread : how the uniform numbers behind k or t are spread over the batch, see `discrete.uniforms`

        """
        x0 = self._checked(x0, model)
        batch, length = x0.shape
        uniform = uniforms(batch, rng, spread)
        if estimator == "count":
            k = 1 + np.floor(uniform * length).astype(np.int64)
            order = rng.random(x0.shape).argsort(axis=1).argsort(axis=1)  # a random rank for every position
            xt = np.where(order < k[:, None], self.mask_id, x0)
            t, weight = self.schedule.inverse(1 - k / length), length / k
        elif estimator == "time":
            t = 1 - uniform  # in (0, 1]
            xt = self.corrupt(x0, t, rng)
            weight = self.schedule.weight(t)
        else:
            raise ValueError(f"estimator is {estimator!r}; expected 'count' or 'time'")
        masked = xt == self.mask_id
        total = np.zeros(x0.shape)
        with no_grad():
            nll = self._weighted_nll(model, x0, xt, t, np.broadcast_to(weight[:, None], x0.shape))
        total[masked] = nll.data
        return np.asarray(total.sum(axis=1))

    def sample(
        self,
        model: Model,
        length: int,
        batch: int = 1,
        *,
        rng: np.random.Generator,
        steps: int | None = None,
        remasking: decoders.Remasking | Literal["ancestral", "first_hitting"] = "low_confidence",
        remask: decoders.Remdm | None = None,
        eta: float | None = None,
        commits: decoders.Commits = "linear",
        threshold: float | None = None,
        block_length: int | None = None,
        choice_temperature: float = 0.0,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        cfg_scale: float = 0.0,
        given: Ints | None = None,
        allowed: Bools | None = None,
    ) -> Iterator[decoders.Frame]:
        """Generate (batch, length) ids from all MASK, yielding a frame per step.

        Parameters
        ----------
        steps : number of denoising steps; default one per masked position
        remasking : which draws a step keeps, see `decoders.Choice`; or "ancestral": each with the probability of the
            reverse process; or "first_hitting": one per step, at the times that ancestral sampling in infinitely many
            steps would reveal them
        remask, eta : ancestral sampling that masks committed tokens again: how, and how much, see `decoders.remask`
        commits, threshold, block_length, choice_temperature : how many and which draws a step keeps, see
            `decoders.Choice`
        temperature, top_k, top_p : see `decoders.Draw`
        cfg_scale : how much to exaggerate what is `given`, see `guidance.prompted`
        given : (batch, length) or (length,) ids with MASK where something is to be filled in; other positions stay
        allowed : (length, V) or (batch, length, V), True for the tokens that a position may hold

        """
        draw = decoders.Draw(temperature, top_k, top_p)
        start = self._start(model, length, batch, given)
        model = prompted(model, start != self.mask_id, self.mask_id, cfg_scale)
        most = max(int((start == self.mask_id).sum(axis=1).max()), 1)
        if remask is not None and remasking not in ("ancestral", "low_confidence"):
            raise ValueError(f"remasking is {remasking!r} and remask is {remask!r}, which is ancestral; leave one out")
        if eta is not None and remask is None:
            raise ValueError(f"eta is {eta}, but nothing is masked again; choose remask or leave eta out")
        if remask is None and remasking != "ancestral" and remasking != "first_hitting":
            choice = decoders.Choice(remasking, commits, threshold, block_length, choice_temperature)
            return decoders.unmask(
                model, start, self.mask_id, self.schedule, steps=steps, rng=rng, draw=draw, choice=choice,
                allowed=allowed,
            )  # fmt: skip
        order = remasking if remask is None else f"remask {remask}"
        for name, value, none in (
            ("commits", commits, "linear"), ("threshold", threshold, None), ("block_length", block_length, None),
            ("choice_temperature", choice_temperature, 0.0),
        ):  # fmt: skip
            if value != none:
                raise ValueError(f"{name} is {value}, but in {order} chance decides when to commit; leave {name} out")
        steps = most if steps is None else steps
        if steps < 1:
            raise ValueError(f"steps is {steps}; it must be at least 1")
        allowed = decoders.check_allowed(allowed, start, self.mask_id)
        if remask is not None:
            return decoders.remdm(
                model, start, self.mask_id, self.schedule, steps=steps, rng=rng, how=remask, eta=eta, draw=draw,
                allowed=allowed,
            )  # fmt: skip
        if remasking == "first_hitting":
            if steps != most:
                raise ValueError(f"steps is {steps}; first-hitting sampling takes one step per masked position, {most}")
            return decoders.first_hitting(
                model, start, self.mask_id, self.schedule, rng=rng, draw=draw, allowed=allowed
            )
        return decoders.ancestral(
            model, start, self.mask_id, self.schedule, steps=steps, rng=rng, draw=draw, allowed=allowed
        )

    def _weighted_nll(self, model: Model, x0: Ints, xt: Ints, t: Floats, weight: Floats) -> Tensor:
        """Weight times -log p(x_0 | x_t) at the masked positions only, in order: (n,)."""
        masked: Bools = xt == self.mask_id
        logits = model(xt, t, select=masked)  # (n, V)
        return ops.cross_entropy(logits, x0[masked]) * weight[masked]
