"""Denoising diffusion (DDPM, Ho et al. 2020; DDIM, Song, Meng and Ermon 2020).

Corruption adds a little Gaussian noise in each of T steps, x_k = sqrt(1 - beta_k) x_{k-1} + sqrt(beta_k) z, so that

    q(x_k | x_0) = N(sqrt(alpha_bar_k) x_0, 1 - alpha_bar_k),   alpha_bar_k = prod_{i <= k} (1 - beta_i)

Undoing one step needs only a guess of x_0 (or, the same, of the noise): q(x_{k-1} | x_k, x_0) is Gaussian with a known
mean and variance. The network learns that guess as a mean square; the exact bound of -log p(x_0) weights the same
errors differently (Ho et al. 2020, eq. 5 and 12). The bound is that of a chain whose reverse steps have variance
beta_k, what the true ones tend to as T grows; with the posterior variance it would keep a gap for every T.

Where x_k is nearly all noise, x_0 = (x_k - sqrt(1 - alpha_bar_k) eps) / sqrt(alpha_bar_k) divides by almost nothing,
5e-5 at the end of the cosine schedule, and a small error in eps throws a sample far out, where the network has never
been. So sampling brings its guesses of x_0 back into the range of the data, and takes eps to be what is left (Ho et
al. 2020). Loss and bound are of the guesses as they are: there the divisor cancels.

Step k is time t = k / T: 0 is clean, T is noise. Arithmetic is in float64, whatever the network's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arrays import Floats, Ints, check_counts
from ..data import Batch
from ..decoders import DDIM, conditioned, suited
from ..tensor import Tensor, no_grad
from ..transformer import Model
from .divided import Divided, Draws
from .paths import Prediction, VectorFrame, checked, join, known, split, unpacked

REACHED = 0.01
"""A schedule reaches noise if at most this share of the data's variance is left at its end."""

WIDE = 10.0
"""Ten times the noise at the start: data that goes beyond that is not scaled for this process."""


def linear_betas(T: int) -> Floats:
    """(T,) betas from 1e-4 to 0.02, times 1000 / T (Ho et al. 2020 for T = 1000)."""
    return np.linspace(1e-4, 0.02, T) * 1000 / T


