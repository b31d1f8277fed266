"""Noise schedules: alpha(t), the probability that a token still carries its value at time t.

t runs from 0 (clean, alpha = 1) to 1 (pure noise, alpha = 0). A schedule also knows its derivative and its inverse, and
from them the weight of the continuous-time ELBO, w(t) = -alpha'(t) / (1 - alpha(t)) (Shi et al. 2024, eq. 4;
Sahoo et al. 2024, eq. 10).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike

from .arrays import Floats, check_counts


@dataclass(frozen=True)
class Schedule:
    """alpha(t) with its derivative and inverse; all take and return float64 arrays of any shape."""

    name: str
    _alpha: Callable[[Floats], Floats]
    _derivative: Callable[[Floats], Floats]
    _inverse: Callable[[Floats], Floats]
    options: dict[str, float] | None = None  # of a schedule in SCHEDULES, so that it can be made again

    def __post_init__(self) -> None:
        t = np.linspace(0, 1, 101)
        alpha = self._alpha(t)
        falls = np.diff(alpha) < 0
        if not (abs(alpha[0] - 1) < 1e-12 and alpha[-1] > -1e-12 and falls.all()):
            at = int(np.argmin(falls))
            raise ValueError(
                f"alpha of schedule {self.name!r} goes from {alpha[0]:g} at t = 0 to {alpha[-1]:g} at t = 1, and from "
                f"{alpha[at]:g} at t = {t[at]:g} to {alpha[at + 1]:g} next; expected to fall from 1 to 0 or more"
            )

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Schedules of this module are pickled by name: their functions cannot be."""
        if self.options is None:
            return super().__reduce_ex__(protocol)
        return partial(SCHEDULES[self.name], **self.options), ()

    def alpha(self, t: ArrayLike) -> Floats:
        """Probability that a token is still itself at time t in [0, 1]."""
        return self._alpha(_in_unit("t", t))

    def derivative(self, t: ArrayLike) -> Floats:
        """D alpha / dt, negative."""
        return self._derivative(_in_unit("t", t))

    def inverse(self, alpha: ArrayLike) -> Floats:
        """The t with alpha(t) = alpha; the nearer end for an alpha that the schedule does not reach."""
        last, first = self._ends
        return self._inverse(np.minimum(np.maximum(_in_unit("alpha", alpha), last), first))

    @cached_property
    def _ends(self) -> Floats:
        """Alpha at t = 1 and at t = 0: asked for once, as decoders want an inverse for every step."""
        return self.alpha(np.array([1.0, 0.0]))

    def weight(self, t: ArrayLike) -> Floats:
        """Weight of the masked cross-entropy in the ELBO, -alpha' / (1 - alpha), for 0 < t <= 1: infinite at 0."""
        if np.any(np.asarray(t) == 0):
            raise ValueError("t contains 0, where the weight is infinite; expected 0 < t <= 1")
        return np.asarray(-self.derivative(t) / (1 - self.alpha(t)))

    def grid(self, steps: int) -> Floats:
        """Alpha at t = 0, 1/steps, ..., 1, for a discrete chain of that many steps: (steps + 1,).

        The end is exactly 0, also for schedules that only come near: the chain ends in pure noise.
        """
        check_counts(steps=steps)
        alpha = self.alpha(np.linspace(0, 1, steps + 1))
        alpha[-1] = 0.0
        return alpha


def _in_unit(name: str, x: ArrayLike) -> Floats:
    array = np.asarray(x, np.float64)
    if not ((array >= 0) & (array <= 1)).all():
        raise ValueError(f"{name} contains {array[~((array >= 0) & (array <= 1))].flat[0]}; expected 0 <= {name} <= 1")
    return array


def linear() -> Schedule:
    """Alpha = 1 - t: the masked fraction is t itself, and w(t) = 1/t (LLaDA, Nie et al. 2025)."""
    return Schedule("linear", lambda t: 1 - t, lambda t: np.full_like(t, -1.0), lambda a: 1 - a, {})


def cosine() -> Schedule:
    """Alpha = 1 - sin(pi/2 t) = 1 - cos(pi/2 (1 - t)): few masks left for long, as in MaskGIT (Chang et al. 2022)."""
    return Schedule(
        "cosine",
        lambda t: 1 - np.sin(math.pi / 2 * t),
        lambda t: -math.pi / 2 * np.cos(math.pi / 2 * t),
        lambda a: 2 / math.pi * np.arcsin(1 - a),
        {},
    )


def loglinear(eps: float = 1e-3) -> Schedule:
    """Alpha = 1 - (1 - eps) t: total noise -log(alpha) stays finite, reaching -log(eps) (SEDD, Lou et al. 2023)."""
    if not 0 < eps < 1:
        raise ValueError(f"eps is {eps}; expected 0 < eps < 1")
    return Schedule(
        "loglinear",
        lambda t: 1 - (1 - eps) * t,
        lambda t: np.full_like(t, eps - 1),
        lambda a: (1 - a) / (1 - eps),
        {"eps": eps},
    )


def geometric(low: float = 1e-5, high: float = 20.0) -> Schedule:
    """Alpha = exp(low - low^(1-t) high^t): total noise grows by equal factors (SEDD, Lou et al. 2023).

    The paper's noise starts at `low`; taking that off makes t = 0 clean data, as it is everywhere here.
    """
    if not 0 < low < high:
        raise ValueError(f"low is {low} and high is {high}; expected 0 < low < high")
    ratio = math.log(high / low)

    def noise(t: Floats) -> Floats:
        return np.asarray(low ** (1 - t) * high**t)

    return Schedule(
        "geometric",
        lambda t: np.exp(low - noise(t)),
        lambda t: -ratio * noise(t) * np.exp(low - noise(t)),
        lambda a: np.log1p(-np.log(a) / low) / ratio,
        {"low": low, "high": high},
    )


def polynomial(power: float = 2.0) -> Schedule:
    """Alpha = 1 - t^power (Shi et al. 2024); power 1 is linear."""
    if not power > 0:
        raise ValueError(f"power is {power}; it must be positive")
    return Schedule(
        "polynomial",
        lambda t: 1 - t**power,
        lambda t: -power * t ** (power - 1),
        lambda a: (1 - a) ** (1 / power),
        {"power": power},
    )


SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "linear": linear,
    "cosine": cosine,
    "loglinear": loglinear,
    "geometric": geometric,
    "polynomial": polynomial,
}


def schedule(name: str) -> Schedule:
    """The schedule of that name, with its default parameters."""
    if name not in SCHEDULES:
        raise ValueError(f"schedule is {name!r}; expected one of {', '.join(SCHEDULES)}")
    return SCHEDULES[name]()
