"""Attention: both directions, every kind of mask, every layout, and memory linear in the length.

Native tiles are 128 keys by 32 queries, in groups of 256 queries; the reference takes 128 queries at a time.
"""

import functools
import itertools
import math
import sys
import tracemalloc
from types import ModuleType
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_support import (
    LAYOUTS,
    Array,
    assert_close,
    examples,
    laid_out,
    normal,
    numerical_gradient,
    python,
    seeds,
    wide,
)

from tinydiff.kernels import native, reference

MASKS = ("all", "(L, L)", "(B, L, L)", "same for every query", "same for every key", "strided", "late", "blind")
HEADS_LAYOUTS = (*LAYOUTS, "packed", "heads first", "reversed in length")


class Case(NamedTuple):
    """Shapes and a seed, from which everything else follows."""

    batch: int
    queries: int
    keys: int
    heads: int
    depth: int
    mask: str
    causal: int
    scale: float
    seed: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small shapes with every combination, or one sequence around a border of the tiles."""
    if draw(st.booleans()):
        batch, heads = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        queries, keys = draw(st.integers(0, 40)), draw(st.integers(0, 40))
    else:
        batch, heads = 1, draw(st.integers(1, 2))
        border = st.sampled_from([31, 32, 33, 127, 128, 129, 255, 256, 257, 290])
        queries, keys = draw(border), draw(border)
    causal = draw(st.sampled_from([0, 0, 1, 1, 3, 32, 100, 128]))
    if causal:
        queries, keys = sorted((queries, keys))
    depth = draw(st.integers(1, 9) | st.sampled_from([16, 17, 32]))
    return Case(
        batch, queries, keys, heads, depth, draw(st.sampled_from(MASKS)), causal, draw(st.sampled_from([1, 30])),
        draw(seeds),
    )  # fmt: skip


def _mask(case: Case, rng: np.random.Generator) -> Array | None:
    shape = (case.batch, case.queries, case.keys)
    mask = rng.random(shape) < 0.7
    if case.mask == "all":
        return None
    if case.mask == "(L, L)":
        return rng.random(shape[1:]) < 0.7
    if case.mask == "same for every query":
        return np.broadcast_to(rng.random((case.batch, 1, case.keys)) < 0.7, shape)
    if case.mask == "same for every key":
        return np.broadcast_to(rng.random((case.queries, 1)) < 0.7, shape[1:])
    if case.mask == "strided":
        return (rng.random((case.keys, 2 * case.queries)) < 0.7).T[::-2]
    if case.mask == "late":
        mask[:, :, :130] = False  # nothing seen in the whole first tile of keys
    if case.mask == "blind":
        mask[:, ::2] = False  # every second query sees nothing at all
    return mask


class Problem(NamedTuple):
    """Inputs in the narrow type, results in the wide one, and how many roundings each result may be off by."""

    q: Array
    k: Array
    v: Array
    g: Array
    mask: Array | None
    out: Array
    lse: Array
    off_out: Array
    off_lse: Array
    gradients: tuple[Array, Array, Array]
    off_gradients: tuple[Array, Array, Array]


def _with_length_first(x: Array) -> Array:
    return x.swapaxes(1, 2)


@functools.cache
def problem(case: Case, dtype: type) -> Problem:
    """Solve a case the way textbooks do, with the whole matrix of probabilities, which also bounds the roundings.

    A score s = q k / sqrt(D) is off by (sqrt(D) + 2) |q| |k| / sqrt(D), and exp(s - lse) relatively by twice that and
    4 for exp. The terms of each sum are known, and n terms add sqrt(n) roundings.
    """
    rng = np.random.default_rng(case.seed)
    shape, shape_k = ((case.batch, n, case.heads, case.depth) for n in (case.queries, case.keys))
    q, k = normal(rng, shape, dtype, case.scale), normal(rng, shape_k, dtype)
    v, g = normal(rng, shape_k, dtype), normal(rng, shape, dtype)
    mask = _mask(case, rng)
    qh, kh, vh, gh = (_with_length_first(a) for a in wide(q, k, v, g))  # (B, H, L, D)
    root = math.sqrt(case.depth)

    scores = qh @ kh.swapaxes(2, 3) / np.sqrt(qh.dtype.type(case.depth))
    if mask is not None:
        scores = np.where(mask if mask.ndim == 2 else mask[:, None], scores, -np.inf)
    if case.causal:
        block_of_query = (np.arange(case.queries) + case.keys - case.queries) // case.causal
        scores = np.where(np.arange(case.keys) // case.causal <= block_of_query[:, None], scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True, initial=-1e9)
    p = np.exp(scores - top)
    total = p.sum(axis=-1, keepdims=True)
    p /= np.where(total == 0, 1, total)
    lse = np.where(total == 0, -np.inf, top + np.log(np.where(total == 0, 1, total)))
    out = p @ vh

    off_score = (root + 2) * (np.abs(qh) @ np.abs(kh.swapaxes(2, 3)) / root).max(axis=-1, keepdims=True, initial=0)
    off_p = p * (2 * off_score + 4)
    off_out = off_p @ np.abs(vh) + math.sqrt(case.keys) * (p @ np.abs(vh))
    off_lse = off_score + 4 + math.sqrt(case.keys) + np.where(total == 0, 0, np.abs(lse))

    # The gradients of the rounded out and lse, which the backward pass is given.
    out_given, lse_given = out.astype(dtype).astype(out.dtype), lse.astype(dtype).astype(lse.dtype)
    p *= np.exp(np.where(total == 0, 0, lse - np.where(total == 0, 0, lse_given)))
    ds = p * (gh @ vh.swapaxes(2, 3) - (gh * out_given).sum(axis=-1, keepdims=True)) / root
    terms = np.abs(gh) @ np.abs(vh.swapaxes(2, 3)) + np.abs(gh * out_given).sum(axis=-1, keepdims=True)
    subnormal = np.finfo(dtype).smallest_subnormal / np.finfo(dtype).eps
    off_p = p * (2 * off_score + 4 + np.where(total == 0, 0, np.abs(lse))) + subnormal
    off_ds = (off_p + (root + 2) * p) * terms / root + subnormal
    gradients = (ds @ kh, ds.swapaxes(2, 3) @ qh, p.swapaxes(2, 3) @ gh)
    transposed = off_ds + math.sqrt(case.queries) * np.abs(ds)
    off_gradients = (
        (off_ds + math.sqrt(case.keys) * np.abs(ds)) @ np.abs(kh),
        transposed.swapaxes(2, 3) @ np.abs(qh),
        (off_p + math.sqrt(case.queries) * p).swapaxes(2, 3) @ np.abs(gh),
    )
    return Problem(
        q, k, v, g, mask, _with_length_first(out), lse[..., 0], _with_length_first(off_out), off_lse[..., 0],
        tuple(map(_with_length_first, gradients)), tuple(map(_with_length_first, off_gradients)),
    )  # fmt: skip


def _heads(array: Array, layout: str) -> Array:
    """The same (B, L, H, D) values, as a view such as the model or a test of the stride arithmetic would pass."""
    if layout == "packed":
        return np.stack([np.full_like(array, np.nan), array, np.full_like(array, np.nan)], axis=2)[:, :, 1]
    if layout == "heads first":
        return array.swapaxes(1, 2).copy().swapaxes(1, 2)
    if layout == "reversed in length":
        return array[:, ::-1].copy()[:, ::-1]
    return laid_out(array, layout)


heads_layouts = st.lists(st.sampled_from(HEADS_LAYOUTS), min_size=5, max_size=5)


@examples
@given(case=cases(), layout=heads_layouts)
def test_attention(impl: ModuleType, dtype: type, case: Case, layout: list[str]) -> None:
    """Guards the scale, the offset of causal queries, the mask's strides, the running maximum and the tile borders."""
    want = problem(case, dtype)
    q, k, v = map(_heads, (want.q, want.k, want.v), layout)
    out, lse = impl.attention(q, k, v, want.mask, case.causal)
    assert_close(lse, want.lse, dtype, want.off_lse)
    assert_close(out, want.out, dtype, want.off_out)


