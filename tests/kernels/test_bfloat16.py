"""Products of numbers rounded to bfloat16: the rounding, the order of the sums to the bit, and what is refused."""

from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest
from kernel_support import LAYOUTS, Array, laid_out, normal

from tinydiff.kernels import native, reference

ISAS = [isa for isa in ("avx512_bf16", "amx") if native is not None and isa in native.isas()]


def avx512_bf16(c: Array, a: Array, b: Array) -> Array:
    """c + odd + even, pair after pair: VDPBF16PS. A product of two bfloat16 is exact, so it is a fused one."""
    for k in range(0, a.shape[1], 2):
        c = c + a[:, k + 1, None] * b[k + 1]
        c = c + a[:, k, None] * b[k]
    return c


def amx(c: Array, a: Array, b: Array) -> Array:
    """The even and the odd products of 16 pairs, each by themselves, then c + (even + odd): TDPBF16PS."""
    for k0 in range(0, a.shape[1], 32):
        sums = np.zeros((2, *c.shape), np.float32)
        for k in range(k0, k0 + 32):
            sums[k % 2] += a[:, k, None] * b[k]
        c = c + (sums[0] + sums[1])
    return c


ORDERS: dict[str, Callable[[Array, Array, Array], Array]] = {"avx512_bf16": avx512_bf16, "amx": amx}


