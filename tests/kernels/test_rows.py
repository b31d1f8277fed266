"""Softmax, cross-entropy, layer norm, GELU and rotary positions.

`roundings` in these tests counts units of eps: an exp is good to 1.5, and x - max adds half a unit of its own size.
"""

import math
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_support import (
    Array,
    assert_close,
    examples,
    laid_out,
    layouts,
    leading,
    lengths,
    normal,
    numerical_gradient,
    seeds,
    wide,
)

from tinydiff.kernels import reference

# 4096 elements are one task of an element-wise native kernel.
element_shapes = st.lists(st.integers(0, 9), max_size=3).map(tuple) | st.sampled_from([(4095,), (4096,), (3, 3001)])


# --- against the specification --------------------------------------------------------------------------------------


@examples
@given(lead=leading, n=st.just(0) | lengths, scale=st.sampled_from([1, 30]), layout=layouts, seed=seeds)
def test_softmax(
    impl: ModuleType, dtype: type, lead: tuple[int, ...], n: int, scale: float, layout: list[str], seed: int
) -> None:
    """Guards the shift by the maximum, the sum across lanes and the lanes past the end of a row."""
    x = normal(np.random.default_rng(seed), (*lead, n), dtype, scale)
    want = reference.softmax(*wide(x))
    below_top = x.max(axis=-1, keepdims=True, initial=-math.inf) - x
    assert_close(impl.softmax(laid_out(x, layout[0])), want, dtype, want * (4 + math.sqrt(n) + below_top))


@examples
@given(lead=leading, n=st.just(0) | lengths, scale=st.sampled_from([1, 30]), layout=layouts, seed=seeds)
def test_log_softmax(
    impl: ModuleType, dtype: type, lead: tuple[int, ...], n: int, scale: float, layout: list[str], seed: int
) -> None:
    """Guards the subtraction of one normaliser per row, also where the probability underflows."""
    x = normal(np.random.default_rng(seed), (*lead, n), dtype, scale)
    want = reference.log_softmax(*wide(x))
    assert_close(impl.log_softmax(laid_out(x, layout[0])), want, dtype, 4 + math.sqrt(n) + np.abs(x - want) + abs(want))


@st.composite
def _logits(draw: st.DrawFn) -> tuple[Array, Array]:
    rows, n = draw(st.integers(0, 5) | st.sampled_from([127, 129])), draw(lengths)
    rng = np.random.default_rng(draw(seeds))
    return rng.standard_normal((rows, n)) * draw(st.sampled_from([1, 30])), rng.integers(0, n, rows)


@examples
@given(case=_logits(), layout=layouts)
def test_cross_entropy(impl: ModuleType, dtype: type, case: tuple[Array, Array], layout: list[str]) -> None:
    """Guards the choice of the target's logit, and targets that are views."""
    logits, targets = case[0].astype(dtype), case[1]
    nll, lse = impl.cross_entropy(laid_out(logits, layout[0]), laid_out(targets, layout[1]))
    want, want_lse = reference.cross_entropy(*wide(logits), targets)
    roundings = 4 + math.sqrt(logits.shape[1]) + np.abs(want_lse)
    assert_close(lse, want_lse, dtype, roundings)
    assert_close(nll, want, dtype, roundings + want)


@examples
@given(case=_logits(), layout=layouts, seed=seeds)
def test_cross_entropy_backward(
    impl: ModuleType, dtype: type, case: tuple[Array, Array], layout: list[str], seed: int
) -> None:
    """Guards g, which differs from row to row, and the one element per row that loses it."""
    logits, targets = case[0].astype(dtype), case[1]
    g = normal(np.random.default_rng(seed), targets.shape, dtype)
    lse = reference.cross_entropy(logits, targets)[1]
    got = impl.cross_entropy_backward(*map(laid_out, (g, logits, targets, lse), layout))
    wide_g, wide_logits, wide_lse = wide(g, logits, lse)
    shifted = wide_logits - wide_lse[:, None]
    info = np.finfo(dtype)
    roundings = np.exp(shifted) * (4 + np.abs(shifted)) + info.smallest_subnormal / info.eps
    roundings[np.arange(len(targets)), targets] += 1
    want = reference.cross_entropy_backward(wide_g, wide_logits, targets, wide_lse)
    assert_close(got, want, dtype, roundings * np.abs(wide_g)[:, None])


