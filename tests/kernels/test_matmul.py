"""Matrix product. Native tiles are 6 rows, blocks of 96 rows and 256 of the inner axis, panels of 4 to 64 columns."""

import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_support import assert_close, examples, laid_out, layouts, normal, numerical_gradient, seeds, wide

from tinydiff.kernels import reference

sizes = st.integers(0, 20) | st.sampled_from([31, 32, 33, 63, 64, 65, 95, 96, 97, 130])


@examples
@given(
    m=sizes, k=sizes | st.sampled_from([255, 256, 257, 520]), n=sizes, biased=st.booleans(), layout=layouts, seed=seeds
)
def test_matmul(
    impl: ModuleType, dtype: type, m: int, k: int, n: int, biased: bool, layout: list[str], seed: int
) -> None:
    """Guards the borders of tiles, blocks and panels, the strides of views, and the bias, added once."""
    rng = np.random.default_rng(seed)
    a, b, bias = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype), normal(rng, (n,), dtype)
    if not biased:
        bias[:] = 0
    given_bias = laid_out(bias, layout[2]) if biased else None
    got = impl.matmul(laid_out(a, layout[0]), laid_out(b, layout[1]), given_bias)
    terms = np.abs(a) @ np.abs(b) + np.abs(bias)
    want = reference.matmul(*wide(a, b, bias))
    assert_close(got, want, dtype, (1 + math.sqrt(k)) * terms)


def test_broadcast_views(impl: ModuleType, dtype: type) -> None:
    """Strides of zero, as in the gradient of a sum, are strides like any other."""
    a, b = np.arange(35).astype(dtype).reshape(5, 7), np.arange(7 * 70).astype(dtype).reshape(7, 70)
    ones = np.broadcast_to(dtype(1), (5, 7))
    np.testing.assert_array_equal(impl.matmul(ones, b), np.broadcast_to(b.sum(axis=0), (5, 70)))
    row = np.broadcast_to(b[:1], (7, 70))
    np.testing.assert_array_equal(impl.matmul(a, row), a.sum(axis=1, keepdims=True) * b[0])
    column = np.broadcast_to(b[:, :1], (7, 70))
    np.testing.assert_array_equal(impl.matmul(a, column), np.repeat(a @ b[:, :1], 70, axis=1))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_special_values_stay_in_their_row_or_column(impl: ModuleType, dtype: type, value: float) -> None:
    """A NaN in the padding of a tile, or next to it, must not spread further than the definition says."""
    a, b, bias = np.ones((7, 3), dtype), np.ones((3, 67), dtype), np.zeros(67, dtype)
    a[6, 1], b[2, 66], bias[65] = value, value, value
    with np.errstate(invalid="ignore"):
        c = impl.matmul(a, b, bias)
    want = np.full((7, 67), 3, dtype)
    want[6], want[:, 65:] = value, value
    np.testing.assert_array_equal(c, want)


def test_gradient(impl: ModuleType) -> None:
    """What the backward pass relies on: g b^T, a^T g and the sum of g, all by way of transposed views."""
    rng = np.random.default_rng(0)
    a, b, bias, g = (rng.standard_normal(shape) for shape in ((3, 4), (4, 5), (5,), (3, 5)))
    want = [numerical_gradient(lambda: float((g * impl.matmul(a, b, bias)).sum()), x) for x in (a, b, bias)]
    for got, expected in zip((impl.matmul(g, b.T), impl.matmul(a.T, g), g.sum(axis=0)), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
