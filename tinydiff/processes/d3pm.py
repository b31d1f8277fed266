"""D3PM: diffusion in discrete steps with any transition matrix (Austin et al. 2021).

    L_vb = KL(q(x_T | x_0) || p(x_T))
           + sum_{t=2}^T E KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)) + E[-log p_theta(x_0 | x_1)]

Three kinds of noise: "uniform" redraws a token from the whole vocabulary, "absorbing" turns it into MASK, "nearest"
turns it into a neighbour in an embedding space. The network predicts x_0, whatever the noise, and Bayes' rule makes
p_theta(x_{t-1} | x_t) of it (`transitions.reverse`). The last term of the bound is the KL at t = 1, where the posterior
is certain of x_0, so one formula serves all steps.

The network's answer at position i is read as what the other positions say about x_0^i: the token seen at i itself comes
in as a likelihood q(x_t^i | x_0^i) (eq. 4 of the paper). So it need not learn how far to trust its own place at time t.

Times are i / T, i = 0 .. T. Uniform and nearest-neighbour noise look alike at every t, hence the network needs to be
told the time (`Transformer(..., time=True)`); masks can be counted, so absorbing noise does without.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from .. import decoders, ops, schedules
from ..arrays import Floats, Ints, check_counts, one_hot
from ..data import Batch
from ..tensor import Tensor, no_grad
from ..transformer import Model
from . import transitions
from .discrete import DiscreteDiffusion, ranks, share, stratified
from .divided import Draws
from .transitions import Nearest


class D3PM(DiscreteDiffusion):
    """Diffusion over `vocab_size` tokens in `steps` steps.

    Parameters
    ----------
    vocab_size : number V of real tokens; absorbing noise adds MASK with id V
    matrix : "uniform", "absorbing" or "nearest"
    steps : T
    schedule : name of the noise schedule, see `tinydiff.schedules`
    hybrid : weight of the auxiliary cross-entropy -log p_theta(x_0 | x_t) in the loss, lambda in eq. 5
    embeddings, neighbours : for nearest-neighbour noise, see `transitions.Nearest` and `tinydiff.data.embeddings`

    """

    steps: int
    decoded_by: tuple[type[decoders.Decoder], ...] = (decoders.Chain,)

    def __init__(
        self,
        vocab_size: int,
        matrix: Literal["uniform", "absorbing", "nearest"] = "absorbing",
        *,
        steps: int = 1000,
        schedule: str = "linear",
        hybrid: float = 1e-3,
        embeddings: ArrayLike | None = None,
        neighbours: int = 5,
    ) -> None:
        check_counts(steps=steps)
        if not (math.isfinite(hybrid) and hybrid >= 0):
            raise ValueError(f"hybrid is {hybrid}; it must be 0 or more")
        if (embeddings is not None) != (matrix == "nearest"):
            raise ValueError(
                f"matrix is {matrix!r} and embeddings is {'missing' if embeddings is None else 'given'}; embeddings "
                "go with 'nearest' and with nothing else, see tinydiff.data.embeddings"
            )
        options: dict[str, Any] = {"embeddings": embeddings, "neighbours": neighbours} if matrix == "nearest" else {}
        super().__init__(transitions.named(matrix, vocab_size, **options), schedules.schedule(schedule))
        self.matrix, self.steps, self.hybrid = matrix, steps, hybrid
        self._levels = self.noise.level(self.alpha(np.arange(steps + 1) / steps))  # (T + 1,)

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        config: dict[str, Any] = {"process": "d3pm", "vocab_size": self.vocab_size, "matrix": self.matrix}
        config |= {"steps": self.steps, "schedule": self.schedule.name, "hybrid": self.hybrid}
        if isinstance(self.noise, Nearest):
            config |= {"embeddings": self.noise.embeddings.tolist(), "neighbours": self.noise.neighbours}
        return config

    def level(self, t: ArrayLike) -> Floats:
        """The amount of noise at the step nearest to t."""
        t = np.asarray(t)
        if not ((t >= 0) & (t <= 1)).all():
            raise ValueError(f"t contains {t[~((t >= 0) & (t <= 1))].flat[0]}; expected 0 <= t <= 1")
        return np.asarray(self._levels[np.rint(t * self.steps).astype(np.int64)])

    def grid(self, steps: int) -> Floats:
        """The times of a chain that takes `steps` of the T steps, evenly spread: (steps + 1,)."""
        if not 1 <= steps <= self.steps:
            raise ValueError(
                f"steps is {steps}; this process has T = {self.steps}, expected 1 <= steps <= {self.steps}"
            )
        return np.rint(np.linspace(0, self.steps, steps + 1)) / self.steps

    def draw(self, batch: Batch | Ints, rng: np.random.Generator) -> Draws:
        """Labels, x_0, what is free, steps, and x_t: each sequence has its own step, stratified over the batch."""
        label, x0, free = self.known(batch)
        i = 1 + np.floor(stratified(len(x0), rng) * self.steps).astype(np.int64)
        return label, x0, free, i, self.corrupt(x0, i / self.steps, rng)

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """(L_vb + hybrid cross-entropy) / A, a scalar in nats per free token, without L_T, which has no parameters.

        The term of each sequence's step counts T times.
        """
        label, x0, free, i, noised = draws
        model, t = self.told(model, label), i / self.steps
        xt = np.asarray(np.where(free, noised, x0))
        if self.matrix == "absorbing":
            return self._masked_loss(model, x0, xt, i, share(free))
        before, now = self._levels[i - 1], self._levels[i]
        p = ops.softmax(model(xt, t))  # (B, L, V)
        counts = (free * share(free)[:, None])[..., None]  # (B, L, 1)
        q = transitions.posterior(self.noise, x0, noised, before[:, None], now[:, None])
        negative_entropy = (counts * q * np.log(q, out=np.zeros_like(q), where=q > 0)).sum()
        q = counts * q
        terms = float(negative_entropy) - ops.expected_log(transitions.reverse(self.noise, p, xt, before, now), q).sum()
        loss: Tensor = terms * (self.steps / x0.size)
        if self.hybrid > 0:
            clean = transitions.reverse(self.noise, p, xt, np.zeros(len(x0)), now)  # p_theta(x_0 | x_t)
            loss = loss - ops.expected_log(clean, counts * one_hot(x0, self.vocab_size)).sum() * (self.hybrid / x0.size)
        return loss

    def _masked_loss(self, model: Model, x0: Ints, xt: Ints, i: Ints, share: Floats) -> Tensor:
        """The same for absorbing noise, where each KL is a multiple of the cross-entropy of the masked tokens.

        A masked token is uncovered with probability (alpha_{t-1} - alpha_t) / (1 - alpha_t) under q and p_theta alike,
        so only the value it takes is uncertain (Austin et al. 2021, appendix A.3).
        """
        masked = xt == self.mask_id
        weight = np.broadcast_to((share * (self.steps * self._reveals(i - 1, i) + self.hybrid))[:, None], x0.shape)
        nll = ops.cross_entropy(model(xt, i / self.steps, select=masked), x0[masked])
        loss: Tensor = (nll * weight[masked]).sum() / x0.size
        return loss

    def _reveals(self, before: Ints, now: Ints) -> Floats:
        """(alpha_s - alpha_t) / (1 - alpha_t) for the steps `before` of s and `now` of t."""
        alpha = np.exp(-self._levels)
        return np.asarray((alpha[before] - alpha[now]) / (1 - alpha[now]))

    def bound(self, model: Model, batch: Batch | Ints, rng: np.random.Generator, *, steps: int | None = None) -> Floats:
        """One unbiased estimate of each sequence's L_vb(free | given): (B,) nats per sequence.

        Parameters
        ----------
        steps : of the chain; default T. The same network walks longer strides in fewer steps, with a looser bound

        """
        steps = self.steps if steps is None else steps
        if self.matrix == "absorbing":
            return self._masked_bound(model, batch, rng, np.rint(self.grid(steps) * self.steps).astype(np.int64))
        return self.chain_bound(model, batch, rng, steps)

    def _masked_bound(self, model: Model, batch: Batch | Ints, rng: np.random.Generator, grid: Ints) -> Floats:
        """The bound of the absorbing chain over these steps, with less variance: first the number of masks, then t.

        Given that k of A free tokens are masked, any k are, and t has a law proportional to
        reveal_t Binomial(k; A, 1 - alpha_t).
        """
        model, x0, free = self.unpacked(model, batch)
        most = free.sum(axis=1)  # A
        reveal, alpha = self._reveals(grid[:-1], grid[1:]), np.exp(-self._levels[grid[1:]])
        joint = {a: reveal * _binomial(a, 1 - alpha)[:, 1:].T for a in set(most.tolist())}  # (A, steps): k = 1 .. A
        k = 1 + np.floor(stratified(len(x0), rng) * most).astype(np.int64)
        laws = np.stack([joint[a][count - 1] for a, count in zip(most.tolist(), k, strict=True)])  # (B, steps)
        weight = most * laws.sum(axis=1)  # 0 for numbers of masks that a short chain never has: then any t will do
        i = grid[1:][decoders.categorical(np.where(weight[:, None] > 0, laws, 1), rng)]
        masked = ranks(free, rng) < k[:, None]
        nll = np.zeros(x0.shape)
        with no_grad():
            logits = model(np.where(masked, self.mask_id, x0), i / self.steps, select=masked)
            nll[masked] = ops.cross_entropy(logits, x0[masked]).data
        return np.asarray(weight * nll.sum(axis=1))


def _binomial(trials: int, p: Floats) -> Floats:
    """Probability of 0 .. trials successes: (n,) -> (n, trials + 1)."""
    k = np.arange(trials + 1)
    ways = np.array([math.lgamma(trials + 1) - math.lgamma(i + 1) - math.lgamma(trials - i + 1) for i in k])
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = ways + np.where(k > 0, k * np.log(p[:, None]), 0)
        log_p = log_p + np.where(k < trials, (trials - k) * np.log1p(-p[:, None]), 0)
    return np.asarray(np.exp(log_p))