@examples
@given(lead=leading, n=lengths, offset=st.sampled_from([0, 1000]), layout=layouts, seed=seeds)
def test_layer_norm(
    impl: ModuleType, dtype: type, lead: tuple[int, ...], n: int, offset: float, layout: list[str], seed: int
) -> None:
    """Guards the two passes: mean(x^2) - mean^2 in place of the variance fails when the mean is large."""
    rng = np.random.default_rng(seed)
    x = np.asarray(offset + normal(rng, (*lead, n), dtype), dtype)
    weight, bias = normal(rng, (n,), dtype), normal(rng, (n,), dtype)
    y, mean, rstd = impl.layer_norm(*map(laid_out, (x, weight, bias), layout))
    wide_x, wide_weight, wide_bias = wide(x, weight, bias)
    want, want_mean, want_rstd = reference.layer_norm(wide_x, wide_weight, wide_bias)
    off_mean = (1 + math.sqrt(n)) * np.abs(wide_x).mean(axis=-1)
    assert_close(mean, want_mean, dtype, off_mean)
    assert_close(rstd, want_rstd, dtype, (3 + math.sqrt(n)) * want_rstd)
    normalised = np.abs(wide_x - want_mean[..., None]) * want_rstd[..., None]
    off = (off_mean * want_rstd)[..., None] + normalised * (4 + math.sqrt(n))
    assert_close(y, want, dtype, (off + normalised) * np.abs(wide_weight) + np.abs(wide_bias) + np.abs(want))


@pytest.mark.parametrize("eps", [1e-5, 0.5])
def test_layer_norm_of_equal_numbers(impl: ModuleType, dtype: type, eps: float) -> None:
    """Zero variance leaves the bias, and rstd = 1/sqrt(eps): the eps argument must arrive."""
    x, weight, bias = np.full((2, 19), 3, dtype), np.full(19, 5, dtype), np.arange(19).astype(dtype)
    y, mean, rstd = impl.layer_norm(x, weight, bias, eps)
    np.testing.assert_array_equal(y, [bias, bias])
    np.testing.assert_array_equal(mean, [3, 3])
    np.testing.assert_allclose(rstd, 1 / math.sqrt(eps), rtol=2 * np.finfo(dtype).eps)


@examples
@given(lead=leading, n=lengths, offset=st.sampled_from([0, 1000]), layout=layouts, seed=seeds)
def test_layer_norm_backward(
    impl: ModuleType, dtype: type, lead: tuple[int, ...], n: int, offset: float, layout: list[str], seed: int
) -> None:
    """Guards the two means inside a row, and the partial sums over blocks of 128 rows."""
    rng = np.random.default_rng(seed)
    g, x, weight = normal(rng, (*lead, n), dtype), normal(rng, (*lead, n), dtype), normal(rng, (n,), dtype)
    x = np.asarray(x + offset, dtype)
    mean = np.asarray(x.mean(axis=-1), dtype)
    rstd = np.asarray(1 / (1 + x.std(axis=-1)), dtype)
    arguments = (g, x, weight, mean, rstd)
    dx, dweight, dbias = impl.layer_norm_backward(*map(laid_out, arguments, layout))
    wide_g, wide_x, wide_weight, wide_mean, wide_rstd = wide(*arguments)
    want = reference.layer_norm_backward(wide_g, wide_x, wide_weight, wide_mean, wide_rstd)
    h = np.abs(wide_x - wide_mean[..., None]) * wide_rstd[..., None]
    d = np.abs(wide_g * wide_weight)
    terms = d + d.mean(axis=-1, keepdims=True) + h * (d * h).mean(axis=-1, keepdims=True)
    assert_close(dx, want[0], dtype, (5 + math.sqrt(n)) * terms * wide_rstd[..., None])
    rows = tuple(range(len(lead)))
    roundings = 4 + math.sqrt(math.prod(lead))
    assert_close(dweight, want[1], dtype, roundings * (np.abs(wide_g) * h).sum(axis=rows))
    assert_close(dbias, want[2], dtype, roundings * np.abs(wide_g).sum(axis=rows))


