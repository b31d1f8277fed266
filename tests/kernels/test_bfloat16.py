"""Products of numbers rounded to bfloat16, of matrices and in attention: the sums to the bit, and what is refused."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

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


# --- attention ------------------------------------------------------------------------------------------------------

Shape = tuple[int, int, int]  # queries, keys, depth
ATTENTION_SHAPES = [(1, 1, 1), (33, 31, 4), (16, 128, 16), (40, 129, 17), (70, 300, 33), (300, 257, 64)]
SQUARE_DEPTHS = [(5, 3, 1), (33, 31, 4), (70, 129, 16), (300, 257, 64)]  # 1 / sqrt(D) is a power of two: no rounding


def heads(rng: np.random.Generator, *lengths: int, depth: int) -> list[Array]:
    """Arrays of two sequences and two heads."""
    return [normal(rng, (2, n, 2, depth), np.float32) for n in lengths]


def in_order(isa: str, a: Array, b: Array) -> Array:
    """The rounded product over the last axis of a and the next to last of b, sums in the instruction's order."""
    pad = -a.shape[-1] % 32
    left = np.pad(reference._rounded(a), [(0, 0)] * (a.ndim - 1) + [(0, pad)])
    right = np.pad(reference._rounded(b), [(0, 0)] * (b.ndim - 2) + [(0, pad), (0, 0)])
    out = np.zeros((*a.shape[:-1], b.shape[-1]), np.float32)
    for at in np.ndindex(a.shape[:-2]):
        out[at] = ORDERS[isa](out[at], left[at], right[at])
    return out


def by_head(x: Array) -> Array:
    return x.swapaxes(1, 2)  # (B, L, H, D) and (B, H, L, D)


def gradients(impl: ModuleType, g: Array, q: Array, k: Array, v: Array, *rest: Array, **options: Any) -> list[Array]:
    """dq, dk and dv as parts of larger arrays, of which nothing else is written."""
    whole = [np.full((*x.shape[:2], 3, *x.shape[2:]), np.nan, np.float32) for x in (q, k, v)]
    impl.attention_backward(g, q, k, v, *rest, *(x[:, :, 1] for x in whole), **options, bfloat16=True)
    assert all(np.isnan(x[:, :, ::2]).all() for x in whole)
    return [x[:, :, 1] for x in whole]


