"""Continuous time: the law and the bound of a reverse process given by its rates.

The law p of the state obeys Kolmogorov's equation, dp/dt = -p R_theta(t) run from t = 1 down to 0, where
R_theta(t)[x, y] is the rate of going from x to y, one position at a time. The bound compares those rates with the true
ones given x_0 (Campbell et al. 2022, proposition 2):

    NELBO = KL(q(x_1 | x_0) || prior) + integral E_{x_t} sum_{y != x_t} [ r_theta - r_q + r_q log(r_q / r_theta) ] dt

Rates towards x_0 grow like 1/t, so time is cut into pieces that halve towards 0, each with its own quadrature, and what
is left at t = 2^-26 is one step of the chain. So is a jump at t = 1, where masks of a schedule that ends above 0 start.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..processes.discrete import DiscreteDiffusion
from ..transformer import Model
from .chain import clamped, expected, prior_nelbo, start_law, step_nelbo, walk
from .states import all_sequences

LAST = float(np.nextafter(1.0, 0.0))
FIRST = 2.0**-26
STAGES = 8
_POINTS, _WEIGHTS = (np.polynomial.legendre.leggauss(STAGES)[0] + 1) / 2, np.polynomial.legendre.leggauss(STAGES)[1] / 2
# Integrals from 0 to each point of the polynomials that are 1 at one of the points and 0 at the others.
_UNTIL = np.array(
    [[np.polyval(np.polyint(np.linalg.solve(np.vander(_POINTS), e)), c) for e in np.eye(STAGES)] for c in _POINTS]
)


def pieces(process: DiscreteDiffusion) -> Floats:
    """Times from FIRST to 1 between which neither t nor the noise changes much."""
    ends = np.concatenate([2.0 ** -np.arange(26, 4, -1), np.linspace(1 / 16, 1, 16)])
    noise = np.minimum(process.level(ends), 20.0)
    parts = [
        np.linspace(low, high, math.ceil(2 * amount) + 1)[:-1]
        for low, high, amount in zip(ends[:-1], ends[1:], np.diff(noise), strict=True)
    ]
    return np.append(np.concatenate(parts), 1.0)


def jumps(process: DiscreteDiffusion) -> bool:
    """Whether noise is left to be added at t = 1 itself."""
    return bool(process.level(LAST) < process.level(1.0))


def generator(rates: Floats, states: Ints) -> Floats:
    """The S^L x S^L rate matrix from the rates of each position to each symbol, (S^L, L, S)."""
    n, length, symbols = rates.shape
    place = symbols ** np.arange(length)[::-1]
    r = np.zeros((n, n))
    for i in range(length):
        target = np.arange(n)[:, None] + (np.arange(symbols) - states[:, i, None]) * place[i]
        away = np.where(np.arange(symbols) == states[:, i, None], 0, rates[:, i])
        np.put_along_axis(r, target, np.take_along_axis(r, target, 1) + away, 1)
    np.fill_diagonal(r, 0)
    np.fill_diagonal(r, -r.sum(axis=1))
    return r


def continuous_law(
    process: DiscreteDiffusion,
    model: Model,
    length: int,
    start: Floats | None = None,
    given: Bools | None = None,
) -> Floats:
    """p(x_0) of every sequence of real tokens, in the order of `all_sequences`: (V^L,).

    Gauss collocation with 8 stages, of order 16, solved by fixed-point iteration.

    Parameters
    ----------
    start : (S^L,) law of x_1; default the process's prior
    given : (L,), positions that stay as they are: then p(free | given), 1 in sum for each of their contents

    """
    states = all_sequences(process.symbols, length)
    reverse = clamped(process, model, given)
    moves = np.ones(length) if given is None else ~given
    law = start_law(process, length, given) if start is None else start
    if jumps(process):
        law = walk(reverse, law, states, np.array([LAST, 1.0]))
    for high, low in itertools.pairwise(pieces(process)[::-1]):
        span = high - low
        times = high - span * _POINTS
        rates = [moves[:, None] * process.reverse_rates(model, states, float(t)) for t in times]
        r = np.stack([generator(rate, states) for rate in rates])  # (8, N, N)
        slope = np.einsum("n,inm->im", law, r)
        for _ in range(200):
            new = np.einsum("in,inm->im", law + span * (_UNTIL @ slope), r)
            change, slope = np.abs(new - slope).max(), new
            if change * span < 1e-14:
                break
        else:
            raise RuntimeError(f"Kolmogorov's equation did not converge between t = {low} and {high}: rates too large")
        law = law + span * (_WEIGHTS @ slope)
    law = walk(reverse, law, states, np.array([0.0, FIRST]))
    return np.asarray(law[(states < process.vocab_size).all(axis=1)])


def continuous_nelbo(process: DiscreteDiffusion, model: Model, x0: Ints, given: Bools | None = None) -> Floats:
    """The bound above for sequences (n, L), in nats (n,); with `given` (L,), that of -log p(free | given)."""
    states = all_sequences(process.symbols, x0.shape[1])
    total = prior_nelbo(process, x0, given)
    total = total + step_nelbo(process, model, x0, FIRST, 0.0, given)
    if jumps(process):
        total = total + step_nelbo(process, model, x0, 1.0, LAST, given)
    other = ~np.eye(process.symbols, dtype=bool)
    for low, high in itertools.pairwise(pieces(process)):
        for point, weight in zip(_POINTS, _WEIGHTS, strict=True):
            t = float(low + (high - low) * point)
            until_t, rate = process.forward(0.0, t), process.rates(t)
            flow = until_t[:, None, :] * rate.T[None] * other  # q(x_0 -> y) R[y, x] at [x_0, x, y]
            r_q = np.divide(flow, until_t[:, :, None], out=np.zeros_like(flow), where=until_t[:, :, None] > 0)
            r = process.reverse_rates(model, states, t)  # (N, L, S)
            true = r_q[:, states]  # (V, N, L, S)
            with np.errstate(divide="ignore", invalid="ignore"):
                terms = r - true + np.where(true > 0, true * np.log(true / r), 0)
            per_token = np.where(other[states], terms, 0).sum(axis=-1)
            total = total + weight * (high - low) * expected(per_token, until_t, x0, states, given)
    return np.asarray(total)
