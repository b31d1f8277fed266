"""What all continuous processes share: x_t as a mixture of data and noise, and the ways of saying which is which.

    x_t = a x_0 + s eps,   eps ~ N(0, 1)

`a` is the signal's scale at time t and `s` the noise's. Diffusion keeps a^2 + s^2 = 1; flow matching takes a = 1 - t,
s = t. Given x_t, any other combination of x_0 and eps determines both, so a network may predict whichever it likes:

    eps                    the noise (Ho et al. 2020)
    x0                     the data
    v = a eps - s x_0      the rotated pair (Salimans and Ho 2022)
    velocity = eps - x_0   the slope of flow matching's straight line (Lipman et al. 2023)

and the score is a prediction too: grad log p_t(x_t) = -E[eps | x_t] / s (Vincent 2011).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..arrays import Floats, Ints
from ..data import Batch
from ..decoders import conditioned
from ..transformer import Model

Prediction = Literal["eps", "x0", "v", "velocity"]


@dataclass(frozen=True)
class VectorFrame:
    """What a picture of one sampling step needs; arrays are (B, L, F) and belong to the frame.

    Attributes
    ----------
    step : 0 before anything happened, then 1, 2, ...
    steps : how many there will be
    t : time after this step: 1 is pure noise, 0 is done
    state : x_t
    denoised : the guess of x_0 on which this step acted; zeros in the first frame

    """

    step: int
    steps: int
    t: float
    state: Floats
    denoised: Floats


def _coefficients(predict: Prediction, a: Floats, s: Floats) -> tuple[Floats, Floats]:
    """The (c, d) with prediction = c x_0 + d eps."""
    zero, one = np.zeros_like(a), np.ones_like(a)
    known = {"eps": (zero, one), "x0": (one, zero), "v": (-s, a), "velocity": (-one, one)}
    if predict not in known:
        raise ValueError(f"predict is {predict!r}; expected one of {', '.join(known)}")
    return known[predict]


def join(x0: Floats, eps: Floats, a: ArrayLike, s: ArrayLike, predict: Prediction) -> Floats:
    """The prediction that a network should make of this x_0 and noise; shapes broadcast."""
    c, d = _coefficients(predict, np.asarray(a, np.float64), np.asarray(s, np.float64))
    return np.asarray(c * x0 + d * eps)


def split(xt: Floats, output: Floats, a: ArrayLike, s: ArrayLike, predict: Prediction) -> tuple[Floats, Floats]:
    """The (x_0, eps) that a network's output means: two linear equations in two unknowns; shapes broadcast."""
    a, s = np.asarray(a, np.float64), np.asarray(s, np.float64)
    c, d = _coefficients(predict, a, s)
    determinant = a * d - s * c
    return (d * xt - s * output) / determinant, (a * output - c * xt) / determinant


def checked(x0: Floats, features: int) -> Floats:
    """x_0 as float64, or ValueError unless it is (B, L, features) and finite."""
    x0 = np.asarray(x0)
    if x0.ndim != 3 or x0.shape[2] != features or x0.dtype.kind not in "fiu":
        raise ValueError(f"x0 has shape {x0.shape} and dtype {x0.dtype}; expected (B, L, {features}) numbers")
    if not np.isfinite(x0).all():
        raise ValueError(f"x0 contains {x0[~np.isfinite(x0)].flat[0]}; every number of it must be finite")
    return x0.astype(np.float64)


def known(batch: Batch | Floats, features: int) -> tuple[Ints | None, Floats]:
    """The labels of the batch, (B,) or None, and its vectors; ValueError if some are given beforehand."""
    batch = Batch.of(batch)
    if batch.given is not None:
        raise ValueError("given is set, but noise on vectors spares no position: leave it out, or use tokens")
    return batch.label, checked(batch.x0, features)


def unpacked(model: Model, batch: Batch | Floats, features: int) -> tuple[Model, Floats]:
    """The model, told the labels of the batch, and its vectors; ValueError if some are given beforehand."""
    label, x0 = known(batch, features)
    return conditioned(model, label), x0