@pytest.fixture(scope="module", params=["numpy", *ISAS])
def impl(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """All that can multiply bfloat16 here."""
    if request.param == "numpy":
        yield reference
        return
    assert native is not None
    before = native.isa()
    native.use_isa(request.param)
    yield native
    native.use_isa(before)


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each instruction set that has the products."""
    assert native is not None
    before = native.isa()
    native.use_isa(request.param)
    yield request.param
    native.use_isa(before)


def by_one(impl: ModuleType, x: Array) -> Array:
    """What becomes of each number on the left and on the right of a product with 1."""
    one = np.ones((1, 1), np.float32)
    left, right = impl.matmul(x[:, None], one, bfloat16=True)[:, 0], impl.matmul(one, x[None], bfloat16=True)[0]
    np.testing.assert_array_equal(left, right)
    return np.asarray(left)


def test_nearest_and_ties_to_even(impl: ModuleType) -> None:
    """Of the two bfloat16 around a number the nearer one; in the middle, the one whose last bit is 0."""
    rng = np.random.default_rng(0)
    below = rng.integers(0x0080, 0x7F7F, 3000).astype(np.uint32) << 16  # positive, normal, below the largest
    low, high = below.view(np.float32).astype(np.float64), (below + 0x10000).view(np.float32).astype(np.float64)
    even = np.where(below >> 16 & 1, high, low)
    for offset in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (below + np.uint32(offset)).view(np.float32)
        exact = x.astype(np.float64)
        want = np.where(exact - low < high - exact, low, np.where(exact - low > high - exact, high, even))
        np.testing.assert_array_equal(by_one(impl, x), want)
        np.testing.assert_array_equal(by_one(impl, -x), -want)


def test_ends_of_the_range(impl: ModuleType) -> None:
    """Overflow to infinity, NaN, and what lies below the normal range: 0."""
    x = np.array([np.finfo(np.float32).max, -np.finfo(np.float32).max, np.inf, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(by_one(impl, x), [np.inf, -np.inf, np.inf, -np.inf, np.nan])
    tiny = np.finfo(np.float32).tiny
    below = np.array([1e-45, -1e-40, np.nextafter(tiny, np.float32(0)), 0.0], np.float32)
    np.testing.assert_array_equal(by_one(impl, below), np.zeros(4))
    np.testing.assert_array_equal(by_one(impl, np.array([tiny, -tiny])), [tiny, -tiny])


SHAPES = [
    (1, 1, 1), (3, 5, 2), (16, 32, 16), (32, 32, 32), (33, 31, 34), (17, 65, 49), (31, 129, 63), (64, 385, 33),
    (70, 1000, 257), (300, 64, 40), (2, 800, 600), (0, 4, 5), (4, 0, 5), (4, 5, 0),
]  # fmt: skip


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
@pytest.mark.parametrize("added", ["nothing", "bias", "residual", "both"])
def test_every_sum_in_its_order(isa: str, m: int, k: int, n: int, added: str) -> None:
    """Bit for bit what the instruction is documented to do, past the borders of tiles, blocks and tasks.

    Padding to whole tiles adds zeros, which change no sum.
    """
    rng = np.random.default_rng(m + k + n)
    a, b = normal(rng, (m, k), np.float32), normal(rng, (k, n), np.float32)
    bias = normal(rng, (n,), np.float32) if added in ("bias", "both") else None
    residual = normal(rng, (m, n), np.float32) if added in ("residual", "both") else None
    start = np.zeros((m, n), np.float32)
    for term in (bias, residual):
        start = start if term is None else start + term
    pad = -k % 32
    left, right = np.pad(reference._rounded(a), ((0, 0), (0, pad))), np.pad(reference._rounded(b), ((0, pad), (0, 0)))
    assert native is not None
    got = native.matmul(a, b, bias, residual, bfloat16=True)
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, ORDERS[isa](start, left, right))


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_within_the_roundings_of_a_sum(impl: ModuleType, m: int, k: int, n: int) -> None:
    """Against float64: k + 2 roundings of the sum of magnitudes, in whatever order."""
    rng = np.random.default_rng(k)
    a, b, bias = (normal(rng, shape, np.float32) for shape in ((m, k), (k, n), (n,)))
    left, right = (reference._rounded(x).astype(np.float64) for x in (a, b))
    got = impl.matmul(a, b, bias, bfloat16=True)
    bound = (k + 2) * np.finfo(np.float32).eps * (np.abs(left) @ np.abs(right) + np.abs(bias))
    assert (np.abs(got - (left @ right + bias)) <= bound).all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("m", "k", "n"), [(33, 70, 40), (1, 70, 33), (40, 1, 5), (65, 33, 1)])
def test_layouts(isa: str, layout: str, m: int, k: int, n: int) -> None:
    """The bits do not depend on how the numbers lie in memory."""
    rng = np.random.default_rng(0)
    a, b = normal(rng, (m, k), np.float32), normal(rng, (k, n), np.float32)
    assert native is not None
    want = native.matmul(a, b, bfloat16=True)
    got = native.matmul(laid_out(a, layout), laid_out(b, layout), bfloat16=True)
    np.testing.assert_array_equal(got, want)


def test_threads_change_nothing(isa: str) -> None:
    """Rows and columns are shared out anew for every number of threads, and no sum with them."""
    assert native is not None
    before = native.threads()
    rng = np.random.default_rng(0)
    try:
        for m, k, n in ((300, 500, 130), (40, 900, 700), (700, 40, 33)):
            a, b = normal(rng, (m, k), np.float32), normal(rng, (k, n), np.float32)
            results = []
            for threads in (1, 2, 3, 5):
                native.set_threads(threads)
                results.append(native.matmul(a, b, bfloat16=True))
            for other in results[1:]:
                np.testing.assert_array_equal(other, results[0])
    finally:
        native.set_threads(before)


def test_nan_stays_in_its_row(impl: ModuleType) -> None:
    """Or it would have come in through the padding of a tile."""
    rng = np.random.default_rng(0)
    a, b = normal(rng, (40, 50), np.float32), normal(rng, (50, 35), np.float32)
    want = impl.matmul(a, b, bfloat16=True)
    a[3, 49] = np.nan
    got = impl.matmul(a, b, bfloat16=True)
    assert np.isnan(got[3]).all()
    np.testing.assert_array_equal(np.delete(got, 3, 0), np.delete(want, 3, 0))


def test_float64_is_refused(impl: ModuleType) -> None:
    """Rounding it to 8 bits is never what is meant."""
    with pytest.raises(TypeError, match="a has dtype float64; expected float32 for a product in bfloat16"):
        impl.matmul(np.ones((2, 2)), np.ones((2, 2)), bfloat16=True)


@pytest.mark.skipif(native is None, reason="the native extension is not built")
def test_cpus_without_it() -> None:
    """An instruction set that has no such products: an error, not a product in float32."""
    assert native is not None
    before = native.isa()
    try:
        for isa in native.isas():
            native.use_isa(isa)
            assert native.has_bfloat16() == (isa in ISAS)
            if isa not in ISAS:
                with pytest.raises(RuntimeError, match=f"{isa} has no products of bfloat16"):
                    native.matmul(np.ones((2, 2), np.float32), np.ones((2, 2), np.float32), bfloat16=True)
    finally:
        native.use_isa(before)
