"""Newton-Schulz iterations, against what they do to the singular values of a decomposition."""

from types import ModuleType

import numpy as np
import pytest
from kernel_support import Array, normal

from tinydiff.kernels.reference import NEWTON_SCHULZ


def moved(s: Array) -> Array:
    """Five iterations of s -> a s + b s^3 + c s^5 (Jordan et al. 2024)."""
    a, b, c = NEWTON_SCHULZ
    for _ in range(5):
        s = a * s + b * s**3 + c * s**5
    return s


def by_decomposition(x: Array) -> Array:
    """U f(S / |S|) V^T in float64."""
    u, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    norm = np.sqrt((s * s).sum(axis=1, keepdims=True))
    return (u * moved(s / norm)[:, None]) @ vt


@pytest.mark.parametrize("rank", [2, 500])
@pytest.mark.parametrize(
    ("m", "n"), [(1, 1), (1, 40), (7, 5), (31, 33), (48, 48), (64, 65), (65, 64), (96, 400), (400, 96), (129, 17)]
)
def test_singular_values_move_and_vectors_stay(impl: ModuleType, dtype: type, m: int, n: int, rank: int) -> None:
    """Square, wide and tall, past the borders of tiles and panels, and with directions of no weight at all.

    The product of the five polynomials is 3.4445^5 = 485 in those directions: that many roundings of a sum of
    min(m, n) terms may show, in each of the five, of three terms that are larger than what they add up to.
    """
    rng = np.random.default_rng(m + n)
    x = normal(rng, (3, m, min(rank, m, n)), dtype) @ normal(rng, (3, min(rank, m, n), n), dtype)
    got = impl.orthogonalise(x)
    assert got.dtype == dtype
    assert got.flags.c_contiguous
    roundings = 5 * 3 * 485 * (1 + np.sqrt(min(m, n)))
    np.testing.assert_allclose(got, by_decomposition(x), rtol=0, atol=roundings * np.finfo(dtype).eps)


def test_all_values_end_near_1() -> None:
    """Of all that starts above 1/500 of the norm, nothing ends below 0.68 or above 1.21: what the docstring says."""
    end = moved(np.geomspace(1 / 500, 1, 100_000))
    assert 0.68 < end.min() < 0.69
    assert 1.20 < end.max() < 1.21


@pytest.mark.parametrize("layout", ["C", "F"])
def test_size_does_not_matter(impl: ModuleType, dtype: type, layout: str) -> None:
    """The result depends on the direction only: gradients of any length give steps of one length."""
    x = normal(np.random.default_rng(0), (2, 9, 14), dtype)
    small, large = (np.array(scale * x, order=layout, dtype=dtype) for scale in (1.0, 2.0**30))
    np.testing.assert_array_equal(impl.orthogonalise(large), impl.orthogonalise(small))
    np.testing.assert_allclose(impl.orthogonalise(small), impl.orthogonalise(x), atol=1e5 * np.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 4, 0), (2, 3, 4)])
def test_nothing_stays_nothing(impl: ModuleType, dtype: type, shape: tuple[int, ...]) -> None:
    """No matrices, no elements, or zeros, as of a layer that has no gradient yet: no division by zero."""
    np.testing.assert_array_equal(impl.orthogonalise(np.zeros(shape, dtype)), np.zeros(shape))


def test_nan_stays_in_its_matrix(impl: ModuleType, dtype: type) -> None:
    """All of the matrix is lost, as its norm is, and none of its neighbour."""
    x = normal(np.random.default_rng(0), (2, 20, 30), dtype)
    want = impl.orthogonalise(x)[1]
    x[0, 3, 4] = np.nan
    got = impl.orthogonalise(x)
    assert np.isnan(got[0]).all()
    np.testing.assert_array_equal(got[1], want)
