"""Points in the plane whose law is known: a point is a sequence of two coordinates, (L, F) = (2, 1).

All are centred and of about unit variance, as the noise is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..arrays import Floats, check_counts
from .vectors import Vectors

TRAIN, HELD_OUT = 50_000, 5_000
SEED = 0
RECIPE = {
    "process": "ddpm", "length": 2, "steps": 2000, "batch": 256, "layers": 2, "heads": 2, "optimiser": "adamw",
    "evaluate_every": 1000,
}  # fmt: skip


@dataclass(frozen=True)
class GaussianMixture:
    """A mixture of round Gaussians in D dimensions, of which everything is known at every noise level.

    With x_t = a x_0 + s eps, x_t follows a mixture too, of means a m_i and variances a^2 sigma_i^2 + s^2.

    Attributes
    ----------
    weights, means, sigmas : (K,), (K, D), (K,)

    """

    weights: Floats
    means: Floats
    sigmas: Floats

    def sample(self, n: int, rng: np.random.Generator) -> Floats:
        """Draw (n, D) points."""
        i = rng.choice(len(self.weights), n, p=self.weights)
        return np.asarray(self.means[i] + self.sigmas[i, None] * rng.standard_normal((n, self.means.shape[1])))

    def _parts(self, x: Floats, a: float, s: float) -> tuple[Floats, Floats, Floats]:
        """log(weight_i density_i(x)), (n, K); x - mean, (n, K, D); variances, (K,)."""
        variance = (a * self.sigmas) ** 2 + s**2
        away = x[:, None] - a * self.means
        constant = np.log(self.weights) - 0.5 * x.shape[1] * np.log(2 * math.pi * variance)
        return constant - 0.5 * (away**2).sum(axis=-1) / variance, away, variance

    def log_density(self, x: Floats, a: float = 1.0, s: float = 0.0) -> Floats:
        """log p_t(x): (n, D) to (n,) nats."""
        logs, _, _ = self._parts(x, a, s)
        top = logs.max(axis=1)
        return np.asarray(top + np.log(np.exp(logs - top[:, None]).sum(axis=1)))

    def score(self, x: Floats, a: float = 1.0, s: float = 0.0) -> Floats:
        """grad log p_t(x): (n, D) to (n, D)."""
        logs, away, variance = self._parts(x, a, s)
        share = np.exp(logs - self.log_density(x, a, s)[:, None])  # p(component | x)
        return np.asarray(-(share[:, :, None] * away / variance[:, None]).sum(axis=1))


def ring(components: int = 8, radius: float = 1.35, sigma: float = 0.15) -> GaussianMixture:
    """Equal Gaussians on a circle."""
    angle = 2 * math.pi * np.arange(components) / components
    means = radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return GaussianMixture(np.full(components, 1 / components), means, np.full(components, sigma))


def mixture(n: int, rng: np.random.Generator) -> Floats:
    """The Gaussians of `ring`, whose exact score is known."""
    return ring().sample(n, rng)


def moons(n: int, rng: np.random.Generator) -> Floats:
    """Two half circles that reach into each other."""
    angle, lower = math.pi * rng.random(n), rng.random(n) < 0.5
    x = np.where(lower, 1 - np.cos(angle), np.cos(angle)) - 0.5
    y = np.where(lower, 0.5 - np.sin(angle), np.sin(angle)) - 0.25
    points = np.stack([1.15 * x, 2.0 * y], axis=1)
    return np.asarray(points + 0.08 * rng.standard_normal((n, 2)))


def spiral(n: int, rng: np.random.Generator) -> Floats:
    """One and a half turns outwards, evenly along the way."""
    angle = 3 * math.pi * np.sqrt(rng.random(n))
    points = angle[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) / (1.5 * math.pi)
    return np.asarray(points - [-0.09, 0.405] + 0.06 * rng.standard_normal((n, 2)))  # less their mean


def checkerboard(n: int, rng: np.random.Generator) -> Floats:
    """The dark squares of a board of four by four."""
    column, row = rng.integers(0, 4, n), 2 * rng.integers(0, 2, n)
    corner = np.stack([column, row + column % 2], axis=1)
    return np.asarray((corner + rng.random((n, 2)) - 2) * 0.9)


def pinwheel(n: int, rng: np.random.Generator) -> Floats:
    """Five bent arms."""
    radius = 1 + 0.3 * rng.standard_normal(n)
    angle = 2 * math.pi / 5 * rng.integers(0, 5, n) + 0.25 * np.exp(radius)
    across = 0.1 * rng.standard_normal(n)
    points = np.stack(
        [radius * np.cos(angle) - across * np.sin(angle), radius * np.sin(angle) + across * np.cos(angle)], axis=1
    )
    return np.asarray(1.3 * points)


TOYS = {"mixture": mixture, "moons": moons, "spiral": spiral, "checkerboard": checkerboard, "pinwheel": pinwheel}


def points(name: str, n: int, rng: np.random.Generator) -> Floats:
    """Draw points of a toy as sequences of coordinates, (n, 2, 1)."""
    if name not in TOYS:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(TOYS)}")
    check_counts(n=n)
    return TOYS[name](n, rng)[:, :, None]


def load(name: str) -> Vectors:
    """A toy as a data set: the same points every time."""
    rng = np.random.default_rng(SEED)
    return Vectors(name, points(name, TRAIN, rng), points(name, HELD_OUT, rng), recipe=RECIPE)