@examples
@given(case=cases(), layout=heads_layouts)
def test_attention_backward(impl: ModuleType, dtype: type, case: Case, layout: list[str]) -> None:
    """Guards the same for the gradients, which overwrite what was in three parts of a packed array, and only those."""
    want = problem(case, dtype)
    g, q, k, v, out = map(_heads, (want.g, want.q, want.k, want.v, want.out.astype(dtype)), layout)
    packed_q = np.full((case.batch, case.queries, 4, case.heads, case.depth), np.nan, dtype)
    packed_kv = np.full((case.batch, case.keys, 4, case.heads, case.depth), np.nan, dtype)
    dq, dk, dv = packed_q[:, :, 0], packed_kv[:, :, 1], packed_kv[:, :, 2]
    impl.attention_backward(g, q, k, v, out, want.lse.astype(dtype), dq, dk, dv, want.mask, case.causal)
    for got, gradient, off in zip((dq, dk, dv), want.gradients, want.off_gradients, strict=True):
        assert_close(got, gradient, dtype, off)
    for untouched in (packed_q[:, :, 1:], packed_kv[:, :, [0, 3]]):
        assert np.isnan(untouched).all()


BORDERS = [(1, 1), (1, 129), (129, 129), (33, 129), (257, 257)]


@pytest.mark.parametrize("causal", [1, 2, 33, 128, 129])
@pytest.mark.parametrize("sizes", BORDERS, ids=str)
def test_borders_of_causal_tiles(impl: ModuleType, dtype: type, sizes: tuple[int, int], causal: int) -> None:
    """The last query of a tile of 32, or the first key of one of 128, alone in it; blocks that end at such a border."""
    case = Case(2, *sizes, 2, 8, "all", causal, 1, 0)
    want = problem(case, dtype)
    out, lse = impl.attention(want.q, want.k, want.v, None, causal)
    assert_close(lse, want.lse, dtype, want.off_lse)
    assert_close(out, want.out, dtype, want.off_out)
    got = _backward(impl, want.g, want.q, want.k, want.v, None, causal)
    for one, gradient, off in zip(got, want.gradients, want.off_gradients, strict=True):
        assert_close(one, gradient, dtype, off + 4 * off.max())  # of the rounded out and lse of the call itself