def _sigmoid_and_roundings(x: Array) -> tuple[Array, Array, Array]:
    """Sigmoid of 2u in a wide type, the derivative of 2u, and how many roundings of its size the sigmoid is off by."""
    u2 = math.sqrt(8 / math.pi) * (x + 0.044715 * x**3)
    s = 1 / (1 + np.exp(-u2))
    return s, math.sqrt(8 / math.pi) * (1 + 3 * 0.044715 * x**2), 4 + 3 * np.abs(u2) * (1 - s)


@examples
@given(shape=element_shapes, scale=st.sampled_from([1, 4]), layout=layouts, seed=seeds)
def test_gelu(
    impl: ModuleType, dtype: type, shape: tuple[int, ...], scale: float, layout: list[str], seed: int
) -> None:
    """Guards the two constants, and precision far to the left, where x/2 (1 + tanh u) would cancel to nothing.

    A sigmoid under 1/max of the type may be lost: its exp overflows.
    """
    x = normal(np.random.default_rng(seed), shape, dtype, scale)
    (wide_x,) = wide(x)
    want = reference.gelu(wide_x)
    off = _sigmoid_and_roundings(wide_x)[2]
    lost = np.abs(wide_x) / np.finfo(dtype).max / np.finfo(dtype).eps
    assert_close(impl.gelu(laid_out(x, layout[0])), want, dtype, (off + 1) * np.abs(want) + lost)


@examples
@given(shape=element_shapes, scale=st.sampled_from([1, 4]), layout=layouts, seed=seeds)
def test_gelu_backward(
    impl: ModuleType, dtype: type, shape: tuple[int, ...], scale: float, layout: list[str], seed: int
) -> None:
    """Guards the product rule; 1 - sigmoid is off by up to a unit of one, or is all lost where it is smaller."""
    rng = np.random.default_rng(seed)
    g, x = normal(rng, shape, dtype), normal(rng, shape, dtype, scale)
    wide_g, wide_x = wide(g, x)
    want = reference.gelu_backward(wide_g, wide_x)
    s, slope, off = _sigmoid_and_roundings(wide_x)
    turn = np.abs(wide_x) * slope
    cancelled = turn * np.minimum(1, (1 - s) / np.finfo(dtype).eps)
    lost = turn / np.finfo(dtype).max / np.finfo(dtype).eps
    roundings = (2 * off + 6) * (s + turn * s * (1 - s)) + cancelled + lost
    assert_close(impl.gelu_backward(*map(laid_out, (g, x), layout)), want, dtype, roundings * np.abs(wide_g))


@examples
@given(
    lead=st.tuples(st.integers(0, 3), st.integers(0, 9) | st.just(67)),
    heads=st.integers(0, 3),
    half=st.integers(0, 9) | st.sampled_from([16, 33]),
    layout=layouts,
    per_sequence=st.booleans(),
    seed=seeds,
)
def test_rotary(
    impl: ModuleType,
    dtype: type,
    lead: tuple[int, int],
    heads: int,
    half: int,
    layout: list[str],
    per_sequence: bool,
    seed: int,
) -> None:
    """Guards the pairing of j with j + D/2, the position that picks the angle, and the values, which stay as is."""
    rng = np.random.default_rng(seed)
    qkv = normal(rng, (*lead, 3, heads, 2 * half), dtype)
    cos, sin = normal(rng, (2, *(lead if per_sequence else lead[1:]), half), dtype)
    got = impl.rotary(*map(laid_out, (qkv, cos, sin), layout))
    want = reference.rotary(*wide(qkv, cos, sin))
    a, b = np.split(np.abs(qkv), 2, axis=-1)
    c, s = np.abs(cos)[..., None, None, :], np.abs(sin)[..., None, None, :]
    assert_close(got, want, dtype, 2 * np.concatenate([a * c + b * s, a * s + b * c], axis=-1))
    np.testing.assert_array_equal(got[:, :, 2], qkv[:, :, 2])


