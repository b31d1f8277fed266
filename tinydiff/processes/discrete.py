"""What all diffusion on tokens shares: noise that acts on each token alone, and a reverse chain that undoes it.

    q(x_t | x_s) = prod_i Q(level_t - level_s)[x_s^i, x_t^i]
    p_theta(x_s | x_t) = prod_i p_theta(x_s^i | x_t)

for any times s < t, so the same network serves chains of any number of steps. The bound of a chain with the times
0 = t_0 < ... < t_n = 1 is (Sohl-Dickstein et al. 2015; Austin et al. 2021, eq. 1)

    -log p(x_0) <= KL(q(x_1 | x_0) || prior) + sum_i E KL(q(x_s | x_t, x_0) || p_theta(x_s | x_t)),  s, t = t_{i-1}, t_i

whose last term, at i = 1, is -log p_theta(x_0 | x_{t_1}).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from .. import decoders, kernels
from ..arrays import Bools, Floats, Ints, check_counts
from ..data import Batch
from ..schedules import Schedule
from ..tensor import Tensor, no_grad
from ..transformer import Model
from . import transitions
from .divided import Divided
from .transitions import Transition

T_MIN = 1e-3
"""Training times start here: below it almost nothing is noised, and the weight of what is would swamp the gradient."""


class DiscreteDiffusion(Divided):
    """Base of the processes on tokens.

    Parameters
    ----------
    noise : what happens to one token, see `tinydiff.processes.transitions`
    schedule : alpha(t), the probability that a token survives

    """

    steps: int | None = None  # of the process itself; None for continuous time
    decoded_by: tuple[type[decoders.Decoder], ...]  # the first is the default
    any_order: bool = False  # whether it reveals positions one at a time in random order, whatever the schedule

    def __init__(self, noise: Transition, schedule: Schedule) -> None:
        if type(noise) not in (transitions.Uniform, transitions.Absorbing):  # O(V^2), and those are known to be right
            transitions.check_generator(noise.generator)
        self.noise, self.schedule = noise, schedule
        self.vocab_size, self.symbols = noise.vocab_size, noise.symbols
        self.mask_id = noise.vocab_size  # MASK where there is one, and for decoders whatever is to be filled

    @property
    def needs_time(self) -> bool:
        """Whether the network must be told t. Masks can be counted, other noise looks alike at every t."""
        return self.symbols == self.vocab_size

    # --- forward ------------------------------------------------------------------------------------------------------

    def alpha(self, t: ArrayLike) -> Floats:
        """Probability that a token survives until t. Masks cover everything at t = 1: a schedule short of 0 jumps."""
        alpha = self.schedule.alpha(t)
        return np.where(np.asarray(t) == 1, 0.0, alpha) if self.symbols > self.vocab_size else alpha

    def level(self, t: ArrayLike) -> Floats:
        """The amount of noise at time t, from 0 (clean); any shape."""
        return self.noise.level(self.alpha(t))

    def grid(self, steps: int) -> Floats:
        """The times of a chain of that many steps, from 0 to 1: (steps + 1,)."""
        check_counts(steps=steps)
        return np.linspace(0, 1, steps + 1)

    def forward(self, s: float, t: float) -> Floats:
        """q(x_t | x_s) of a single token, row-stochastic: (S, S)."""
        return transitions.matrix(self.noise, float(self.level(t)) - float(self.level(s)))

    def rates(self, t: float) -> Floats:
        """The rates at which a token changes at time t, rows summing to zero: (S, S). For oracles, continuous time."""
        return np.asarray(self.speed(t) * self.noise.generator)

    def speed(self, t: ArrayLike) -> Floats:
        """D level / dt for noise whose level is -log(alpha)."""
        return np.asarray(-self.schedule.derivative(t) / self.schedule.alpha(t))

    @property
    def prior(self) -> Floats:
        """Law that the reverse chain draws each position of x_1 from: the noise of random tokens, (S,).

        All MASK or uniform. Where the noise stops short of that, it is the mixture that the forward chain ends in if
        tokens are uniform; a prior of pure MASK would then make the bound infinite.
        """
        token = np.full((1, 1, self.symbols), 1 / self.vocab_size)
        token[..., self.vocab_size :] = 0
        return np.asarray(self.noise.push(Tensor(token), self.level(np.ones(1))).data[0, 0])

    def corrupt(self, x0: Ints, t: Floats, rng: np.random.Generator, given: Bools | None = None) -> Ints:
        """Draw x_t given x_0: (B, L) ids and (B,) times in [0, 1] to (B, L) ids; `given` positions stay clean."""
        x0 = self._checked(x0)
        if np.shape(t) != (len(x0),):
            raise ValueError(f"t has shape {np.shape(t)}; expected ({len(x0)},), one time per sequence")
        xt = self.noise.draw(self.level(t)[:, None], x0, rng)
        return xt if given is None else np.where(given, x0, xt)

    # --- reverse ------------------------------------------------------------------------------------------------------

    def reverse(self, model: Model, xt: Ints, t: ArrayLike, s: ArrayLike, draw: decoders.Draw | None = None) -> Floats:
        """p_theta(x_s^i | x_t) of every position, float64: (B, L) ids and times (B,) or scalars to (B, L, S).

        Parameters
        ----------
        draw : changes the probabilities of the denoiser, for sampling only

        """
        t, s = (np.broadcast_to(np.asarray(time, np.float64), (len(xt),)) for time in (t, s))
        with no_grad():
            logits = model(xt, t).data
            p = (draw or decoders.Draw()).probabilities(logits.reshape(-1, logits.shape[-1])).reshape(logits.shape)
            return transitions.reverse(self.noise, Tensor(p), xt, self.level(s), self.level(t)).data

    def score(self, model: Model, xt: Ints, t: ArrayLike) -> Floats:
        """The concrete score p_t(x with position i set to y) / p_t(x), float64: (B, L) ids to (B, L, S).

        p_t(y | other positions) is what those say about x_0^i, noised, and the score is that law over its value at
        x_t^i itself.
        """
        level = self.level(np.broadcast_to(np.asarray(t, np.float64), (len(xt),)))
        return transitions.concrete_score(self.noise, token_probabilities(model, xt, t), xt, level)

    def reverse_rates(self, model: Model, xt: Ints, t: float) -> Floats:
        """Rate of each position going to each other symbol, back in time: (B, L) ids to (B, L, S), 0 for x_t itself.

        R_t(y, x) p_t(y) / p_t(x): the forward rates times the concrete score (Campbell et al. 2022, proposition 1).
        """
        rates = self.speed(t) * self.noise.into(xt) * self.score(model, xt, t)
        np.put_along_axis(rates, xt[..., None], 0, axis=-1)
        return np.asarray(rates)

    def chain_bound(self, model: Model, batch: Batch | Ints, rng: np.random.Generator, steps: int) -> Floats:
        """One unbiased estimate of the bound of the chain of that many steps: (B,) nats per sequence.

        One of its terms is computed for each sequence, drawn uniformly, stratified over the batch, and multiplied by
        `steps`.
        """
        model, x0, free = self.unpacked(model, batch)
        times = self.grid(steps)
        i = 1 + np.floor(stratified(len(x0), rng) * steps).astype(np.int64)
        t, s = times[i], times[i - 1]
        noised = self.corrupt(x0, t, rng)
        xt = np.where(free, noised, x0)
        q = transitions.posterior(self.noise, x0, noised, self.level(s)[:, None], self.level(t)[:, None])
        terms = np.where(free, divergence(q, self.reverse(model, xt, t, s)), 0).sum(axis=1)
        return np.asarray(steps * terms + self.prior_term(x0, free))

    def prior_term(self, x0: Ints, free: Bools | None = None) -> Floats:
        """L_T = KL(q(x_1 | x_0) || prior) in nats, of the positions that are free: (B, L) ids to (B,)."""
        tokens, at = np.unique(x0, return_inverse=True)
        level, prior = self.level(1.0), self.prior
        per_token = np.array([divergence(self.noise.rows(level, token), prior) for token in tokens])
        return np.asarray(np.where(True if free is None else free, per_token[at].reshape(x0.shape), 0).sum(axis=1))

    # --- sampling -----------------------------------------------------------------------------------------------------

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
        """Generate (batch, length) ids, yielding a frame per step.

        Parameters
        ----------
        decoder : one of `decoded_by`, see `tinydiff.decoders`; by default the first of them with its default options
        x0, given : (L,) or (B, L) token ids, and where they are known beforehand: those positions stay as they are
        allowed : (L, V) or (B, L, V), True for the tokens that a position may hold

        """
        self.check_suits(model)
        chosen = decoders.suited(decoder, self.decoded_by, type(self).__name__)
        canvas = decoders.Canvas.of(length, batch, self.mask_id, x0=x0, given=given, allowed=allowed)
        return chosen(self, decoders.constrained(model, canvas.allowed), canvas, rng)

    def known(self, batch: Batch | Ints) -> tuple[Ints | None, Ints, Bools]:
        """The labels of the batch, (B,) or None; its ids; and which of them are free, that is not given: (B, L)."""
        batch = Batch.of(batch)
        x0 = self._checked(batch.x0)
        free = np.ones(x0.shape, bool) if batch.given is None else ~batch.given
        return batch.label, x0, free

    def told(self, model: Model, label: Ints | None) -> Model:
        """The model, told the labels; ValueError if it is of another vocabulary."""
        self.check_suits(model)
        return decoders.conditioned(model, label)

    def unpacked(self, model: Model, batch: Batch | Ints) -> tuple[Model, Ints, Bools]:
        """The model, told the labels of the batch; its ids; and which of them are free, that is not given: (B, L)."""
        told = self.told(model, Batch.of(batch).label)
        _, x0, free = self.known(batch)
        return told, x0, free

    def check_suits(self, model: Model) -> None:
        """A model of another vocabulary would take a token for MASK, or MASK for a token, and say nothing."""
        theirs = getattr(model, "vocab_size", self.vocab_size)
        if theirs != self.vocab_size:
            raise ValueError(
                f"vocab_size is {theirs} for the model and {self.vocab_size} for the process; expected the number of "
                "real tokens for both, as the model makes room for MASK by itself"
            )

    def _checked(self, x0: Ints) -> Ints:
        x0 = np.asarray(x0)
        if x0.ndim != 2 or x0.dtype.kind not in "iu":
            raise ValueError(f"x0 has shape {x0.shape} and dtype {x0.dtype}; expected (B, L) token ids")
        if x0.size and not (x0.min() >= 0 and x0.max() < self.vocab_size):
            raise ValueError(
                f"x0 contains {x0.max() if x0.max() >= self.vocab_size else x0.min()}; "
                f"expected 0 <= id < {self.vocab_size}"
            )
        return x0.astype(np.int64, copy=False)


Spread = Literal["stratified", "antithetic", "independent"]


def uniforms(batch: int, rng: np.random.Generator, spread: Spread) -> Floats:
    """Uniform numbers in [0, 1) for a batch: "stratified", "antithetic" (pairs u, 1 - u) or "independent".

    Each number on its own is uniform, so estimates stay unbiased; their mean over the batch varies less if they are
    spread out: stratified always, antithetic for monotone integrands.
    """
    if spread == "stratified":
        return stratified(batch, rng)
    if spread == "antithetic":
        u = rng.random((batch + 1) // 2)
        return np.concatenate([u, np.nextafter(1.0, 0.0) - u])[:batch]
    if spread == "independent":
        return rng.random(batch)
    raise ValueError(f"spread is {spread!r}; expected 'stratified', 'antithetic' or 'independent'")


def stratified(batch: int, rng: np.random.Generator) -> Floats:
    """Uniform numbers in [0, 1), one in each of `batch` equal parts, shuffled: each place on its own is uniform."""
    u = (np.arange(batch) + rng.random(batch)) / batch
    return rng.permutation(np.minimum(u, np.nextafter(1.0, 0.0)))  # the last one may be rounded up to 1


def share(free: Bools) -> Floats:
    """L / A of each sequence with A of its L positions free, (B,): makes a mean over positions one over free ones."""
    return np.asarray(free.shape[1] / free.sum(axis=1))


def ranks(free: Bools, rng: np.random.Generator) -> Ints:
    """A random order of the free positions of each sequence, as the rank of each position, the given ones last."""
    order = np.where(free, rng.random(free.shape), 1.0)  # a draw is below 1
    return np.asarray(order.argsort(axis=1, kind="stable").argsort(axis=1, kind="stable"))


def divergence(q: Floats, p: Floats) -> Floats:
    """KL(q || p) over the last axis, with 0 log 0 = 0 and infinity where p misses a state of q."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(q > 0, q * (np.log(q) - np.log(p)), 0)
    return np.asarray(terms.sum(axis=-1))


def token_probabilities(model: Model, x: Ints, t: ArrayLike) -> Floats:
    """The softmax of a model's answer in float64: (B, L) ids and times (B,) or a scalar to (B, L, V)."""
    with no_grad():
        logits = model(x, np.broadcast_to(np.asarray(t, np.float64), (len(x),))).data.astype(np.float64)
    return kernels.softmax(logits)
