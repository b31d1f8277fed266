"""What an estimate of the ELBO does, by listing its draws: mean and variance, and of the margin between two answers.

An estimate is the mean over n_t noise levels of the mean over n_y sets of masks at each, of

    v(S) = weight sum_{i in S} log p(x0^i | what S leaves visible)

so its variance is Var_t / n_t + E_t[Var_y] / (n_t n_y) (LLaDA 1.5, Zhu et al. 2025, lemma 5), where Var_t is that
of the mean at a level and Var_y that of the masks there. With the masks shared between a model and its reference v is
the difference of theirs, and without the variances add.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..processes.discrete import T_MIN, DiscreteDiffusion
from ..transformer import Model
from .masked import masked_cross_entropy, masks_probability

NODES = 64


@dataclass(frozen=True)
class Draws:
    """How a bound is estimated: the options of `learning.preferences.Objective` of the same names.

    Attributes
    ----------
    t_min : the least rate of "time"

    """

    times: int = 1
    masks: int = 1
    estimator: str = "count"
    shared: bool = True
    t_min: float = T_MIN


def spread(values: Floats, masks: Bools, estimator: str = "count", t_min: float = T_MIN) -> tuple[float, float, float]:
    """Mean, Var_t and E_t[Var_y] of one draw of v.

    Parameters
    ----------
    values : (2^A,) sums of log p over each set of masks, without weight
    masks : (2^A, A), the sets
    estimator : "count" or "time", see `Objective`
    t_min : the least rate of "time"

    """
    mean, square, chance = _levels(values, masks, estimator, t_min)
    total = float(chance @ mean)
    return total, float(chance @ mean**2) - total**2, float(chance @ (square - mean**2))


def estimate_moments(values: Floats, masks: Bools, draws: Draws) -> tuple[float, float]:
    """Mean and variance of the whole estimate."""
    if draws.estimator == "complementary":
        k, n = masks.sum(axis=1), masks.shape[1]
        others = values[::-1]  # sets are listed in counting order, so a set counted from the end is its complement
        joined = (n - 1) / 2 * (values / np.maximum(k, 1) + others / np.maximum(n - k, 1)) + values[-1] / n
        of = [joined[k == i] for i in range(1, n)]
        of_times, of_masks = np.var([v.mean() for v in of]), np.mean([v.var() for v in of])
        return float(np.mean([v.mean() for v in of])), float(of_times + of_masks / draws.masks) / draws.times
    if draws.estimator != "stratified":
        mean, of_times, of_masks = spread(values, masks, draws.estimator, draws.t_min)
        return mean, of_times / draws.times + of_masks / draws.times / draws.masks
    means, squares, _ = _levels(values, masks, "count", draws.t_min)
    levels, n = len(means), draws.times
    borders = np.arange(levels + 1) / levels
    mean = variance = 0.0
    for j in range(n):
        inside = np.clip(np.minimum(borders[1:], (j + 1) / n) - np.maximum(borders[:-1], j / n), 0, None) * n
        here = float(inside @ means)
        mean += here / n
        variance += (inside @ means**2 - here**2 + inside @ (squares - means**2) / draws.masks) / n**2
    return mean, float(variance)


def margin_moments(
    process: DiscreteDiffusion, model: Model, reference: Model, chosen: Ints, rejected: Ints, draws: Draws,
    given: Bools | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Mean and variance of the estimated margin between two answers, (L,) ids each, in nats."""
    mean = variance = 0.0
    for sign, x0 in ((1, chosen), (-1, rejected)):
        ours, masks = masked_cross_entropy(process, model, x0[None], 0.5, given)
        theirs, _ = masked_cross_entropy(process, reference, x0[None], 0.5, given)
        parts = [theirs[0] - ours[0]] if draws.shared else [-ours[0], theirs[0]]
        for values in parts:
            m, v = estimate_moments(values, masks, draws)
            mean, variance = mean + sign * m, variance + v
    return mean, variance


def _levels(values: Floats, masks: Bools, estimator: str, t_min: float) -> tuple[Floats, Floats, Floats]:
    """Mean and mean square of v at each noise level, and the probability of the level."""
    k, n = masks.sum(axis=1), masks.shape[1]
    if estimator == "count":
        of = [n / i * values[k == i] for i in range(1, n + 1)]
        return np.array([v.mean() for v in of]), np.array([(v**2).mean() for v in of]), np.full(n, 1 / n)
    if estimator != "time":
        raise ValueError(f"estimator is {estimator!r}; expected 'count' or 'time'")
    points, weights = np.polynomial.legendre.leggauss(NODES)  # over log t: the squares go like 1 / t
    low = np.log(t_min)
    t = np.exp(low * (1 - points) / 2)
    chance = weights / 2 * -low * t / (1 - t_min)
    q = np.stack([masks_probability(masks, 1 - rate) for rate in t])  # (nodes, 2^A)
    return q @ values / t, q @ values**2 / t**2, chance