def test_rotary_turns_by_the_angle(impl: ModuleType) -> None:
    """(1, 0) becomes (cos, sin), counter-clockwise, for queries and keys; the same with -sin turns it back."""
    qkv, angle = np.zeros((1, 1, 3, 1, 4)), np.array([[0.5, 2.0]])
    qkv[..., 0], qkv[..., 3] = 1, 1  # pairs (0, 2) and (1, 3): (1, 0) and (0, 1)
    turned = impl.rotary(qkv, np.cos(angle), np.sin(angle))
    want = [math.cos(0.5), -math.sin(2.0), math.sin(0.5), math.cos(2.0)]
    np.testing.assert_allclose(turned[0, 0, :, 0], [want, want, qkv[0, 0, 2, 0]], atol=1e-15)
    np.testing.assert_allclose(impl.rotary(turned, np.cos(angle), -np.sin(angle)), qkv, atol=1e-15)


# --- backward against finite differences ----------------------------------------------------------------------------


def test_cross_entropy_gradient(impl: ModuleType) -> None:
    """The formula itself, softmax - onehot, times g."""
    rng = np.random.default_rng(0)
    g, logits, targets = rng.standard_normal(3), rng.standard_normal((3, 5)), np.array([4, 0, 2])
    want = numerical_gradient(lambda: float(g @ impl.cross_entropy(logits, targets)[0]), logits)
    got = impl.cross_entropy_backward(g, logits, targets, impl.cross_entropy(logits, targets)[1])
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3, 7)])
def test_layer_norm_gradient(impl: ModuleType, shape: tuple[int, ...]) -> None:
    """The terms that come from the mean and the variance depending on x, with one and with several axes of rows."""
    rng = np.random.default_rng(1)
    g, x, weight, bias = (rng.standard_normal(s) for s in (shape, shape, shape[-1:], shape[-1:]))
    want = [
        numerical_gradient(lambda: float((g * impl.layer_norm(x, weight, bias)[0]).sum()), a) for a in (x, weight, bias)
    ]
    _, mean, rstd = impl.layer_norm(x, weight, bias)
    for got, expected in zip(impl.layer_norm_backward(g, x, weight, mean, rstd), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)


def test_gelu_gradient(impl: ModuleType) -> None:
    """The derivative over the whole range where it is neither 0 nor 1."""
    x = np.linspace(-6, 6, 97)
    want = numerical_gradient(lambda: float(impl.gelu(x).sum()), x)
    np.testing.assert_allclose(impl.gelu_backward(np.ones(97), x), want, rtol=0, atol=1e-10)


def test_rotary_gradient(impl: ModuleType) -> None:
    """Turning back is the gradient of turning, because cos^2 + sin^2 = 1."""
    rng = np.random.default_rng(2)
    qkv, g, angle = (
        rng.standard_normal((1, 3, 3, 1, 4)),
        rng.standard_normal((1, 3, 3, 1, 4)),
        rng.standard_normal((3, 2)),
    )
    want = numerical_gradient(lambda: float((g * impl.rotary(qkv, np.cos(angle), np.sin(angle))).sum()), qkv)
    np.testing.assert_allclose(impl.rotary(g, np.cos(angle), -np.sin(angle)), want, rtol=0, atol=1e-11)


# --- exp ------------------------------------------------------------------------------------------------------------