def cosine_betas(T: int) -> Floats:
    """(T,) betas with alpha_bar = cos^2, flat at both ends (Nichol and Dhariwal 2021, eq. 17)."""
    alpha_bar = np.cos((np.linspace(0, 1, T + 1) + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.asarray(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


class GaussianDiffusion(Divided):
    """Gaussian diffusion of (B, L, F) vectors.

    Parameters
    ----------
    features : size F of the vector at each position
    T : number of noising steps
    schedule : "linear", "cosine", or the (T,) betas themselves
    predict : what the network's output means: "eps", "x0" or "v", see `paths`
    clip : the data lies in [-clip, clip], and sampling keeps its guesses there; the narrower the better, for data in a
        `Vectors` its `reach`. None: guesses are taken as they are

    Attributes
    ----------
    beta, alpha_bar : (T + 1,), entry k for step k; beta[0] is 0 and alpha_bar[0] is 1

    """

    needs_time = True
    decoded_by: tuple[type[DDIM], ...] = (DDIM,)

    def __init__(
        self,
        features: int,
        T: int = 1000,
        schedule: str | Sequence[float] = "linear",
        predict: Prediction = "eps",
        clip: float | None = WIDE,
    ) -> None:
        check_counts(features=features, T=T)
        if predict not in ("eps", "x0", "v"):
            raise ValueError(f"predict is {predict!r}; expected 'eps', 'x0' or 'v'")
        if clip is not None and not 0 < clip < 1e300:
            raise ValueError(f"clip is {clip}; expected a positive number, or None")
        if isinstance(schedule, str):
            if schedule not in SCHEDULES:
                raise ValueError(f"schedule is {schedule!r}; expected {', '.join(SCHEDULES)} or the betas")
            betas = SCHEDULES[schedule](T)
        else:
            betas = np.asarray(schedule, np.float64)
            if betas.shape != (T,):
                raise ValueError(f"schedule has shape {betas.shape}; expected ({T},), a beta for each of the T steps")
        if not ((betas > 0) & (betas < 1)).all():
            worst = betas[~((betas > 0) & (betas < 1))][0]
            raise ValueError(f"schedule has a beta of {worst:.4g}; expected 0 < beta < 1 (the linear one: T above 20)")
        self.features, self.T, self.predict, self.clip = features, T, predict, clip
        self.schedule = schedule if isinstance(schedule, str) else [float(b) for b in betas]
        self.beta = np.concatenate([[0.0], betas])
        self.alpha_bar = np.cumprod(1 - self.beta)
        if self.alpha_bar[-1] > REACHED:
            raise ValueError(
                f"schedule ends at alpha_bar = {self.alpha_bar[-1]:.3g}: that share of the data's variance is left "
                f"where sampling starts from pure noise; expected at most {REACHED}, so raise T or the betas"
            )

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {
            "process": "ddpm",
            "features": self.features,
            "T": self.T,
            "schedule": self.schedule,
            "predict": self.predict,
            "clip": self.clip,
        }

    # --- there ------------------------------------------------------------------------------------------------------

    def scales(self, k: ArrayLike) -> tuple[Floats, Floats]:
        """Signal and noise scale at step k, shaped to multiply (B, L, F): (1, 1, 1) or (B, 1, 1)."""
        alpha_bar = self.alpha_bar[np.asarray(k)].reshape(-1, 1, 1)
        return np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar)

    def q_sample(self, x0: Floats, k: ArrayLike, noise: Floats) -> Floats:
        """x_k = sqrt(alpha_bar_k) x_0 + sqrt(1 - alpha_bar_k) noise, in one jump."""
        a, s = self.scales(k)
        return np.asarray(a * x0 + s * noise)

    def corrupt(self, x0: Floats, t: Floats, rng: np.random.Generator) -> Floats:
        """Draw x_t given x_0 at the step nearest to each time: (B, L, F) and (B,) times in [0, 1] to (B, L, F)."""
        x0, t = checked(x0, self.features), np.asarray(t, np.float64)
        if t.shape != (len(x0),) or not ((t >= 0) & (t <= 1)).all():
            raise ValueError(f"t has shape {t.shape} and values {t}; expected ({len(x0)},) times in [0, 1]")
        return self.q_sample(x0, np.round(t * self.T).astype(np.int64), rng.standard_normal(x0.shape))

    def posterior(self, x0: Floats, xk: Floats, j: ArrayLike, k: ArrayLike) -> tuple[Floats, Floats]:
        """Mean and variance of q(x_j | x_k, x_0) for j < k (Ho et al. 2020, eq. 7, there with j = k - 1)."""
        before, now = self.alpha_bar[np.asarray(j)], self.alpha_bar[np.asarray(k)]
        keep = now / before  # alpha of the way from j to k
        of_x0 = np.sqrt(before) * (1 - keep) / (1 - now)
        of_xk = np.sqrt(keep) * (1 - before) / (1 - now)
        mean = of_x0.reshape(-1, 1, 1) * x0 + of_xk.reshape(-1, 1, 1) * xk
        return mean, self._posterior_variance(j, k).reshape(-1, 1, 1)

    def _posterior_variance(self, j: ArrayLike, k: ArrayLike) -> Floats:
        before, now = self.alpha_bar[np.asarray(j)], self.alpha_bar[np.asarray(k)]
        return np.asarray((1 - before) / (1 - now) * (1 - now / before))

    # --- what the network says --------------------------------------------------------------------------------------

    def guess(self, model: Model, xk: Floats, k: Ints | int, clip: float | None = None) -> tuple[Floats, Floats]:
        """The network's (x_0, eps) for (B, L, F) states, all at step k or each at its own.

        With `clip` x_0 is brought into [-clip, clip], and eps is what then leads to x_k.
        """
        steps = np.broadcast_to(k, (len(xk),))
        with no_grad():
            output = model(xk, steps / self.T).data
        if not np.isfinite(output).all():
            raise ValueError("the model's output contains NaN or inf: its weights are broken or training diverged")
        a, s = self.scales(steps)
        x0, eps = split(xk, output, a, s, self.predict)
        if clip is None:
            return x0, eps
        x0 = np.clip(x0, -clip, clip)
        return x0, np.asarray((xk - a * x0) / s)

    def score(self, model: Model, xk: Floats, k: Ints | int, clip: float | None = None) -> Floats:
        """The network's grad log p_k(x_k) = -eps / sqrt(1 - alpha_bar_k), (B, L, F) (Song et al. 2021)."""
        return np.asarray(-self.guess(model, xk, k, clip)[1] / self.scales(np.broadcast_to(k, (len(xk),)))[1])

    def draw(self, batch: Batch | Floats, rng: np.random.Generator) -> Draws:
        """Labels, x_0, steps and noise.

        Each example has its own step. Those of a batch are stratified, one in each of B equal parts of 1..T.
        """
        label, x0 = known(batch, self.features)
        largest = float(np.abs(x0).max(initial=0.0))
        if self.clip is not None and largest > self.clip * (1 + 1e-6):  # last bits differ between machines
            raise ValueError(
                f"x0 contains {largest:.6g}, but clip is {self.clip:.6g}: sampling would never get there; scale the "
                "data to about unit variance, or give the process a larger clip"
            )
        u = np.minimum((np.arange(len(x0)) + rng.random()) / len(x0), np.nextafter(1.0, 0.0))  # not rounded up to 1
        return label, x0, 1 + np.floor(u * self.T).astype(np.int64), rng.standard_normal(x0.shape)

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """Mean square error of the prediction, a scalar (Ho et al. 2020, eq. 14, for "eps")."""
        label, x0, k, noise = draws
        target = join(x0, noise, *self.scales(k), self.predict)
        error = conditioned(model, label)(self.q_sample(x0, k, noise), k / self.T) - target
        return (error * error).mean()

    # --- the bound --------------------------------------------------------------------------------------------------

    def prior_term(self, x0: Floats) -> Floats:
        """L_T = KL(q(x_T | x_0) || N(0, 1)): (B, L, F) to (B,) nats."""
        left = self.alpha_bar[-1]
        return np.asarray(0.5 * (left * x0**2 - left - np.log1p(-left)).sum(axis=(1, 2)))

    def term(self, model: Model, x0: Floats, k: Ints | int, noise: Floats) -> Floats:
        """One term of the bound, for one draw of x_k: (B,) nats.

        L_{k-1} = KL(q(x_{k-1} | x_k, x_0) || p(x_{k-1} | x_k)); for k = 1, L_0 = -log p(x_0 | x_1). p is a Gaussian
        around the posterior mean of the guessed x_0, of variance beta_k.
        """
        k = np.broadcast_to(k, (len(x0),))
        xk = self.q_sample(x0, k, noise)
        guessed, _ = self.guess(model, xk, k)
        error = self.posterior(x0, xk, k - 1, k)[0] - self.posterior(guessed, xk, k - 1, k)[0]
        return np.asarray((error**2).sum(axis=(1, 2)) / (2 * self.beta[k]) + x0[0].size * self.constant[k])

    @property
    def eps_weight(self) -> Floats:
        """(T + 1,) weight of |eps - eps_hat|^2 in each term (Ho et al. 2020, eq. 12, with sigma_k^2 = beta_k)."""
        return np.asarray(self.beta / np.maximum(2 * (1 - self.beta) * (1 - self.alpha_bar), 1e-300))  # 0 at k = 0

    @property
    def constant(self) -> Floats:
        """(T + 1,) nats of each term and dimension that no guess changes.

        What the variance beta_k costs where q has another, (r - 1 - log r) / 2 with r their ratio; and the logarithm of
        the density's norm in L_0.
        """
        ratio = self._posterior_variance(np.arange(1, self.T), np.arange(2, self.T + 1)) / self.beta[2:]
        of_last = 0.5 * np.log(2 * math.pi * self.beta[1:2])
        return np.concatenate([[0.0], of_last, 0.5 * (ratio - 1 - np.log(ratio))])

    def bound(self, model: Model, batch: Batch | Floats, rng: np.random.Generator) -> Floats:
        """An unbiased estimate of each example's bound of -log p(x_0): (B, L, F) to (B,) nats per sequence.

        L_T, all constants, and what is left of one term, L_{k-1} / p(k). The step k is drawn with p(k) in proportion to
        eps_weight * alpha_bar, roughly what the terms are of a network that has learnt: uniform k would have a much
        larger variance.
        """
        model, x0 = unpacked(model, batch, self.features)
        p = (self.eps_weight * self.alpha_bar)[1:]
        p = p / p.sum()
        # Stratified over the batch and shuffled, so that each example on its own still sees a uniform variable.
        uniform = rng.permutation((np.arange(len(x0)) + rng.random(len(x0))) / len(x0))
        k = 1 + np.minimum(np.searchsorted(p.cumsum(), uniform, side="right"), self.T - 1)
        of_guess = self.term(model, x0, k, rng.standard_normal(x0.shape)) - x0[0].size * self.constant[k]
        return np.asarray(self.prior_term(x0) + x0[0].size * self.constant.sum() + of_guess / p[k - 1])

    # --- and back ---------------------------------------------------------------------------------------------------

    def sample(
        self,
        model: Model,
        length: int,
        batch: int = 1,
        *,
        decoder: DDIM | None = None,
        rng: np.random.Generator,
    ) -> Iterator[VectorFrame]:
        """Generate (batch, length, F) vectors from pure noise, yielding a frame per step.

        A step from k to j < k guesses (x_0, eps) and goes to sqrt(alpha_bar_j) x_0 + sqrt(1 - alpha_bar_j - sigma^2)
        eps plus fresh noise of variance sigma^2 = eta^2 Var(x_j | x_k, x_0) (Song, Meng and Ermon 2020, eq. 12).

        Parameters
        ----------
        decoder : a `decoders.DDIM`; by default all T steps with eta = 1, ancestral sampling

        """
        check_counts(length=length, batch=batch)
        chosen = suited(decoder, self.decoded_by, type(self).__name__)
        steps = self.T if chosen.steps is None else chosen.steps
        if steps > self.T:
            raise ValueError(f"steps is {steps}; expected 1 <= steps <= {self.T}, the number of noising steps")
        return self._generate(model, (batch, length, self.features), self.grid(steps), chosen, rng)

    def grid(self, steps: int) -> Ints:
        """The steps k of a chain that takes that many of the T, evenly spread, from T down to 0: (steps + 1,)."""
        return np.round(np.linspace(self.T, 0, steps + 1)).astype(np.int64)

    def _generate(
        self, model: Model, shape: tuple[int, ...], grid: Ints, how: DDIM, rng: np.random.Generator
    ) -> Iterator[VectorFrame]:
        steps = len(grid) - 1
        x = rng.standard_normal(shape)
        yield VectorFrame(0, steps, 1.0, x, np.zeros(shape))
        for step in range(1, steps + 1):
            k, j = int(grid[step - 1]), int(grid[step])
            x0, eps = self.guess(model, x, k, self.clip)
            x = self.step(x0, eps, j, k, how.eta, rng)
            if how.corrector is not None and j > 0:
                for _ in range(how.corrector.steps):
                    x = langevin_step(
                        x, self.score(model, x, j, self.clip), how.corrector.snr, rng, alpha=1 - float(self.beta[j])
                    )
            yield VectorFrame(step, steps, j / self.T, x, x0)

    def step(self, x0: Floats, eps: Floats, j: int, k: int, eta: float, rng: np.random.Generator) -> Floats:
        """x_j from the guesses (x_0, eps) at step k > j, see `sample`."""
        variance = eta**2 * float(self._posterior_variance(j, k))
        direction = math.sqrt(max(1 - float(self.alpha_bar[j]) - variance, 0.0))  # rounding may leave -1e-17
        x = math.sqrt(self.alpha_bar[j]) * x0 + direction * eps
        return np.asarray(x + math.sqrt(variance) * rng.standard_normal(x.shape)) if variance > 0 else np.asarray(x)


def langevin_step(x: Floats, score: Floats, snr: float, rng: np.random.Generator, alpha: float = 1.0) -> Floats:
    """One step towards the law whose score this is: x + d score + sqrt(2 d) z (Song et al. 2021, algorithms 4 and 5).

    d = 2 alpha (snr |z| / |score|)^2, with lengths averaged over the batch: the drift is snr sqrt(alpha) times as long
    as the noise.

    Parameters
    ----------
    alpha : 1 - beta_k where noise preserves the variance (algorithm 5), 1 where it adds to it (algorithm 4)

    """
    z = rng.standard_normal(x.shape)
    lengths = [np.sqrt((a**2).sum(axis=(1, 2))).mean() for a in (z, score)]
    d = 2 * alpha * (snr * lengths[0] / lengths[1]) ** 2
    return np.asarray(x + d * score + np.sqrt(2 * d) * z)
