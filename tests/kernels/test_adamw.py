"""AdamW: several steps in place against the specification, and the properties that pin the specification down."""

import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_support import LAYOUTS, Array, assert_close, examples, laid_out, normal, sample_arguments, seeds, wide

from tinydiff.kernels import native, reference

# 4096 elements are one task of the native kernel.
element_shapes = st.sampled_from([(), (0,), (1,), (3, 5), (4, 16), (31,), (33,), (4095,), (4096,), (2, 2049), (9001,)])


@examples
@given(
    shape=element_shapes,
    first=st.sampled_from([1, 2, 10, 1000]),
    betas=st.sampled_from([(0.9, 0.999), (0.9, 0.95), (0.0, 0.5)]),
    weight_decay=st.sampled_from([0.0, 0.1]),
    layout=st.sampled_from(LAYOUTS),
    seed=seeds,
)
def test_adamw(
    impl: ModuleType,
    dtype: type,
    shape: tuple[int, ...],
    first: int,
    betas: tuple[float, float],
    weight_decay: float,
    layout: str,
    seed: int,
) -> None:
    """Guards each moment, the bias corrections and their precision: 1 - beta2 must not be formed in float32.

    off_m, off_v and off_p count roundings; the old error of a running mean shrinks by beta.
    """
    rng = np.random.default_rng(seed)
    p, m = normal(rng, shape, dtype), normal(rng, shape, dtype, 0.1 if first > 1 else 0)
    v = np.asarray(m * m)
    wide_p, wide_m, wide_v = wide(p, m, v)
    lr, eps, (beta1, beta2) = 0.01, 1e-8, betas
    off_m = off_v = off_p = np.zeros(shape)
    for step in range(first, first + 4):
        g = normal(rng, shape, dtype)
        off_m = beta1 * off_m + 2 * np.abs(wide_m) + 3 * (1 - beta1) * np.abs(g)
        off_v = beta2 * off_v + 2 * wide_v + 4 * (1 - beta2) * g**2
        impl.adamw(p, laid_out(g, layout), m, v, lr, beta1, beta2, eps, weight_decay, step)
        reference.adamw(wide_p, *wide(g), wide_m, wide_v, lr, beta1, beta2, eps, weight_decay, step)
        root = np.sqrt(wide_v / (1 - beta2**step))
        moved = (off_m + np.abs(wide_m) * (5 + off_v / wide_v / 2)) / (1 - beta1**step) / root
        off_p = off_p + lr * moved + 2 * np.abs(wide_p)
    assert_close(m, wide_m, dtype, off_m)
    assert_close(v, wide_v, dtype, off_v)
    assert_close(p, wide_p, dtype, off_p)


def test_first_step_has_length_lr(impl: ModuleType, dtype: type) -> None:
    """Bias correction: from zero moments, m / sqrt(v) is g / |g| whatever beta is, so every p moves by lr."""
    g = np.array([1e-3, -0.5, 7.0, -300.0], dtype)
    p, m, v = np.zeros_like(g), np.zeros_like(g), np.zeros_like(g)
    impl.adamw(p, g, m, v, 0.25, 0.9, 0.999, 0.0, 0.1, 1)
    np.testing.assert_allclose(p, -0.25 * np.sign(g), rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(m, (1 - 0.9) * g, rtol=2 * np.finfo(dtype).eps)
    np.testing.assert_allclose(v, (1 - 0.999) * g * g, rtol=4 * np.finfo(dtype).eps)


def test_weight_decay_is_decoupled(impl: ModuleType, dtype: type) -> None:
    """AdamW, not Adam with an L2 penalty: without a gradient, p shrinks by lr * weight_decay and m, v stay zero."""
    p = np.linspace(-3, 3, 37).astype(dtype)
    want, m, v = p * dtype(1 - 0.5 * 0.25), np.zeros_like(p), np.zeros_like(p)
    impl.adamw(p, np.zeros_like(p), m, v, 0.5, 0.9, 0.999, 1e-8, 0.25, 1)
    np.testing.assert_allclose(p, want, rtol=2 * np.finfo(dtype).eps)
    assert not m.any()
    assert not v.any()


def test_eps_is_added_to_the_root(impl: ModuleType, dtype: type) -> None:
    """sqrt(v) + eps, not sqrt(v + eps): with eps equal to |g|, the step is half of lr."""
    g = np.full(9, 0.125, dtype)
    p, m, v = np.zeros_like(g), np.zeros_like(g), np.zeros_like(g)
    impl.adamw(p, g, m, v, 1.0, 0.5, 0.5, 0.125, 0.0, 1)
    np.testing.assert_allclose(p, -0.5, rtol=8 * np.finfo(dtype).eps)


@pytest.mark.parametrize("n", [1, 3, 17, 4097])
def test_neighbours_are_left_alone(impl: ModuleType, dtype: type, n: int) -> None:
    """p, m and v are slices of one buffer here: a whole vector stored at the end would hit the next slice."""
    buffer = np.full(3 * n + 4, 7, dtype)
    p, m, v = (buffer[1 + i * (n + 1) :][:n] for i in range(3))
    impl.adamw(p, np.ones(n, dtype), m, v, 0.1, 0.9, 0.9, 1e-8, 0.0, 1)
    assert (buffer[:: n + 1] == 7).all()
    assert (np.stack([p, m, v]) != 7).all()


def _changed(array: Array, how: str) -> Array:
    return array.astype(np.float64) if how == "dtype" else laid_out(array, how)


@pytest.mark.skipif(native is None, reason="the native extension is not built")
@pytest.mark.parametrize("how", ["strided", "reversed", "transposed", "readonly", "misaligned", "dtype"])
@pytest.mark.parametrize("name", ["p", "m", "v"])
def test_rejects_what_it_cannot_write(name: str, how: str) -> None:
    """No silent update of a copy, and no half step: p, m and v are as before."""
    arguments = sample_arguments("adamw", np.float32)
    arguments[name] = _changed(arguments[name], how)
    before = {key: arguments[key].copy() for key in "pmv"}
    # p decides the dtype of the others
    wrong = "m" if (name, how) == ("p", "dtype") else name
    with pytest.raises(ValueError, match=f"^{wrong} must be a writable, C-contiguous array of dtype float"):
        native.adamw(**arguments)
    for key in "pmv":
        np.testing.assert_array_equal(arguments[key], before[key])


def test_read_only_parameters(impl: ModuleType) -> None:
    """Both implementations refuse with the same class of error."""
    arguments = sample_arguments("adamw", np.float32)
    arguments["m"].flags.writeable = False
    with pytest.raises(ValueError, match=r"m must be a writable|read-only"):
        impl.adamw(**arguments)


def test_late_steps_need_no_correction(impl: ModuleType, dtype: type) -> None:
    """1 - beta^step is 1 after very many steps: no overflow or division by zero on the way there."""
    p, m, v = np.zeros(3, dtype), np.full(3, 0.5, dtype), np.full(3, 0.25, dtype)
    impl.adamw(p, np.full(3, 0.5, dtype), m, v, 1.0, 0.9, 0.999, 0.0, 0.0, 10**9)
    np.testing.assert_allclose(p, -1, rtol=8 * np.finfo(dtype).eps)
    assert math.isclose(m[0], 0.5, rel_tol=4 * np.finfo(dtype).eps)
