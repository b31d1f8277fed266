"""Shared by the kernel tests: arrays in awkward layouts, error bounds, numerical gradients, sample arguments.

How results are judged: the specification (`reference`) runs on the same numbers in a wider float type, where its own
rounding does not matter, and `assert_close` allows a stated number of rounding errors of the narrow type. Sums of n
terms count as sqrt(n) roundings of the sum of absolute values: rounding errors partly cancel, like a random walk.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from numpy.typing import NDArray

Array = NDArray[Any]

examples = settings(deadline=None, derandomize=True, max_examples=25)
seeds = st.integers(0, 2**32 - 1)

LAYOUTS = ("contiguous", "sliced", "strided", "reversed", "transposed", "readonly", "misaligned")
layouts = st.lists(st.sampled_from(LAYOUTS), min_size=5, max_size=5)  # one for each argument of a kernel

# Lengths of the last axis: around every vector width (2 to 16 lanes) and well past it.
lengths = st.integers(1, 35) | st.sampled_from([64, 127, 128, 1000])
# Axes before the last: none, few, and past the blocks of 128 rows of layer_norm_backward.
leading = st.lists(st.integers(0, 3), max_size=3).map(tuple) | st.sampled_from([(127,), (128,), (129,), (5, 60)])


def normal(rng: np.random.Generator, shape: tuple[int, ...], dtype: type, scale: float = 1) -> Array:
    """Normal numbers of a given standard deviation."""
    return np.asarray(scale * rng.standard_normal(shape), dtype)


def wide(*arrays: Array) -> list[Array]:
    """The same numbers in the next wider float type (on some platforms longdouble is no wider than float64)."""
    return [a.astype(np.float64 if a.dtype == np.float32 else np.longdouble) for a in arrays]


def laid_out(array: Array, layout: str) -> Array:
    """The same values with other strides, flags or alignment."""
    if layout == "sliced" and array.ndim:
        view = np.zeros((*array.shape[:-1], array.shape[-1] + 3), array.dtype)[..., 1:-2]
        view[...] = array
        return view
    if layout == "strided":
        every_second = (..., *(slice(None, None, 2),) * array.ndim)
        view = np.zeros(tuple(2 * n for n in array.shape), array.dtype)[every_second]
        view[...] = array
        return view
    if layout == "reversed":
        backwards = (..., *(slice(None, None, -1),) * array.ndim)
        return array[backwards].copy()[backwards]
    if layout == "transposed":
        return np.array(array, order="F")
    if layout == "misaligned":
        view = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
        view[...] = array
        return view
    copy = array.copy()
    copy.flags.writeable = layout != "readonly"
    return copy


def assert_close(got: Array, want: Array, dtype: type, roundings: Array | float) -> None:
    """`got` has the given dtype and differs from `want`, which is of a wider type, by at most `roundings` units of eps.

    One smallest subnormal is allowed on top; NaN and infinities must be in the same places.
    """
    got = np.asarray(got)
    assert got.dtype == dtype
    assert got.shape == want.shape
    with np.errstate(over="ignore"):
        special = ~np.isfinite(want.astype(dtype))
        np.testing.assert_array_equal(got[special], want.astype(dtype)[special])
    eps = np.finfo(dtype).eps + np.finfo(want.dtype).eps
    limit = np.broadcast_to(eps * roundings + np.finfo(dtype).smallest_subnormal, want.shape)[~special]
    error = np.abs(got[~special] - want[~special])
    worst = np.argmax(error / limit) if error.size else 0
    assert np.all(error <= limit), (
        f"off by {error[worst]:.3g} where {limit[worst]:.3g} is allowed: "
        f"{got[~special][worst]!r} instead of {want[~special][worst]!r}"
    )


def numerical_gradient(loss: Callable[[], float], x: Array) -> Array:
    """Gradient with respect to `x`, which is changed in place and back, by central differences of fourth order.

    With h = 1e-3 the error is about h^4/30 times the fifth derivative plus eps/h times the loss: near 1e-13.
    """
    h, gradient = 1e-3, np.zeros_like(x)
    for i in np.ndindex(x.shape):
        at = x[i]
        for steps, weight in ((-2, 1), (-1, -8), (1, 8), (2, -1)):
            x[i] = at + steps * h
            gradient[i] += weight * loss() / (12 * h)
        x[i] = at
    return gradient


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter, which imports from where this one does."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("TINYDIFF_", "PYTHON"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def sample_arguments(kernel: str, dtype: type) -> dict[str, Any]:
    """Valid arguments by name: odd sizes, enough work for every kernel to use two threads."""
    rng = np.random.default_rng(0)

    def floats(*shape: int) -> Array:
        return normal(rng, shape, dtype)

    if kernel == "matmul":
        return {"a": floats(131, 301), "b": floats(301, 65), "bias": floats(65), "residual": floats(131, 65)}
    if kernel == "column_sum":
        return {"x": floats(303, 401)}
    if kernel in ("softmax", "log_softmax"):
        return {"x": floats(41, 1003)}
    if kernel in ("cross_entropy", "cross_entropy_backward"):
        arguments = {"logits": floats(41, 1003), "targets": rng.integers(0, 1003, 41)}
        return arguments if kernel == "cross_entropy" else {"g": floats(41), **arguments, "lse": floats(41)}
    if kernel == "layer_norm":
        return {"x": floats(3, 101, 67), "weight": floats(67), "bias": floats(67)}
    if kernel == "layer_norm_backward":
        shape = (3, 101, 67)
        statistics = {"mean": floats(*shape[:2]), "rstd": floats(*shape[:2])}
        return {"g": floats(*shape), "x": floats(*shape), "weight": floats(67), **statistics}
    if kernel == "gelu":
        return {"x": floats(5, 4099)}
    if kernel == "gelu_backward":
        return {"g": floats(5, 4099), "x": floats(5, 4099)}
    if kernel == "rotary":
        return {"qkv": floats(2, 65, 3, 3, 22), "cos": floats(65, 11), "sin": floats(65, 11)}
    if kernel == "topk":
        return {"x": floats(21, 2003), "k": 19}
    if kernel == "attention":
        q, k, v = floats(2, 259, 3, 5), floats(2, 261, 3, 5), floats(2, 261, 3, 5)
        return {"q": q, "k": k, "v": v, "mask": rng.random((2, 259, 261)) < 0.8, "causal": True}
    if kernel == "attention_backward":
        forward = sample_arguments("attention", dtype)
        q, k = forward["q"], forward["k"]
        gradients = {"dq": np.zeros_like(q), "dk": np.zeros_like(k), "dv": np.zeros_like(k)}
        return {"g": floats(*q.shape), **forward, "out": floats(*q.shape), "lse": 6 + floats(2, 3, 259), **gradients}
    if kernel == "adamw":
        shape = (5, 4099)
        moments = {"m": floats(*shape), "v": floats(*shape) ** 2}
        settings = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.1, "step": 3}
        return {"p": floats(*shape), "g": floats(*shape), **moments, **settings}
    if kernel == "orthogonalise":
        return {"x": floats(5, 67, 33)}
    raise ValueError(kernel)
