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

from typing import Any, Literal, TypeAlias

import numpy as np

from .. import decoders, ops
from ..arrays import Bools, Floats, Ints
from ..data import Batch
from ..schedules import schedule as named_schedule
from ..tensor import Tensor, no_grad
from ..transformer import Model
from . import transitions
from .discrete import T_MIN, DiscreteDiffusion, Spread, ranks, share, uniforms
from .divided import Draws

Estimator: TypeAlias = Literal["time", "count"]


class MaskedDiffusion(DiscreteDiffusion):
    """Absorbing-state diffusion over `vocab_size` tokens.

    Parameters
    ----------
    vocab_size : number V of real tokens
    schedule : name of the noise schedule, see `tinydiff.schedules`
    estimator : how `loss` corrupts: "time" masks each token by itself with the probability of a random time (LLaDA, eq.
        3), "count" as many as a random number says (eq. 6 there); the same mean, and less noise in what is learnt from
    power : `loss` raises its weights to it. At 1 it estimates the bound; below, it looks less at texts that are nearly
        clean. The optimum is the same for a network that can reach it, and `bound` has no such choice

    """

    any_order = True
    decoded_by: tuple[type[decoders.Decoder], ...] = (
        decoders.LowConfidence, decoders.MostLikely, decoders.Entropy, decoders.Margin, decoders.Random,
        decoders.LeftToRight, decoders.Threshold, decoders.EntropyBounded, decoders.Frechet, decoders.Speculate,
        decoders.StaleBlocks,
        decoders.Ancestral, decoders.FirstHitting, decoders.RemaskCap, decoders.RemaskRescale,
        decoders.RemaskConfidence, decoders.Gibbs, decoders.MaskPredict, decoders.AtOnce, decoders.LengthBeam,
    )  # fmt: skip

    def __init__(
        self, vocab_size: int, schedule: str = "linear", estimator: Estimator = "time", power: float = 1.0
    ) -> None:
        if estimator not in ("time", "count"):
            raise ValueError(f"estimator is {estimator!r}; expected 'time' or 'count'")
        if not 0 <= power <= 1:
            raise ValueError(f"power is {power}; expected 0 <= power <= 1")
        super().__init__(transitions.named("absorbing", vocab_size), named_schedule(schedule))
        self.estimator, self.power = estimator, power

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        config = {"process": "masked", "vocab_size": self.vocab_size, "schedule": self.schedule.name}
        config |= {} if self.estimator == "time" else {"estimator": self.estimator}
        return config if self.power == 1 else config | {"power": self.power}

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """Labels, x_0, x_t, times, and what each position counts if it is masked, (B, L).

        Each sequence has its own time, or count. Those of a batch are stratified, one in each of B equal parts of the
        unit interval, which lowers the variance (Kingma et al. 2021, appendix I).
        """
        label, x0, free = self.known(batch)
        uniform = (np.arange(len(x0)) + rng.random()) / len(x0)
        if self.estimator == "count":
            xt, t, weight = self._counted(x0, free, uniform, rng)
        else:
            t = T_MIN + (1 - T_MIN) * uniform
            xt = self.corrupt(x0, t, rng, ~free)
            weight = self.schedule.weight(t)
        weight = weight**self.power * share(free)
        return label, x0, xt, t, np.broadcast_to(weight[:, None], x0.shape)

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """Weighted masked cross-entropy, a scalar in nats per free token: an estimate of NELBO / A, averaged.

        A is the number of free positions of a sequence, all L without a prompt (LLaDA's fine-tuning loss, eq. 5).
        """
        label, x0, xt, t, weight = draws
        loss: Tensor = self._weighted_nll(self.told(model, label), x0, xt, t, weight).sum() / x0.size
        return loss

    def bound(
        self,
        model: Model,
        batch: Batch | Ints,
        rng: np.random.Generator,
        *,
        estimator: Estimator = "count",
        spread: Spread = "stratified",
    ) -> Floats:
        """One unbiased estimate of each sequence's NELBO(free | given): (B,) nats per sequence.

        Parameters
        ----------
        estimator : "count" masks exactly k of the A free positions, k uniform on 1..A, with weight A / k (LLaDA, eq.
            6): less variance, and the same mean for every schedule that ends at alpha = 0. "time" draws a time and
            masks independently, weight w(t); in the share alpha(1) of draws it masks everything, weight 1.
        spread : how the uniform numbers behind k or t are spread over the batch, see `discrete.uniforms`

        """
        model, x0, free = self.unpacked(model, batch)
        uniform = uniforms(len(x0), rng, spread)
        if estimator == "count":
            xt, t, weight = self._counted(x0, free, uniform, rng)
        elif estimator == "time":
            end = float(self.schedule.alpha(1.0))  # if above 0, what survives is masked in a jump at t = 1
            t = np.where(uniform < end, 1.0, 1 - (uniform - end) / (1 - end))  # in (0, 1]
            xt = self.corrupt(x0, t, rng, ~free)
            weight = np.where(uniform < end, 1.0, self.schedule.weight(t) / (1 - end))
        else:
            raise ValueError(f"estimator is {estimator!r}; expected 'count' or 'time'")
        masked = xt == self.mask_id
        total = np.zeros(x0.shape)
        with no_grad():
            nll = self._weighted_nll(model, x0, xt, t, np.broadcast_to(weight[:, None], x0.shape))
        total[masked] = nll.data
        return np.asarray(total.sum(axis=1))

    def _counted(self, x0: Ints, free: Bools, uniform: Floats, rng: np.random.Generator) -> tuple[Ints, Floats, Floats]:
        """k of the A free tokens masked, k from 1 to A as `uniform` (B,) says: ids (B, L), times and weights A / k."""
        most = free.sum(axis=1)  # A
        k = 1 + np.floor(uniform * most).astype(np.int64)
        xt = np.where(ranks(free, rng) < k[:, None], self.mask_id, x0)
        return xt, self.schedule.inverse(1 - k / most), most / k

    def _weighted_nll(self, model: Model, x0: Ints, xt: Ints, t: Floats, weight: Floats) -> Tensor:
        """Weight times -log p(x_0 | x_t) at the masked positions only, in order: (n,)."""
        masked: Bools = xt == self.mask_id
        logits = model(xt, t, select=masked)  # (n, V)
        return ops.cross_entropy(logits, x0[masked]) * weight[masked]