@pytest.mark.parametrize("shape", SQUARE_DEPTHS, ids=str)
def test_scores_to_the_bit(isa: str, shape: Shape) -> None:
    """Of a query that sees one key the logarithm of the normaliser is the score itself: every one in turn."""
    queries, keys, depth = shape
    q, k = heads(np.random.default_rng(0), queries, keys, depth=depth)
    want = in_order(isa, by_head(q), by_head(k).swapaxes(2, 3)) / np.float32(np.sqrt(depth))
    assert native is not None
    for shift in range(0, keys, 1 + keys // 5):
        mask = np.arange(keys) == (np.arange(queries)[:, None] + shift) % keys
        _, lse = native.attention(q, k, k, mask, bfloat16=True)
        np.testing.assert_array_equal(lse, want[:, :, mask])


@pytest.mark.parametrize("shape", ATTENTION_SHAPES, ids=str)
@pytest.mark.parametrize("causal", [0, 1, 5])
def test_means_to_the_bit(isa: str, shape: Shape, causal: int) -> None:
    """Where all scores are 0 so are the exponents, and 1 is not rounded: the plain mean of the values that are seen."""
    keys, depth = max(shape[:2]), shape[2]
    queries = min(shape[:2]) if causal else shape[0]
    q, v = heads(np.random.default_rng(0), queries, keys, depth=depth)
    seen = reference._visible(queries, keys, 0, queries, None, causal)
    seen = np.broadcast_to(True if seen is None else seen, (2, 2, queries, keys)).astype(np.float32)
    assert native is not None
    out, lse = native.attention(0 * q, v, v, None, causal, bfloat16=True)
    np.testing.assert_array_equal(by_head(out), in_order(isa, seen, by_head(v)) * (1 / seen.sum(-1, keepdims=True)))
    np.testing.assert_allclose(lse, np.log(seen.sum(-1)), rtol=1e-6, atol=0)


@pytest.mark.parametrize("shape", ATTENTION_SHAPES, ids=str)
def test_gradients_to_the_bit(isa: str, shape: Shape) -> None:
    """With scores of 0, lse of 0 and outputs of 0, P = 1 and dS = g v^T: three products that sum over one another."""
    queries, keys, depth = shape
    g, q, k, v = heads(np.random.default_rng(0), queries, queries, keys, keys, depth=depth)
    out, lse, scale = np.zeros_like(g), np.zeros((2, 2, queries), np.float32), 1 / np.float32(np.sqrt(depth))
    ds = in_order(isa, by_head(g), by_head(v).swapaxes(2, 3))
    assert native is not None
    _, dk, dv = gradients(native, g, q, 0 * k, v, out, lse)
    ones = np.ones((2, 2, keys, queries), np.float32)
    np.testing.assert_array_equal(by_head(dv), in_order(isa, ones, by_head(g)))
    np.testing.assert_array_equal(by_head(dk), in_order(isa, ds.swapaxes(2, 3), by_head(q)) * scale)
    dq, _, _ = gradients(native, g, 0 * q, k, v, out, lse)
    np.testing.assert_array_equal(by_head(dq), in_order(isa, ds, by_head(k)) * scale)


def mask_of(kind: str, rng: np.random.Generator, queries: int, keys: int) -> Array | None:
    """Masks that hide a third; a whole first tile of keys; all of every second query."""
    if kind == "all":
        return None
    mask = rng.random((2, queries, keys) if kind == "each" else (queries, keys)) < 0.7
    if kind == "late":
        mask[:, :130] = False
    if kind == "blind":
        mask[::2] = False
    return mask


@pytest.mark.parametrize("kind", ["all", "each", "late", "blind"])
@pytest.mark.parametrize("causal", [0, 1, 3, 40])
@pytest.mark.parametrize("shape", [(1, 1, 2), (1, 40, 16), (33, 129, 32), (290, 290, 24), (70, 257, 40)], ids=str)
def test_within_the_roundings_of_attention(impl: ModuleType, shape: Shape, causal: int, kind: str) -> None:
    """Against float64 on rounded inputs: a term of a sum may be off by two roundings of its factor, P or dS.

    Terms of dS cancel, so what float32 loses of them, 1e-5 at most, comes on top.
    """
    queries, keys, depth = shape
    rng = np.random.default_rng(queries + depth)
    g, q, k, v = map(reference._rounded, heads(rng, queries, queries, keys, keys, depth=depth))
    mask = mask_of(kind, rng, queries, keys)
    wide = [x.astype(np.float64) for x in (g, q, k, v)]
    want, want_lse = reference.attention(*wide[1:], mask, causal)
    out, lse = impl.attention(q, k, v, mask, causal, bfloat16=True)

    gh, qh, kh, vh = map(by_head, wide)
    scores = qh @ kh.swapaxes(2, 3) / np.sqrt(depth)
    seen = reference._visible(queries, keys, 0, queries, mask, causal)
    p = np.where(
        True if seen is None else seen, np.exp(scores - np.where(want_lse == -np.inf, 0, want_lse)[..., None]), 0
    )
    delta = (gh * by_head(want)).sum(axis=-1, keepdims=True)
    ds = p * (gh @ vh.swapaxes(2, 3) - delta)
    h = 2.0**-8
    np.testing.assert_allclose(lse, want_lse, rtol=2e-6, atol=2e-6)
    assert (np.abs(by_head(out - want)) <= h * (p @ np.abs(vh))).all()

    got = gradients(impl, g, q, k, v, want.astype(np.float32), want_lse.astype(np.float32), mask=mask, causal=causal)
    off = h * np.abs(ds) + 1e-5 * p * (np.abs(gh) @ np.abs(vh).swapaxes(2, 3) + np.abs(delta))
    scale = 1 / np.sqrt(depth)
    for one, exact, limit in zip(
        got, (scale * ds @ kh, scale * ds.swapaxes(2, 3) @ qh, p.swapaxes(2, 3) @ gh),
        (scale * off @ np.abs(kh), scale * off.swapaxes(2, 3) @ np.abs(qh), h * p.swapaxes(2, 3) @ np.abs(gh)),
        strict=True,
    ):  # fmt: skip
        assert (np.abs(by_head(one) - exact) <= limit + 1e-12).all()


@pytest.mark.parametrize("causal", [0, 1])
def test_rounded_where_the_specification_rounds(isa: str, causal: int) -> None:
    """Within a tile of keys, nearly everything is nearer to the specification than to what is not rounded.

    Nearly: an exponential that lies close to the middle of two bfloat16 may be rounded up here and down there.
    """
    g, q, k, v = heads(np.random.default_rng(1), 90, 90, 128, 128, depth=32)
    assert native is not None
    out, lse = reference.attention(q, k, v, None, causal, bfloat16=True)
    here = [
        native.attention(q, k, v, None, causal, bfloat16=True)[0],
        *gradients(native, g, q, k, v, out, lse, causal=causal),
    ]
    there = [out, *gradients(reference, g, q, k, v, out, lse, causal=causal)]
    factors = [reference._rounded(x) for x in (q, k, v, g)]
    unrounded = [np.empty_like(x) for x in (q, k, v)]
    reference.attention_backward(factors[3], *factors[:3], out, lse, *unrounded, None, causal)
    exact = [reference.attention(*factors[:3], None, causal)[0], *unrounded]
    for a, b, c in zip(here, there, exact, strict=True):
        assert np.median(np.abs(a - b)) < 1e-6
        assert np.median(np.abs(b - c)) > 1e-5


@pytest.mark.parametrize("layout", [*LAYOUTS, "packed"])
def test_layouts_of_attention(isa: str, layout: str) -> None:
    """The bits do not depend on how the numbers lie in memory, and what is only read stays as it was."""
    arrays = heads(np.random.default_rng(0), 50, 50, 70, 70, depth=24)
    assert native is not None
    out, lse = native.attention(*arrays[1:], bfloat16=True)
    want = [out, *gradients(native, *arrays, out, lse)]
    if layout == "packed":
        laid = [np.stack([np.full_like(x, np.nan), x], axis=2)[:, :, 1] for x in arrays]
    else:
        laid = [laid_out(x, layout) for x in arrays]
    got = [native.attention(*laid[1:], bfloat16=True)[0], *gradients(native, *laid, out, lse)]
    for a, b in zip((*got, *laid), (*want, *arrays), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("causal", [0, 1])
def test_threads_change_nothing_in_attention(isa: str, causal: int) -> None:
    """Nor does a query that comes alone: in a cache it gets what it gets among all."""
    assert native is not None
    g, q, k, v = heads(np.random.default_rng(0), 300, 300, 300, 300, depth=20)
    before = native.threads()
    results = []
    try:
        for threads in (1, 2, 3, 5):
            native.set_threads(threads)
            out, lse = native.attention(q, k, v, None, causal, bfloat16=True)
            results.append([out, lse, *gradients(native, g, q, k, v, out, lse, causal=causal)])
    finally:
        native.set_threads(before)
    for other in results[1:]:
        for a, b in zip(other, results[0], strict=True):
            np.testing.assert_array_equal(a, b)
    for last in (1, 3, 40):
        np.testing.assert_array_equal(
            native.attention(q[:, -last:], k, v, None, causal, bfloat16=True)[0], out[:, -last:]
        )


def test_nan_stays_in_its_head(impl: ModuleType) -> None:
    """A query that is not a number spoils its own output; a value, what sees it; neither the other heads."""
    q, k, v = heads(np.random.default_rng(0), 40, 50, 50, depth=8)
    want = impl.attention(q, k, v, None, 1, bfloat16=True)[0]
    q[0, 3, 1, 2] = v[1, 45, 0, 7] = np.nan
    got = impl.attention(q, k, v, None, 1, bfloat16=True)[0]
    spoilt = np.zeros(got.shape, bool)
    spoilt[0, 3, 1] = spoilt[1, 35:, 0, 7] = True
    assert np.isnan(got[spoilt]).all()
    spoilt[1, :35, 0, 7] = np.isnan(got[1, :35, 0, 7])  # hidden, it may still be multiplied by 0
    np.testing.assert_array_equal(got[~spoilt], want[~spoilt])


@pytest.mark.parametrize(("queries", "keys"), [(3, 5), (40, 300), (1, 129), (7, 0)])
def test_rounded_queries_that_see_nothing(impl: ModuleType, queries: int, keys: int) -> None:
    """Zeros, lse -inf and zero gradients, however large the hidden scores are."""
    rng = np.random.default_rng(2)
    q, k, v, g = heads(rng, queries, keys, keys, queries, depth=4)
    for blind in (slice(None), slice(queries // 2, queries // 2 + 1)):
        mask = np.ones((queries, keys), bool)
        mask[blind] = False
        out, lse = impl.attention(1000 * q, k, v, mask, bfloat16=True)
        dq, dk, dv = gradients(impl, g, 1000 * q, k, v, out, lse, mask=mask)
        assert not out[:, blind].any()
        assert not dq[:, blind].any()
        np.testing.assert_array_equal(lse[:, :, blind], -np.inf)
        assert all(np.isfinite(x).all() for x in (out, dq, dk, dv))


# --- what is refused ------------------------------------------------------------------------------------------------


def test_float64_is_refused(impl: ModuleType) -> None:
    """Rounding it to 8 bits is never what is meant."""
    with pytest.raises(TypeError, match="a has dtype float64; expected float32 for a product in bfloat16"):
        impl.matmul(np.ones((2, 2)), np.ones((2, 2)), bfloat16=True)
    x, lse = np.ones((1, 2, 1, 4)), np.ones((1, 1, 2))
    with pytest.raises(TypeError, match="q has dtype float64; expected float32 for a product in bfloat16"):
        impl.attention(x, x, x, bfloat16=True)
    with pytest.raises(TypeError, match="q has dtype float64; expected float32 for a product in bfloat16"):
        impl.attention_backward(x, x, x, x, x, lse, x, x, x, bfloat16=True)


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
                x, lse = np.ones((1, 2, 1, 4), np.float32), np.ones((1, 1, 2), np.float32)
                with pytest.raises(RuntimeError, match=f"{isa} has no products of bfloat16"):
                    native.attention(x, x, x, bfloat16=True)
                with pytest.raises(RuntimeError, match=f"{isa} has no products of bfloat16"):
                    native.attention_backward(x, x, x, x, x, lse, x, x, x, bfloat16=True)
    finally:
        native.use_isa(before)
