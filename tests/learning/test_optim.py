"""Optimiser, average, learning rate."""

import numpy as np
import pytest

from tinydiff import EMA, AdamW, Tensor
from tinydiff.learning.optim import learning_rate

RNG = np.random.default_rng(0)


def parameters() -> dict[str, Tensor]:
    shapes = {"bias": (3,), "weight": (2, 3), "scale": (2,), "other": (3, 2)}
    return {name: Tensor(RNG.normal(size=shape), requires_grad=True) for name, shape in shapes.items()}


def test_matches_adamw_written_out() -> None:
    """Loshchilov and Hutter 2019, algorithm 2, per parameter: bias correction, and decay of matrices only."""
    params = parameters()
    expected = {name: p.data.copy() for name, p in params.items()}
    m = {name: np.zeros_like(p) for name, p in expected.items()}
    v = {name: np.zeros_like(p) for name, p in expected.items()}
    optimiser = AdamW(params, weight_decay=0.1, clip=1e9)
    for step in range(1, 6):
        for name, p in params.items():
            g = RNG.normal(size=p.shape)
            p.grad += g
            m[name] = 0.9 * m[name] + 0.1 * g
            v[name] = 0.99 * v[name] + 0.01 * g * g
            update = m[name] / (1 - 0.9**step) / (np.sqrt(v[name] / (1 - 0.99**step)) + 1e-8)
            decay = 0.1 if p.ndim == 2 else 0.0
            expected[name] -= 0.02 * (update + decay * expected[name])
        optimiser.step(0.02)
    for name, p in params.items():
        np.testing.assert_allclose(p.data, expected[name], rtol=1e-10)


def test_gradients_are_cleared_and_reported() -> None:
    """A gradient left over would be counted twice; the norm returned is the one before clipping."""
    params = parameters()
    optimiser = AdamW(params, clip=0.5)
    for p in params.values():
        p.grad += 1.0
    assert optimiser.step(0.1) == pytest.approx(np.sqrt(17))
    assert all((p.grad == 0).all() for p in params.values())


def test_clipping_scales_the_whole_gradient() -> None:
    """Clipping each parameter by itself would turn the direction: the first moments keep the proportions."""
    params = parameters()
    optimiser = AdamW(params, clip=1.0)
    for i, p in enumerate(params.values()):
        p.grad += 10.0 * (i + 1)
    norm = optimiser.step(0.1)
    moments = optimiser.flat.named(optimiser.m)
    for i, name in enumerate(params):
        np.testing.assert_allclose(moments[name], 0.1 * 10.0 * (i + 1) / norm, rtol=1e-12)


def test_not_finite_gradient_stops_before_touching_anything() -> None:
    """One NaN would otherwise poison weights and moments for good."""
    params = parameters()
    optimiser = AdamW(params)
    before = optimiser.flat.values.copy()
    params["weight"].grad[0, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"learning rate below 0\.1"):
        optimiser.step(0.1)
    np.testing.assert_array_equal(optimiser.flat.values, before)


def test_flat_arrays_are_the_parameters() -> None:
    """Views, not copies: writing one is writing the other."""
    params = parameters()
    optimiser = AdamW(params)
    optimiser.flat.values[...] = 7.0
    assert all((p.data == 7.0).all() for p in params.values())


def test_ema_follows() -> None:
    """The average starts at the weights and moves by the warmed-up decay."""
    params = parameters()
    optimiser = AdamW(params)
    ema = EMA(optimiser.flat, 0.99)
    start = optimiser.flat.values.copy()
    optimiser.flat.values += 1.0
    ema.update(1)
    np.testing.assert_allclose(ema.values, start + 1 - 2 / 11)
    ema.update(10**6)
    np.testing.assert_allclose(ema.values, start + 1 - 2 / 11 * 0.99)


def test_learning_rate_shape() -> None:
    """Linear warm-up to the peak, cosine to a tenth."""
    rates = np.array([learning_rate(step, 1000, 1.0, warmup=100) for step in range(1001)])
    assert rates[0] == pytest.approx(0.01, rel=1e-3)
    assert rates.argmax() == 99
    assert (np.diff(rates[100:]) < 0).all()
    assert rates[-1] == pytest.approx(0.1)
    assert rates[500] == pytest.approx(0.55)