def test_causal_is_checked(impl: ModuleType) -> None:
    """A negative length of blocks."""
    q = np.zeros((1, 2, 1, 4), np.float32)
    with pytest.raises(ValueError, match="causal is -1; expected 0"):
        impl.attention(q, q, q, None, -1)


# --- properties -----------------------------------------------------------------------------------------------------


def _backward(
    impl: ModuleType, g: Array, q: Array, k: Array, v: Array, mask: Array | None = None, causal: int = 0
) -> list[Array]:
    out, lse = impl.attention(q, k, v, mask, causal)
    gradients = [np.full_like(a, np.nan) for a in (q, k, v)]
    impl.attention_backward(g, q, k, v, out, lse, *gradients, mask, causal)
    return gradients


@pytest.mark.parametrize("causal", [0, 1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_gradient(impl: ModuleType, causal: int, masked: bool) -> None:
    """The formulas themselves, against finite differences, with one query that sees nothing."""
    rng = np.random.default_rng(0)
    q, g, k, v = (rng.standard_normal((2, n, 2, 3)) for n in (3, 3, 4, 4))
    mask = rng.random((2, 3, 4)) < 0.8 if masked else None
    if masked:
        mask[1, 1] = False

    def loss() -> float:
        return float((g * impl.attention(q, k, v, mask, causal)[0]).sum())

    for got, x in zip(_backward(impl, g, q, k, v, mask, causal), (q, k, v), strict=True):
        np.testing.assert_allclose(got, numerical_gradient(loss, x), rtol=0, atol=1e-10)


def test_packed_qkv(impl: ModuleType, dtype: type) -> None:
    """The model's own call: views of one array in, views of one array out, each element written."""
    rng = np.random.default_rng(1)
    qkv, g = normal(rng, (2, 70, 3, 2, 8), dtype), normal(rng, (2, 70, 2, 8), dtype)
    q, k, v = (qkv[:, :, i] for i in range(3))
    out, lse = impl.attention(q, k, v)
    dqkv = np.full_like(qkv, np.nan)
    impl.attention_backward(g, q, k, v, out, lse, *(dqkv[:, :, i] for i in range(3)))
    want = _backward(impl, g, *(a.copy() for a in (q, k, v)))
    np.testing.assert_array_equal(dqkv, np.stack(want, axis=2))


@pytest.mark.parametrize(("queries", "keys"), [(3, 5), (40, 300), (300, 300), (1, 129), (7, 0)])
def test_a_query_that_sees_nothing(impl: ModuleType, dtype: type, queries: int, keys: int) -> None:
    """Zeros, lse -inf and zero gradients, not 0/0: for all queries, then for one among others that do see.

    The hidden scores are far too large for exp, which must not even warn.
    """
    rng = np.random.default_rng(2)
    q, g = normal(rng, (1, queries, 2, 4), dtype, 1e4), normal(rng, (1, queries, 2, 4), dtype)
    k, v = normal(rng, (1, keys, 2, 4), dtype), normal(rng, (1, keys, 2, 4), dtype)
    for blind in (slice(None), slice(queries // 2, queries // 2 + 1)):
        mask = np.ones((queries, keys), bool)
        mask[blind] = False
        out, lse = impl.attention(q, k, v, mask)
        dq, dk, dv = _backward(impl, g, q, k, v, mask)
        assert not out[:, blind].any()
        assert not dq[:, blind].any()
        np.testing.assert_array_equal(lse[:, :, blind], -np.inf)
        assert all(np.isfinite(a).all() for a in (out, dq, dk, dv))
        if blind == slice(None):
            assert not dk.any()
            assert not dv.any()


@pytest.mark.parametrize("causal", [False, True])
def test_large_hidden_scores(impl: ModuleType, dtype: type, causal: bool) -> None:
    """A hidden key may have any score: exp(score - lse) must not overflow before the mask is applied."""
    q = np.full((1, 2, 1, 1), 1000, dtype)
    k, v, g = np.array([0, 1000], dtype).reshape(1, 2, 1, 1), np.ones((1, 2, 1, 1), dtype), np.ones_like(q)
    mask = None if causal else np.tri(2, dtype=bool)
    dq, dk, dv = _backward(impl, g, q, k, v, mask, causal)
    np.testing.assert_array_equal(dv.ravel(), [1, 1])
    assert not dq.any()
    assert not dk.any()


@pytest.mark.parametrize("top", [1e4, -1e4])
def test_large_scores(impl: ModuleType, dtype: type, top: float) -> None:
    """Scores of +-10000 with the largest in the last tile: exp must be taken of differences, in both directions."""
    keys = 300
    q, g = np.ones((1, 1, 1, 1), dtype), np.ones((1, 1, 1, 1), dtype)
    k = (top + np.linspace(-200, 0, keys)).astype(dtype).reshape(1, keys, 1, 1)
    v = np.arange(keys).astype(dtype).reshape(1, keys, 1, 1)
    scores = k.ravel().astype(np.longdouble)
    p = np.exp(scores - scores.max())
    p /= p.sum()
    eps = np.finfo(dtype).eps * abs(top)  # one rounding of lse
    out, lse = impl.attention(q, k, v)
    np.testing.assert_allclose(out.item(), float(p @ v.ravel()), rtol=eps)
    np.testing.assert_allclose(lse.item(), float(scores.max() - np.log(p.max())), rtol=2 * np.finfo(dtype).eps)
    np.testing.assert_allclose(_backward(impl, g, q, k, v)[2].ravel(), p.astype(float), rtol=2 * eps, atol=1e-44)


def test_causal_queries_are_the_last_positions(impl: ModuleType, dtype: type) -> None:
    """Decoding with a cache: the last queries alone, with all keys, get what they get among all queries."""
    rng = np.random.default_rng(3)
    q, k, v = (normal(rng, (2, 300, 2, 8), dtype) for _ in range(3))
    whole, whole_lse = impl.attention(q, k, v, causal=True)
    for n in (1, 45, 257):
        out, lse = impl.attention(q[:, -n:], k, v, causal=True)
        # the same operations in other tiles
        np.testing.assert_allclose(out, whole[:, -n:], rtol=0, atol=20 * np.finfo(dtype).eps)
        np.testing.assert_allclose(lse, whole_lse[:, :, -n:], rtol=0, atol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", "gqkv")
def test_special_values_spread_as_specified(compiled: ModuleType, dtype: type, name: str) -> None:
    """One NaN or infinity makes the same elements NaN or infinite as in NumPy, in both directions.

    It is in the first tile of keys or in the second, in the first axis of a head or in the last.
    """
    for value, position, axis in itertools.product((np.nan, np.inf, -np.inf), (5, 129), (0, 2)):
        rng = np.random.default_rng(4)
        arrays = dict(zip("gqkv", normal(rng, (4, 1, 131, 1, 3), dtype), strict=True))
        arrays[name][0, position, 0, axis] = value
        _, q, k, v = arrays.values()
        with np.errstate(invalid="ignore"):  # what is computed here is invalid
            want = [*reference.attention(q, k, v), *_backward(reference, *arrays.values())]
        for a, b in zip([*compiled.attention(q, k, v), *_backward(compiled, *arrays.values())], want, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=200 * np.finfo(dtype).eps)


# --- memory ---------------------------------------------------------------------------------------------------------


def test_memory_of_the_reference_is_linear() -> None:
    """Less than a quarter of one matrix of scores, which is 64 MB here, for everything that both directions need."""
    arrays = [np.ones((1, 4096, 1, 8), np.float32) for _ in range(4)]
    tracemalloc.start()
    _backward(reference, *arrays, causal=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4096**2 * 4 / 4


MEASURE = """
import resource, sys
import numpy as np
from tinydiff.kernels import native

def run(length):
    g, q, k, v = np.ones((4, 1, length, 1, 8), np.float32)
    out, lse = native.attention(q, k, v, None, True)
    native.attention_backward(g, q, k, v, out, lse, *np.ones((3, *q.shape), np.float32), None, True)

def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else 1024 * used

run(512)
# The mark may start high (a child inherits its parent's): hold memory until it moves, so that what follows shows.
start, held = peak(), []
while peak() == start:
    held.append(np.ones(1 << 17))
before = peak()
run(4096)
print(peak() - before)
"""


@pytest.mark.skipif(native is None, reason="the native extension is not built")
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
def test_memory_of_the_native_kernel_is_linear() -> None:
    """The whole process grows by less than an eighth of one matrix of scores."""
    done = python(MEASURE)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4096**2 * 4 / 8
