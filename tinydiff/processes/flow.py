"""Flow matching (Lipman et al. 2023; rectified flow, Liu et al. 2023; stochastic interpolants, Albergo et al. 2023).

Data and noise are joined by a straight line, x_t = (1 - t) x_0 + t eps, and the network learns the line's slope:

    loss = E |u_theta(x_t, t) - (eps - x_0)|^2

Its best answer is the mean slope of all lines through x_t, u(x_t, t) = E[eps - x_0 | x_t]. Following dx/dt = u from
noise at t = 1 to t = 0 gives data: an ordinary differential equation, solved in a few steps, with nothing random but
its start. It also gives the likelihood, because along the way log p_t changes by the divergence of u (Chen et al.
2018):

    log p_0(x_0) = log N(x_1; 0, 1) + integral_0^1 div u(x_t, t) dt

Here as everywhere in this library t = 0 is data and t = 1 is noise. The papers run time the other way, so their t is
1 - t and their velocity -u.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np

from ..arrays import Floats, Ints, check_counts
from ..data import Batch
from ..decoders import ODE, Solver, conditioned, suited
from ..tensor import Tensor, no_grad
from ..transformer import Model
from .divided import Divided, Draws
from .paths import VectorFrame, checked, known, split, unpacked

Slope: TypeAlias = Callable[[Floats, float], Floats]
"""(x, t) -> dx/dt, of the shape of x."""

EXACT_TRACE = 8
"""`bound` takes the exact divergence up to this many numbers per example, one pass each, and an estimate beyond."""


def euler(slope: Slope, x: Floats, t: float, h: float) -> Floats:
    """One step of size h along the slope at its start: error of order h, 1 evaluation."""
    return x + h * slope(x, t)


def heun(slope: Slope, x: Floats, t: float, h: float) -> Floats:
    """One step along the mean of the slopes at both ends: order h^2, 2 evaluations."""
    first = slope(x, t)
    return np.asarray(x + h / 2 * (first + slope(x + h * first, t + h)))


def rk4(slope: Slope, x: Floats, t: float, h: float) -> Floats:
    """One step of the classical Runge-Kutta method: order h^4, 4 evaluations."""
    a = slope(x, t)
    b = slope(x + h / 2 * a, t + h / 2)
    c = slope(x + h / 2 * b, t + h / 2)
    return np.asarray(x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, t + h)))


SOLVERS: dict[Solver, Callable[[Slope, Floats, float, float], Floats]] = {"euler": euler, "heun": heun, "rk4": rk4}


class FlowMatching(Divided):
    """Flow matching of (B, L, F) vectors.

    Parameters
    ----------
    features : size F of the vector at each position
    pairing : which noise a datum is joined with in training: "independent", or "optimal", a pairing of each batch
        without crossings, see `uncross`, which makes the flow straighter (Tong et al. 2024; Pooladian et al. 2023)

    """

    needs_time = True
    decoded_by: tuple[type[ODE], ...] = (ODE,)

    def __init__(self, features: int, pairing: Literal["independent", "optimal"] = "independent") -> None:
        check_counts(features=features)
        if pairing not in ("independent", "optimal"):
            raise ValueError(f"pairing is {pairing!r}; expected 'independent' or 'optimal'")
        self.features, self.pairing = features, pairing

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again."""
        return {"process": "flow", "features": self.features, "pairing": self.pairing}

    def corrupt(self, x0: Floats, t: Floats, rng: np.random.Generator) -> Floats:
        """Draw x_t given x_0: (B, L, F) and (B,) times in [0, 1] to (B, L, F)."""
        x0, t = checked(x0, self.features), np.asarray(t, np.float64)
        if t.shape != (len(x0),) or not ((t >= 0) & (t <= 1)).all():
            raise ValueError(f"t has shape {t.shape} and values {t}; expected ({len(x0)},) times in [0, 1]")
        return self.q_sample(x0, t, rng.standard_normal(x0.shape))

    def q_sample(self, x0: Floats, t: Floats, noise: Floats) -> Floats:
        """x_t = (1 - t) x_0 + t noise."""
        t = t[:, None, None]
        return np.asarray((1 - t) * x0 + t * noise)

    def draw(self, batch: Batch | Floats, rng: np.random.Generator) -> Draws:
        """Labels, x_0, times, stratified over the batch, and the noise that each example is joined with."""
        label, x0 = known(batch, self.features)
        t = (np.arange(len(x0)) + rng.random()) / len(x0)
        noise = rng.standard_normal(x0.shape)
        if self.pairing == "optimal":
            noise = noise[uncross(x0.reshape(len(x0), -1), noise.reshape(len(x0), -1))]
        return label, x0, t, noise

    def loss_of(self, model: Model, draws: Draws) -> Tensor:
        """Mean square error of the velocity, a scalar (Lipman et al. 2023, eq. 23, with no noise left at t = 0)."""
        label, x0, t, noise = draws
        error = conditioned(model, label)(self.q_sample(x0, t, noise), t) - (noise - x0)
        loss: Tensor = (error * error).mean()
        return loss

    def velocity(self, model: Model, x: Floats, t: float) -> Floats:
        """The network's dx/dt at one time for all: (B, L, F)."""
        with no_grad():
            u = model(x, np.full(len(x), t)).data.astype(np.float64)
        if not np.isfinite(u).all():
            raise ValueError("the model's output contains NaN or inf: its weights are broken or training diverged")
        return u

    def score(self, model: Model, x: Floats, t: float) -> Floats:
        """The network's grad log p_t(x_t) = -E[eps | x_t] / t, for t > 0: (B, L, F). For independent pairing only."""
        if self.pairing != "independent":
            raise ValueError(
                f"pairing is {self.pairing!r}, under which noise depends on the data, so that the velocity tells no "
                "score; train with 'independent'"
            )
        if not 0 < t <= 1:
            raise ValueError(f"t is {t}; expected 0 < t <= 1, since there is no noise at 0")
        _, eps = split(x, self.velocity(model, x, t), 1 - t, t, "velocity")
        return np.asarray(-eps / t)

    def sample(
        self,
        model: Model,
        length: int,
        batch: int = 1,
        *,
        decoder: ODE | None = None,
        rng: np.random.Generator,
    ) -> Iterator[VectorFrame]:
        """Generate (batch, length, F) vectors from pure noise, yielding a frame per step.

        Parameters
        ----------
        decoder : a `decoders.ODE`, by default 10 steps of Heun's method

        """
        check_counts(length=length, batch=batch)
        how = suited(decoder, self.decoded_by, type(self).__name__)
        x = rng.standard_normal((batch, length, self.features))
        return self._generate(model, x, how.steps, SOLVERS[how.solver])

    def _generate(
        self, model: Model, x: Floats, steps: int, solver: Callable[[Slope, Floats, float, float], Floats]
    ) -> Iterator[VectorFrame]:
        yield VectorFrame(0, steps, 1.0, x, np.zeros_like(x))
        guesses: list[Floats] = []

        def slope(x: Floats, t: float) -> Floats:
            u = self.velocity(model, x, t)
            guesses.append(x - t * u)  # x_t = x_0 + t (eps - x_0)
            return u

        for step in range(1, steps + 1):
            guesses.clear()
            t, after = 1 - (step - 1) / steps, 1 - step / steps
            x = solver(slope, x, t, after - t)
            yield VectorFrame(step, steps, after, x, guesses[0])

    def nll(
        self,
        model: Model,
        x0: Floats,
        *,
        steps: int = 10,
        solver: Solver = "rk4",
        rng: np.random.Generator | None = None,
    ) -> Floats:
        """-log p(x_0) under the flow, up to the solver's error: (B, L, F) to (B,) nats per sequence.

        Parameters
        ----------
        rng : None takes the exact divergence, with a backward pass for each of the L F numbers. A generator takes
            Hutchinson's estimate z^T J z with one random sign vector z per example, in one pass: unbiased for the
            integral, with more variance (Grathwohl et al. 2019)

        """
        x0 = checked(x0, self.features)
        check_counts(steps=steps)
        step = SOLVERS[ODE(steps, solver).solver]
        size = x0[0].size
        if rng is None:
            probes = [np.broadcast_to(one.reshape(x0[0].shape), x0.shape) for one in np.eye(size)]
        else:
            probes = [rng.choice([-1.0, 1.0], x0.shape)]

        def slope(state: Floats, t: float) -> Floats:
            """d/dt of the state: x and, in a last column, the integral of the divergence."""
            x = Tensor(state[:, :-1].reshape(x0.shape), requires_grad=True)
            u = model(x, np.full(len(x0), t))
            divergence = sum(
                (z * u.gradient(x, z.astype(u.dtype))).sum(axis=(1, 2)) for z in probes
            )  # z^T (du/dx) z, and the sum over unit vectors z is the trace
            return np.column_stack([u.data.reshape(len(x0), size), divergence])

        state = np.column_stack([x0.reshape(len(x0), size), np.zeros(len(x0))])
        for i in range(steps):
            state = step(slope, state, i / steps, 1 / steps)
        noise, integral = state[:, :-1], state[:, -1]
        return np.asarray(0.5 * (noise**2).sum(axis=1) + 0.5 * size * math.log(2 * math.pi) - integral)

    def bound(self, model: Model, batch: Batch | Floats, rng: np.random.Generator) -> Floats:
        """-log p(x_0) itself, see `nll`: (B, L, F) to (B,) nats per sequence."""
        model, x0 = unpacked(model, batch, self.features)
        return self.nll(model, x0, rng=None if x0[0].size <= EXACT_TRACE else rng)


def uncross(x: Floats, y: Floats, sweeps: int = 2) -> Ints:
    """A permutation p under which the paths x[i] -> y[p[i]] are short: (B, D), (B, D) to (B,).

    Whenever two paths would be shorter in sum of squares with their ends exchanged, exchange them: where that can no
    longer happen, no two paths cross. That is nearly the optimal transport between the two batches and needs only
    NumPy; the optimal assignment itself would take B^3 steps. One sweep asks every pair once, in B rounds of B / 2
    pairs that do not touch each other; it ends early if nothing changed.
    """
    n = len(x)
    p = np.arange(n)
    cost = -2 * x @ y.T  # the squares of |x - y|^2 are the same for every pairing
    for _ in range(sweeps):
        changed = False
        for shift in range(n):
            i = np.arange(n)
            j = (shift - i) % n  # an involution: i <-> j
            i, j = i[i < j], j[i < j]
            better = cost[i, p[j]] + cost[j, p[i]] < cost[i, p[i]] + cost[j, p[j]] - 1e-12
            i, j = i[better], j[better]
            p[i], p[j] = p[j], p[i]
            changed |= len(i) > 0
        if not changed:
            break
    return p
