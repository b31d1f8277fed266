"""Uniform noise is Gaussian noise seen through an argmax (the diffusion duality; Duo, Sahoo et al. 2025, eq. 9 to 11).

Noise the one-hot vector of a token as Gaussian diffusion does, z = a x + s eps with s^2 = 1 - a^2, and look at which of
its K entries is the largest. It is the token itself, or by symmetry any other one with the same probability: just what
`D3PM(K, "uniform")` does at the level of noise where a token survives with probability T(a),

    P(argmax z = x) = T + (1 - T) / K,    T(a) = (K int phi(z - a / s) Phi(z)^{K-1} dz - 1) / (K - 1)

So the two processes have the same marginals at every time. Not the same paths: the argmax may go back and forth.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from ..arrays import Floats

NODES = 200  # of the quadrature: the integrand is smooth


def argmax_alpha(a: ArrayLike, vocab_size: int) -> Floats:
    """T(a): the alpha of uniform noise that the argmax of a one-hot vector with signal a in [0, 1] sees; same shape."""
    a = np.asarray(a, np.float64)
    if vocab_size < 2:
        raise ValueError(f"vocab_size is {vocab_size}; it takes at least 2 tokens to be mistaken")
    if not ((a >= 0) & (a <= 1)).all():
        raise ValueError(f"a contains {a.min()}..{a.max()}; expected a signal, 0 <= a <= 1")
    u, weight = np.polynomial.hermite_e.hermegauss(NODES)  # the integral of f(u) phi(u) is the sum of weight f(u)
    with np.errstate(divide="ignore"):
        shift = a / np.sqrt(1 - a * a)  # inf without noise: then no other entry can win
    below = np.vectorize(lambda z: 0.5 * math.erfc(-z / math.sqrt(2)))(u + shift[..., None])  # Phi
    stays = (weight / math.sqrt(2 * math.pi) * below ** (vocab_size - 1)).sum(axis=-1)
    return np.asarray((vocab_size * stays - 1) / (vocab_size - 1))