def _exp(impl: ModuleType, x: Array) -> Array:
    """exp(x), as the gradient of a cross-entropy with g = 1, lse = 0 and the target elsewhere."""
    one, logits = np.ones(1, x.dtype), np.concatenate([[0], x]).astype(x.dtype)[None]
    with np.errstate(over="ignore"):
        return impl.cross_entropy_backward(one, logits, np.zeros(1, np.int64), 0 * one)[0, 1:]


def test_exp_over_its_whole_range(compiled: ModuleType, dtype: type) -> None:
    """Within 1.5 units in the last place (1.2 is the worst seen) of exp in a wider type, subnormal results included.

    Guards the series, ln 2 in two parts and the two factors of 2^n. Results past the largest number must be inf.
    """
    info = np.finfo(dtype)
    lowest, highest = math.log(info.smallest_subnormal) - 2, math.log(info.max)
    x = np.linspace(lowest, highest + 1, 200_001, dtype=dtype)
    steps_of_ln2 = math.log(2) / 2 * np.arange(2 * lowest, 2 * highest)  # where the rounding to n changes sides
    x = np.concatenate([x, steps_of_ln2.astype(dtype), np.linspace(-1, 1, 20_001, dtype=dtype)])
    with np.errstate(over="ignore"):
        want = np.exp(wide(x)[0])
        rounded = want.astype(dtype)
    got = _exp(compiled, x)
    finite = np.isfinite(rounded)
    assert not finite.all()
    np.testing.assert_array_equal(got[~finite], np.inf)
    ulps = np.abs(got[finite] - want[finite]) / np.spacing(rounded[finite])
    assert ulps.max() <= 1.5, f"exp({x[finite][ulps.argmax()]}) is off by {ulps.max()} units in the last place"
    assert np.count_nonzero((got > 0) & (got < info.smallest_normal)) > 100


def test_exp_special_values(impl: ModuleType, dtype: type) -> None:
    """In every lane: -inf and -max give 0, inf and max give inf, 0 gives exactly 1, NaN stays NaN."""
    largest = np.finfo(dtype).max
    values = np.array([-np.inf, -largest, 0, largest, np.inf, np.nan], dtype)
    for start in range(6):
        got = _exp(impl, np.resize(np.roll(values, start), 41))
        np.testing.assert_array_equal(got, np.resize(np.roll([0, 0, 1, np.inf, np.inf, np.nan], start), 41))


# --- special values -------------------------------------------------------------------------------------------------


def test_minus_infinity_is_probability_zero(impl: ModuleType, dtype: type) -> None:
    """A forbidden token: probability 0, no gradient, the others as if it were not there. Without a warning."""
    with_it, without = np.array([[1, -np.inf, 3, 2]], dtype), np.array([[1, 3, 2]], dtype)
    others, target = [0, 2, 3], np.array([2])
    close = {"rtol": 0, "atol": 8 * np.finfo(dtype).eps}  # logarithms up to 3, two roundings of that size
    for kernel, value in ((impl.softmax, 0), (impl.log_softmax, -np.inf)):
        assert kernel(with_it)[0, 1] == value
        np.testing.assert_allclose(kernel(with_it)[:, others], kernel(without), **close)
    nll, lse = impl.cross_entropy(with_it, target)
    np.testing.assert_allclose(nll, impl.cross_entropy(without, np.array([1]))[0], **close)
    d = impl.cross_entropy_backward(np.ones(1, dtype), with_it, target, lse)
    assert d[0, 1] == 0
    np.testing.assert_allclose(d[:, others].sum(), 0, atol=4 * np.finfo(dtype).eps)
    nll, _ = impl.cross_entropy(with_it, np.array([1]))
    assert nll == np.inf


@pytest.mark.parametrize("n", [1, 3, 8, 35])
def test_a_row_of_minus_infinity_is_nan(impl: ModuleType, dtype: type, n: int) -> None:
    """Nothing is possible, so there is no distribution; other rows stay whole, and NumPy must not warn."""
    x = np.zeros((3, n), dtype)
    x[1] = -np.inf
    targets = np.zeros(3, np.int64)
    nll, lse = impl.cross_entropy(x, targets)
    assert lse[1] == -np.inf
    d = impl.cross_entropy_backward(np.ones(3, dtype), x, targets, lse)
    for result in (impl.softmax(x), impl.log_softmax(x), d, nll[:, None]):
        assert np.isnan(result[1]).all()
        assert np.isfinite(result[::2]).all()


