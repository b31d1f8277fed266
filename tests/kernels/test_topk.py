"""topk against sorting in plain Python: the order is exact, so values and indices must be too."""

import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_support import LAYOUTS, Array, examples, laid_out, seeds

PALETTES = {
    "numbers": lambda rng, n: rng.standard_normal(n),
    "ties": lambda rng, n: rng.choice([-1.0, -0.0, 0.0, 1.0], n),
    "special": lambda rng, n: rng.choice([-math.inf, -1.0, 2.0, math.inf, math.nan], n),
    "mostly -inf": lambda rng, n: np.where(rng.random(n) < 0.9, -math.inf, rng.standard_normal(n)),
    "mostly nan": lambda rng, n: np.where(rng.random(n) < 0.9, math.nan, rng.standard_normal(n)),
    "ascending": lambda rng, n: np.arange(n) // 2,
    "descending": lambda rng, n: -(np.arange(n) // 2),
}


def expect_largest(result: tuple[Array, Array], x: Array, k: int) -> None:
    """Each row as sorted by Python: NaN last, then by value downwards, then by index."""
    values, indices = result
    assert values.dtype == x.dtype
    assert indices.dtype == np.int64
    assert values.shape == indices.shape == (*x.shape[:-1], k)
    for row in np.ndindex(x.shape[:-1]):
        key = [(True, 0.0, i) if math.isnan(a) else (False, -a, i) for i, a in enumerate(x[row].tolist())]
        want = sorted(range(x.shape[-1]), key=key.__getitem__)[:k]
        assert indices[row].tolist() == want
        assert values[row].tobytes() == x[row][want].tobytes()  # -0.0 stays -0.0


@examples
@given(
    lead=st.sampled_from([(), (0,), (1,), (4,), (2, 3)]),
    n=st.integers(0, 40) | st.sampled_from([127, 128, 129, 300]),
    fraction=st.sampled_from([0, 0.1, 0.5, 0.9, 1]),
    palette=st.sampled_from(sorted(PALETTES)),
    layout=st.sampled_from(LAYOUTS),
    seed=seeds,
)
def test_topk(
    impl: ModuleType,
    dtype: type,
    lead: tuple[int, ...],
    n: int,
    fraction: float,
    palette: str,
    layout: str,
    seed: int,
) -> None:
    """Guards the heap: equal values swapped, NaN or -inf taken for a number, k = 0 and k = n, the end of a row."""
    rng, k = np.random.default_rng(seed), round(fraction * n)
    x = np.array([PALETTES[palette](rng, n) for _ in range(math.prod(lead))]).astype(dtype).reshape(*lead, n)
    expect_largest(impl.topk(laid_out(x, layout), k), x, k)


@pytest.mark.parametrize("palette", ["numbers", "ties", "special"])
@pytest.mark.parametrize("k", [1, 50, 32000])
def test_vocabulary_sized_rows(impl: ModuleType, dtype: type, palette: str, k: int) -> None:
    """Guards the skipping of whole vectors, which pays and errs only in rows much longer than k."""
    x = PALETTES[palette](np.random.default_rng(k), 32000).astype(dtype)[None]
    expect_largest(impl.topk(x, k), x, k)


@pytest.mark.parametrize("k", [1, 3, 39, 40])
def test_one_nan_anywhere(impl: ModuleType, dtype: type, k: int) -> None:
    """A NaN in any lane of a vector, or in the heap from the start, must not hide its neighbours."""
    x = np.random.default_rng(k).standard_normal((40, 40)).astype(dtype)
    np.fill_diagonal(x, np.nan)
    expect_largest(impl.topk(x, k), x, k)
