"""How good are samples? Distances between two sets of vectors, the nearest training example, a reader of classes.

A distance means little by itself: the one between two real samples of the same size is the floor that no model can be
expected to go below.

    energy distance           2 E|X - Y| - E|X - X'| - E|Y - Y'|, zero only for equal laws (Szekely and Rizzo 2013)
    sliced Wasserstein        the mean over directions of the 1-D Wasserstein-2 distance (Rabin et al. 2012)

Pictures and sequences count as one long vector each.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from .. import ops
from ..arrays import Floats, Ints, check_counts
from ..learning.optim import AdamW, learning_rate
from ..tensor import Tensor, no_grad

BLOCK = 2_000  # rows of the matrix of distances that are held at a time


def energy_distance(x: Floats, y: Floats) -> float:
    """Energy distance of two samples, (n, ...) and (m, ...): of their empirical laws, so never negative.

    Two samples of n from one law are about 2 E|X - X'| / n apart.
    """
    x, y = _flat(x, y)
    return 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)


def sliced_wasserstein(x: Floats, y: Floats, rng: np.random.Generator, directions: int = 200) -> float:
    """Root mean square over random directions of the Wasserstein-2 distance of the projections; n = m."""
    x, y = _flat(x, y)
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} examples and y {len(y)}; expected as many of each")
    check_counts(directions=directions)
    along = rng.standard_normal((x.shape[1], directions))
    along /= np.linalg.norm(along, axis=0)
    # On a line the best pairing is by rank.
    return float(np.sqrt(((np.sort(x @ along, axis=0) - np.sort(y @ along, axis=0)) ** 2).mean()))


def nearest(x: Floats, train: Floats) -> tuple[Floats, Ints]:
    """Root mean square difference to the most similar training example, and its index: (n, ...) to (n,) and (n,)."""
    x, train = _flat(x, train)
    squares = _squares(x, train)
    index = squares.argmin(axis=1)
    # Of the differences themselves: expanded squares would leave a copy at a distance of rounding errors, not 0.
    return np.sqrt(((x - train[index]) ** 2).mean(axis=1)), index


def train_classifier(
    x: Floats, labels: Ints, rng: np.random.Generator, *, hidden: int = 128, steps: int = 1500, batch: int = 128
) -> Callable[[Floats], Ints]:
    """A small reader of classes, one hidden layer on the flattened examples: (N, ...) and (N,) to a function.

    The function takes (n, ...) examples to their (n,) most probable classes.
    """
    x, _ = _flat(x, x)
    if np.shape(labels) != (len(x),):
        raise ValueError(f"labels has shape {np.shape(labels)}; expected ({len(x)},)")
    sizes = (x.shape[1], hidden, int(labels.max()) + 1)
    params: dict[str, Tensor] = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        bound = 1 / np.sqrt(inputs)
        params[f"weight{i}"] = Tensor(rng.uniform(-bound, bound, (inputs, outputs)).astype(np.float32), True)
        params[f"bias{i}"] = Tensor(np.zeros(outputs, np.float32), True)

    def logits(x: Floats) -> Tensor:
        h = ops.gelu(ops.linear(Tensor(x.astype(np.float32)), params["weight0"], params["bias0"]))
        return ops.linear(h, params["weight1"], params["bias1"])

    optimiser = AdamW(params)
    for step in range(steps):
        at = rng.integers(0, len(x), batch)
        ops.cross_entropy(logits(x[at]), labels[at]).mean().backward()
        optimiser.step(learning_rate(step, steps, 3e-3))

    def read(x: Floats) -> Ints:
        with no_grad():
            return np.asarray(logits(np.reshape(x, (len(x), -1))).data.argmax(axis=1))

    return read


def _flat(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Both as (n, D) float64, or ValueError."""
    if np.shape(x)[1:] != np.shape(y)[1:] or not len(x) or not len(y):
        raise ValueError(f"the samples have shapes {np.shape(x)} and {np.shape(y)}; expected (n, ...) and (m, ...)")
    for name, a in (("x", x), ("y", y)):
        if not np.isfinite(a).all():
            raise ValueError(f"{name} contains NaN or inf; every number of it must be finite")
    return np.reshape(x, (len(x), -1)).astype(np.float64), np.reshape(y, (len(y), -1)).astype(np.float64)


def _squares(x: Floats, y: Floats) -> Floats:
    """Squared distances of all pairs, (n, m)."""
    return np.asarray(np.maximum((x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1) - 2 * x @ y.T, 0))


def _mean_distance(x: Floats, y: Floats) -> float:
    return sum(float(np.sqrt(_squares(x[i : i + BLOCK], y)).sum()) for i in range(0, len(x), BLOCK)) / len(x) / len(y)