# Index and value of what is not finite in a row of 19; other rows of the same array are finite.
SPECIAL_ROWS: list[dict[int, float]] = [
    {},
    {0: np.inf},
    {18: np.inf},
    {1: np.inf, 17: np.inf},
    {2: np.inf, 16: -np.inf},
    {3: -np.inf},
    {},
    {4: np.nan},
    {18: np.nan},
    {5: np.nan, 6: np.inf},
    {0: np.nan, 18: -np.inf},
    dict.fromkeys(range(19), np.inf),
    dict.fromkeys(range(19), -np.inf),
    dict.fromkeys(range(19), np.nan),
    {**dict.fromkeys(range(19), -np.inf), 17: np.nan},
]


@pytest.mark.parametrize("kernel", ["softmax", "log_softmax", "cross_entropy", "layer_norm", "gelu", "rotary"])
def test_special_values_spread_as_specified(compiled: ModuleType, dtype: type, kernel: str) -> None:
    """Forward and backward agree with NumPy on which elements become NaN or infinite, in vectors and in tails."""
    rng = np.random.default_rng(3)
    x, g = normal(rng, (len(SPECIAL_ROWS), 19), dtype), normal(rng, (len(SPECIAL_ROWS), 19), dtype)
    for row, special in zip(x, SPECIAL_ROWS, strict=True):
        for i, value in special.items():
            row[i] = value
    targets, ones, zeros = np.arange(len(x)), np.ones(19, dtype), np.zeros(19, dtype)

    def run(module: ModuleType) -> list[Array]:
        if kernel == "cross_entropy":
            nll, lse = module.cross_entropy(x, targets)
            return [nll, lse, module.cross_entropy_backward(g[:, 0], x, targets, lse)]
        if kernel == "layer_norm":
            y, mean, rstd = module.layer_norm(x, ones, zeros)
            return [y, mean, rstd, *module.layer_norm_backward(g, x, ones, mean, rstd)]
        if kernel == "gelu":
            return [module.gelu(x), module.gelu_backward(g, x), module.gelu_backward(x, g)]
        if kernel == "rotary":
            qkv = np.broadcast_to(x[:, None, None, None], (len(x), 1, 3, 2, 19))[..., :18]
            return [module.rotary(qkv, g[:1, :9], g[1:2, :9])]
        return [getattr(module, kernel)(x)]

    eps = np.finfo(dtype).eps
    with np.errstate(invalid="ignore"):  # what is computed here is invalid
        want = run(reference)
    for got, expected in zip(run(compiled), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=32 * eps, atol=32 * eps)


@pytest.mark.parametrize("exponent", [0.05, 0.3, 0.4, 0.6, 0.99])
def test_gelu_of_huge_numbers(impl: ModuleType, dtype: type, exponent: float) -> None:
    """Far right x, far left 0, with slopes 1 and 0: overflow of x^3, x^2 or exp must not turn into NaN."""
    large = dtype(10) ** dtype(exponent * math.log10(np.finfo(dtype).max))
    x = np.array([large, -large], dtype)
    np.testing.assert_array_equal(impl.gelu(x), [large, 0])
    np.testing.assert_array_equal(impl.gelu_backward(np.array([3, 3], dtype), x), [3, 0])


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (0, 3)])
def test_gelu_of_no_axes_and_no_elements(impl: ModuleType, dtype: type, shape: tuple[int, ...]) -> None:
    """A result for a zero-dimensional and for an empty array."""
    x = np.ones(shape, dtype)
    for result in (impl.gelu(x), impl.gelu_backward(x, x)):
        assert np.shape(result) == shape
        assert result.dtype == dtype
