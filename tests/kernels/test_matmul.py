"""Matrix product and the sum over rows that its gradient needs.

Native tiles are 6 or 12 rows, blocks are 96 rows and 256 of the inner axis, panels are 4 to 64 columns.
"""

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
    m=sizes,
    k=sizes | st.sampled_from([255, 256, 257, 520]),
    n=sizes,
    biased=st.booleans(),
    added=st.booleans(),
    layout=layouts,
    seed=seeds,
)
def test_matmul(
    impl: ModuleType, dtype: type, m: int, k: int, n: int, biased: bool, added: bool, layout: list[str], seed: int
) -> None:
    """Guards the borders of tiles, blocks and panels, the strides of views, and bias and residual, added once."""
    rng = np.random.default_rng(seed)
    a, b = normal(rng, (m, k), dtype), normal(rng, (k, n), dtype)
    bias, residual = normal(rng, (n,), dtype, biased), normal(rng, (m, n), dtype, added)
    laid_a, laid_b, laid_bias, laid_residual = map(laid_out, (a, b, bias, residual), layout)
    got = impl.matmul(laid_a, laid_b, laid_bias if biased else None, laid_residual if added else None)
    want = reference.matmul(*wide(a, b, bias, residual))
    terms = np.abs(a) @ np.abs(b) + np.abs(bias) + np.abs(residual)
    assert_close(got, want, dtype, (2 + math.sqrt(k)) * terms)


@pytest.mark.parametrize("layout", ["sliced", "transposed", "reversed"])
def test_matmul_of_a_long_inner_axis(impl: ModuleType, dtype: type, layout: str) -> None:
    """Several blocks of the inner axis, read in place from rows that lie apart: exact, because all are integers."""
    a, b = np.arange(9 * 600).reshape(9, 600) % 7, np.arange(600 * 130).reshape(600, 130) % 11
    got = impl.matmul(laid_out(a.astype(dtype), layout), laid_out(b.astype(dtype), layout))
    np.testing.assert_array_equal(got, a @ b)


@examples
@given(m=sizes | st.just(1000), n=sizes, layout=layouts, seed=seeds)
def test_column_sum(impl: ModuleType, dtype: type, m: int, n: int, layout: list[str], seed: int) -> None:
    """Guards the last columns, which fill no panel, and the sum over no rows."""
    x = normal(np.random.default_rng(seed), (m, n), dtype)
    got = impl.column_sum(laid_out(x, layout[0]))
    assert_close(got, reference.column_sum(*wide(x)), dtype, (1 + math.sqrt(m)) * np.abs(x).sum(axis=0))


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
    a, b, bias, residual = (np.ones(shape, dtype) for shape in ((7, 3), (3, 67), (67,), (7, 67)))
    a[6, 1], b[2, 66], bias[65], residual[0, 64] = value, value, value, value
    with np.errstate(invalid="ignore"):
        c = impl.matmul(a, b, bias, residual)
    want = np.full((7, 67), 5, dtype)
    want[6], want[:, 65:], want[0, 64] = value, value, value
    np.testing.assert_array_equal(c, want)
    np.testing.assert_array_equal(impl.column_sum(want), [value] * 67)
    np.testing.assert_array_equal(impl.column_sum(want[1:6]), [25] * 65 + [value] * 2)


def test_gradient(impl: ModuleType) -> None:
    """What the backward pass relies on: g b^T and a^T g of transposed views, and the sum over rows of g."""
    rng = np.random.default_rng(0)
    a, b, bias, g = (rng.standard_normal(shape) for shape in ((3, 4), (4, 5), (5,), (3, 5)))
    want = [numerical_gradient(lambda: float((g * impl.matmul(a, b, bias)).sum()), x) for x in (a, b, bias)]
    for got, expected in zip((impl.matmul(g, b.T), impl.matmul(a.T, g), impl.column_sum(g)), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-11)
