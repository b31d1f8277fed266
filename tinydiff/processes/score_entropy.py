"""Score entropy: learn the ratios p_t(y) / p_t(x) of neighbouring sequences (SEDD, Lou et al. 2023).

Discrete noise is undone by jumps from x to y, y differing in one position, at the rate R_t(y, x) p_t(y) / p_t(x). The
network learns those ratios, the concrete score s(x)_y > 0, by the score entropy

    sum_y w_xy (s_y - r_y log s_y + r_y (log r_y - 1)) >= 0,    0 only for s = r,

with r_y = q_t(y | x_0) / q_t(x | x_0) in place of the unknown ratio: the same gradient on average (denoising score
entropy, theorem 3.4). With the weights of the noise, w_xy = R_t(y, x), its integral over t, plus the KL of the ends,
bounds the likelihood (theorem 3.6):

    -log p(x_0) <= KL(q(x_1 | x_0) || prior) + E_t E_{x_t} sum_y R_t(y, x_t) (s_y - r_y log s_y + r_y (log r_y - 1))

How the last layer is read. A score is positive, so the network's V outputs f are logarithms.

- "absorbing": only masked positions can jump, and their ratios are alpha/(1 - alpha) p(x_0^i = y | visible tokens): a
  known scale times probabilities. So log s_y = f_y - log V + log(alpha / (1 - alpha)), which is 1/V of the scale per
  token for a network that says 0. Nothing makes the probabilities sum to one but the loss, and that is the difference
  to masked diffusion: the loss here is its NELBO plus w(t) (Z - 1 - log Z) per masked position, Z = mean(exp(f)).
- "uniform": the ratio is that of one law, p_t(y | other positions), at y and at x. So log s_y = g_y - g_x with
  g = log(alpha softmax(f) + (1 - alpha) / V), the noised law of what the network says about x_0. Raw outputs would have
  to learn how the scale of the ratios, up to V / noise, depends on t.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from .. import decoders, ops, schedules
from ..arrays import Floats, Ints, one_hot
from ..data import Batch
from ..tensor import Tensor, no_grad
from ..transformer import Model
from . import transitions
from .discrete import T_MIN, DiscreteDiffusion, ranks, share, stratified
from .divided import Draws

NOISES = ("loglinear", "geometric")  # schedules whose total noise -log(alpha(1)) is finite, as Euler steps need


class ScoreEntropy(DiscreteDiffusion):
    """Score-entropy diffusion over `vocab_size` tokens.

    Parameters
    ----------
    vocab_size : number V of real tokens
    graph : "absorbing" (tokens become MASK, id V) or "uniform" (tokens become any token)
    noise : schedule, "loglinear" or "geometric"

    """

    decoded_by: tuple[type[decoders.Decoder], ...] = (decoders.Tweedie, decoders.Euler)

    def __init__(
        self,
        vocab_size: int,
        graph: Literal["absorbing", "uniform"] = "absorbing",
        noise: Literal["loglinear", "geometric"] = "loglinear",
    ) -> None:
        if graph not in ("absorbing", "uniform"):
            raise ValueError(f"graph is {graph!r}; expected 'absorbing' or 'uniform'")
        if noise not in NOISES:
            raise ValueError(f"noise is {noise!r}; expected one of {', '.join(NOISES)}")
        super().__init__(transitions.named(graph, vocab_size), schedules.schedule(noise))
        self.graph = graph

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {
            "process": "score_entropy", "vocab_size": self.vocab_size, "graph": self.graph,
            "noise": self.schedule.name,
        }  # fmt: skip

    def alpha(self, t: ArrayLike) -> Floats:
        """Probability that a token survives until t. The noise ends a little above 0, and the prior with it."""
        return self.schedule.alpha(t)

    # --- scores -------------------------------------------------------------------------------------------------------

    def score(self, model: Model, xt: Ints, t: ArrayLike) -> Floats:
        """s(x_t) for every position and symbol, float64: (B, L) ids to (B, L, S); 1 where it has no meaning."""
        if self.graph == "uniform":
            return super().score(model, xt, t)  # from what the network says about x_0
        t = np.broadcast_to(np.asarray(t, np.float64), (len(xt),))
        with no_grad():
            f = model(xt, t).data.astype(np.float64)
        alpha = self.alpha(t)[:, None, None]
        score = np.ones((*xt.shape, self.symbols))
        score[..., : self.vocab_size] = alpha / (1 - alpha) * np.exp(f) / self.vocab_size
        return np.where((xt == self.mask_id)[..., None], score, 1.0)

    def score_from_denoiser(self, p: Floats, xt: Ints, t: Floats) -> Floats:
        """Concrete score from p(x_0^i | other positions of x_t): (B, L, V), (B, L), (B,) to (B, L, S)."""
        return transitions.concrete_score(self.noise, p, xt, self.level(t))

    def denoiser_from_score(self, score: Floats, t: Floats) -> Floats:
        """The inverse: the score, normalised, is the noised law of x_0^i, and that noise can be taken off.

        (B, L, S) scores of positions that can jump (for masks: the masked ones) and (B,) times to (B, L, V).
        """
        if not (np.isfinite(score) & (score >= 0)).all():
            raise ValueError(f"score contains {score[~(score >= 0)].flat[0] if (score < 0).any() else 'NaN or inf'}; "
                             "ratios of probabilities are finite and positive")  # fmt: skip
        alpha = self.alpha(t)[:, None, None]
        if self.graph == "absorbing":
            law = score[..., : self.vocab_size]
            return np.asarray(law / law.sum(axis=-1, keepdims=True))
        law = score / score.sum(axis=-1, keepdims=True)
        return np.asarray((law - (1 - alpha) / self.vocab_size) / alpha)

    # --- learning -----------------------------------------------------------------------------------------------------

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """Labels, x_0, x_t, times, stratified over the batch, and what each position counts, (B, L)."""
        label, x0, free = self.known(batch)
        t = T_MIN + (1 - T_MIN) * stratified(len(x0), rng)
        return label, x0, self.corrupt(x0, t, rng, ~free), t, free * share(free)[:, None]

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """Denoising score entropy with the weights of the bound, without its prior term: nats per free token."""
        label, x0, xt, t, counts = draws
        if self.graph == "absorbing":
            counts = counts[xt == self.mask_id]
        total: Tensor = (self.integrand(self.told(model, label), x0, xt, t) * counts).sum() / x0.size
        return total

    def integrand(self, model: Model, x0: Ints, xt: Ints, t: Floats) -> Tensor:
        """sum_y R_t(y, x_t) (s_y - r_y log s_y + r_y (log r_y - 1)): one value per position that can jump.

        (n,) for the n masked positions in order (absorbing), (B, L) for all (uniform).
        """
        if self.graph == "absorbing":
            masked = xt == self.mask_id
            f = model(xt, t, select=masked) + -np.log(self.vocab_size)  # (n, V)
            # Score and ratio have the factor alpha / (1 - alpha) in common, and score entropy is homogeneous.
            weight = np.broadcast_to(self.schedule.weight(t)[:, None], xt.shape)[masked]
            return ops.score_entropy(f, one_hot(x0[masked], self.vocab_size), weight[:, None])
        level, here = self.level(t), one_hot(xt, self.vocab_size)
        g = self.noise.push(ops.softmax(model(xt, t)), level).log()  # (B, L, V)
        log_score = g - (g * Tensor(here, dtype=g.dtype)).sum(axis=-1, keepdims=True)
        q = self.noise.rows(level[:, None], x0)
        ratio = q / np.take_along_axis(q, xt[..., None], axis=-1)
        return ops.score_entropy(log_score, ratio, (1 - here) * (self.speed(t) / self.vocab_size)[:, None, None])

    def bound(self, model: Model, batch: Batch | Ints, rng: np.random.Generator, *, steps: int | None = None) -> Floats:
        """One unbiased estimate of each sequence's NELBO(free | given): (B,) nats per sequence.

        Parameters
        ----------
        steps : bound the analytic sampler of that many steps instead of continuous time

        """
        if steps is not None:
            return self.chain_bound(model, batch, rng, steps)
        model, x0, free = self.unpacked(model, batch)
        uniform = stratified(len(x0), rng)
        total = np.zeros(x0.shape)
        if self.graph == "uniform":
            t = 1 - uniform  # in (0, 1]
            with no_grad():
                total = self.integrand(model, x0, self.corrupt(x0, t, rng, ~free), t).data.astype(np.float64)
            return np.asarray(np.where(free, total, 0).sum(axis=1) + self.prior_term(x0, free))
        # Exactly k masks, k uniform, then a time given k: the masked fraction 1 - alpha has a beta law. Less variance
        # than the other way round. Fractions that the schedule does not reach do not count.
        most = free.sum(axis=1)  # A
        k = 1 + np.floor(uniform * most).astype(np.int64)
        fraction = rng.beta(k, most - k + 1)
        t = np.maximum(self.schedule.inverse(1 - fraction), 1e-12)
        xt = np.where(ranks(free, rng) < k[:, None], self.mask_id, x0)
        with no_grad():
            total[xt == self.mask_id] = self.integrand(model, x0, xt, t).data
        weight = np.where(fraction <= 1 - self.alpha(1.0), most / k, 0) / self.schedule.weight(t)
        return np.asarray(weight * total.sum(axis=1) + self.prior_term(x0, free))

    # --- sampling -----------------------------------------------------------------------------------------------------

    def reverse(self, model: Model, xt: Ints, t: ArrayLike, s: ArrayLike, draw: decoders.Draw | None = None) -> Floats:
        """Analytic step (Tweedie tau-leaping, theorem 4.2): p(x_s^i | x_t) as if the other positions stood still.

        For masks the theorem takes each value y with probability (alpha_s - alpha_t) / alpha_t s_y and leaves the rest
        masked. That can be less than nothing for a score that is not normalised, so here what stays has the weight it
        has for one that is, 1 - (alpha_s - alpha_t) / (1 - alpha_t): nothing at s = 0. For the uniform graph the
        theorem is the posterior of the denoiser.
        """
        if self.graph == "uniform":
            return super().reverse(model, xt, t, s, draw)
        t, s = (np.broadcast_to(np.asarray(time, np.float64), (len(xt),)) for time in (t, s))
        with no_grad():
            f = model(xt, t).data.astype(np.float64)
        p = (draw or decoders.Draw()).probabilities(f.reshape(-1, self.vocab_size)).reshape(f.shape)
        p = p * np.exp(f).mean(axis=-1, keepdims=True)  # (1 - alpha) / alpha s, tempered
        reveal = -np.expm1(self.level(s) - self.level(t)) * self.alpha(s) / (1 - self.alpha(t))
        reveal = np.where(s == 0, 1.0, reveal)[:, None, None]  # exactly: rounding must not leave a mask behind
        law = np.concatenate([reveal * p, np.broadcast_to(1 - reveal, (*xt.shape, 1))], axis=-1)
        law = np.where((xt == self.mask_id)[..., None], law, one_hot(xt, self.symbols))
        return np.asarray(law / law.sum(axis=-1, keepdims=True))

    def euler(self, model: Model, xt: Ints, t: ArrayLike, s: ArrayLike) -> Floats:
        """Euler step (tau-leaping, Campbell et al. 2022): every position jumps to y with probability rate times time.

        The rates are those at t. The step to s = 0, where they are infinite, is the analytic one.
        """
        if np.all(np.asarray(s) == 0):
            return self.reverse(model, xt, t, s)
        t, s = (np.broadcast_to(np.asarray(time, np.float64), (len(xt),)) for time in (t, s))
        amount = (self.level(t) - self.level(s))[:, None, None]
        law = amount * self.noise.into(xt) * self.score(model, xt, t)
        np.put_along_axis(law, xt[..., None], 0, axis=-1)
        stays = np.maximum(1 - law.sum(axis=-1, keepdims=True), 0)  # jumps that exceed 1 share it
        np.put_along_axis(law, xt[..., None], stays, axis=-1)
        return np.asarray(law / law.sum(axis=-1, keepdims=True))
