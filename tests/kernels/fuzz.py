"""Kernels under random calls: `python -m tests.kernels.fuzz --calls 100000`. A few thousand are in the suite.

Every call draws a kernel, an instruction set, a float type, a pool and a number of threads, shapes (odd, empty, around
the borders of tiles), numbers (some NaN or infinite) and layouts (strided, reversed, misaligned, read-only). A third of
the calls have something wrong with them: a shape, a dtype, a number, a type, an argument too few or too many.

- A right call gives what NumPy gives, leaves its inputs alone, and gives the same bits on one thread.
- A wrong call is a ValueError or a TypeError that names the argument; never another exception, never a crash. Where a
  wrong call happens to be right (an axis of one was dropped from one), it is a right call.

How close: NumPy runs in a wider type; once more in the same type; and in the wider type on inputs that are off by one
rounding each, which shows how well the problem is conditioned. The native result may be off by 16 times what either of
these two is, plus 64 roundings of the largest number in it (more for orthogonalise, which multiplies them). Where
products are of bfloat16, NumPy runs in the wider type on factors that are rounded. It does not round those that
attention computes itself: that may cost 1/64 of the largest number.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from kernel_support import LAYOUTS, Array, laid_out

from tinydiff.kernels import KERNELS, native, reference

Arguments = dict[str, Any]
WRITTEN = {"adamw": {"p", "m", "v"}, "attention_backward": {"dq", "dk", "dv"}}
FACTORS = {"matmul": "ab", "attention": "qkv", "attention_backward": "gqkv"}  # what bfloat16 rounds
LENGTHS = [*range(36), 63, 64, 65, 127, 128, 129, 257]  # around every vector and most tiles
SENSITIVE = {"orthogonalise": 5 * 3 * 485 * 9}  # roundings of the largest singular value, 1: see test_orthogonalise.py
NOT_ARRAYS: list[Any] = [None, [1.0, 2.0], 3.0, "text", object(), {}]


class Fault(AssertionError):
    """A call that did not do what it should; says which."""


# --- right calls ----------------------------------------------------------------------------------------------------


class Draw:
    """Random sizes and arrays of one float type."""

    def __init__(self, rng: np.random.Generator, dtype: type) -> None:
        self.rng, self.dtype = rng, dtype
        self.special = rng.random() < 0.1
        self.scale = rng.choice([1, 1, 1, 30, 1e-3])

    def size(self, most: int = 257, least: int = 0) -> int:
        """A length, mostly small."""
        lengths = [n for n in LENGTHS if least <= n <= most]
        return int(self.rng.choice(lengths[:16] if self.rng.random() < 0.6 else lengths))

    def floats(self, *shape: int) -> Array:
        """Normal numbers; now and then some that are not finite."""
        x = np.asarray(self.scale * self.rng.standard_normal(shape), self.dtype)
        if self.special and x.size:
            few = self.rng.integers(0, x.size, self.rng.integers(0, 3))
            x.flat[few] = self.rng.choice([np.nan, np.inf, -np.inf, 0, -0.0, np.finfo(self.dtype).tiny], len(few))
        return x

    def rows(self) -> tuple[int, ...]:
        """Axes before the last."""
        return tuple(self.size(most=12) for _ in range(self.rng.integers(0, 3))) or (self.size(),)


def _attention(draw: Draw) -> Arguments:
    small = draw.rng.random() < 0.8
    batch, heads = (draw.size(most=3), draw.size(most=3)) if small else (1, 1)
    queries, keys = draw.size(most=40 if small else 257), draw.size(most=40 if small else 257)
    causal = int(draw.rng.choice([0, 0, 1, 2, 32, 2**62]))
    if causal:
        queries, keys = sorted((queries, keys))
    depth = draw.size(most=33, least=1)
    mask = [None, draw.rng.random((queries, keys)) < 0.7, draw.rng.random((batch, queries, keys)) < 0.7]
    q, k, v = (draw.floats(batch, n, heads, depth) for n in (queries, keys, keys))
    return {"q": q, "k": k, "v": v, "mask": mask[draw.rng.integers(3)], "causal": causal}


def _attention_backward(draw: Draw) -> Arguments:
    forward = _attention(draw)
    with np.errstate(all="ignore"):
        out, lse = reference.attention(**forward)
    gradients = {f"d{name}": np.zeros_like(forward[name]) for name in "qkv"}
    q, k, v, mask, causal = forward.values()
    return {"g": draw.floats(*q.shape), "q": q, "k": k, "v": v, "out": out, "lse": lse} | gradients | {
        "mask": mask, "causal": causal}  # fmt: skip


def _targets(draw: Draw) -> Arguments:
    rows, n = draw.size(), draw.size(least=1)
    return {"logits": draw.floats(rows, n), "targets": draw.rng.integers(0, n, rows)}


def _cross_entropy_backward(draw: Draw) -> Arguments:
    forward = _targets(draw)
    with np.errstate(all="ignore"):
        lse = reference.cross_entropy(**forward)[1]
    return {"g": draw.floats(len(lse)), **forward, "lse": lse}


def _matmul(draw: Draw) -> Arguments:
    m, k, n = draw.size(), draw.size(), draw.size()
    bias, residual = draw.rng.random(2) < 0.5
    return {"a": draw.floats(m, k), "b": draw.floats(k, n), "bias": draw.floats(n) if bias else None,
            "residual": draw.floats(m, n) if residual else None}  # fmt: skip


def _layer_norm(draw: Draw) -> Arguments:
    n = draw.size(least=2)  # gradients of a single number are zero, and all that is left of them is rounding
    x, weight, bias = draw.floats(*draw.rows(), n), draw.floats(n), draw.floats(n)
    return {"x": x, "weight": weight, "bias": bias, "eps": float(draw.rng.choice([1e-5, 0.5]))}


def _layer_norm_backward(draw: Draw) -> Arguments:
    forward = _layer_norm(draw)
    with np.errstate(all="ignore"):
        _, mean, rstd = reference.layer_norm(**forward)
    x = forward["x"]
    return {"g": draw.floats(*x.shape), "x": x, "weight": forward["weight"], "mean": np.asarray(mean, draw.dtype),
            "rstd": np.asarray(rstd, draw.dtype)}  # fmt: skip


def _gelu_backward(draw: Draw) -> Arguments:
    shape = (*draw.rows(), draw.size())
    return {"g": draw.floats(*shape), "x": draw.floats(*shape)}


def _rotary(draw: Draw) -> Arguments:
    batch, length, heads, half = draw.size(most=5), draw.size(most=65), draw.size(most=4), draw.size(most=33)
    table = (length, half) if draw.rng.random() < 0.5 else (batch, length, half)
    return {"qkv": draw.floats(batch, length, 3, heads, 2 * half), "cos": draw.floats(*table),
            "sin": draw.floats(*table)}  # fmt: skip


def _topk(draw: Draw) -> Arguments:
    n = draw.size()
    return {"x": draw.floats(*draw.rows(), n), "k": int(draw.rng.integers(0, n + 1))}


def _adamw(draw: Draw) -> Arguments:
    shape = (*draw.rows(), draw.size())
    p, g, m = (draw.floats(*shape) for _ in range(3))
    return {"p": p, "g": g, "m": m, "v": draw.floats(*shape) ** 2, "lr": 1e-2, "beta1": 0.9, "beta2": 0.999,
            "eps": 1e-3, "weight_decay": float(draw.rng.choice([0, 0.1])), "step": int(draw.rng.integers(1, 1000))
            }  # fmt: skip


def _rows(draw: Draw) -> Arguments:
    return {"x": draw.floats(*draw.rows(), draw.size())}


MAKERS: dict[str, Callable[[Draw], Arguments]] = {
    "matmul": _matmul,
    "column_sum": lambda draw: {"x": draw.floats(draw.size(), draw.size())},
    "softmax": _rows,
    "log_softmax": _rows,
    "cross_entropy": _targets,
    "cross_entropy_backward": _cross_entropy_backward,
    "layer_norm": _layer_norm,
    "layer_norm_backward": _layer_norm_backward,
    "gelu": _rows,
    "gelu_backward": _gelu_backward,
    "rotary": _rotary,
    "topk": _topk,
    "attention": _attention,
    "attention_backward": _attention_backward,
    "adamw": _adamw,
    "orthogonalise": lambda draw: {"x": draw.floats(draw.size(most=4), draw.size(most=65), draw.size(most=65))},
}


# --- wrong calls ----------------------------------------------------------------------------------------------------


def _other_shape(rng: np.random.Generator, a: Array) -> Array:
    """One axis more, fewer, longer, shorter, or two swapped."""
    kind, axis = rng.integers(5), int(rng.integers(max(a.ndim, 1)))
    if kind == 0 or not a.ndim:
        return a[None] if rng.random() < 0.5 else a[..., None]
    if kind == 1:
        return a.sum(axis=axis).astype(a.dtype)
    if kind == 2:
        return np.concatenate([a, a.take([0], axis=axis) if a.shape[axis] else a], axis=axis)
    if kind == 3:
        return a.take(range(a.shape[axis] // 2), axis=axis)
    return a.swapaxes(axis, int(rng.integers(a.ndim)))


def _other_dtype(rng: np.random.Generator, a: Array) -> Array:
    others = ["float16", "float32", "float64", "longdouble", "int8", "int32", "int64", "uint64", "complex64", "bool",
              "object", a.dtype.newbyteorder()]  # fmt: skip
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return a.astype(others[rng.integers(len(others))])


def spoil(rng: np.random.Generator, arguments: Arguments) -> str:
    """Change something about a call; says what, with the name of the argument first."""
    name = str(rng.choice(list(arguments)))
    value = arguments[name]
    kind = rng.choice(["shape", "dtype", "type", "value", "missing", "unknown"], p=[0.4, 0.2, 0.1, 0.2, 0.05, 0.05])
    if kind == "missing":
        del arguments[name]
    elif kind == "unknown":
        arguments["another"] = value
    elif kind == "type":
        arguments[name] = NOT_ARRAYS[rng.integers(len(NOT_ARRAYS))]
    elif not isinstance(value, np.ndarray):
        wrong: list[Any] = [-1, 0, 2**31, 2**62, 2**70, -(2**63), 0.5, float("nan"), float("inf"), True, np.int64(1)]
        arguments[name] = wrong[rng.integers(len(wrong))]
    elif kind == "shape":
        arguments[name] = _other_shape(rng, value)
    elif kind == "dtype":
        arguments[name] = _other_dtype(rng, value)
    elif value.dtype == np.int64 and value.size:
        value.flat[rng.integers(value.size)] = rng.choice([-1, 10**6, 2**62, -(2**63)])
    else:
        value[...] = rng.choice([0, 1])
    return f"{name}: {kind}"


# --- one call -------------------------------------------------------------------------------------------------------


def _copy(arguments: Arguments) -> Arguments:
    return {name: a.copy() if isinstance(a, np.ndarray) else a for name, a in arguments.items()}


def _lay_out(rng: np.random.Generator, kernel: str, arguments: Arguments) -> Arguments:
    """Other strides and flags for what is only read; what is written may lie apart where the kernel allows it."""
    laid = {}
    for name, a in arguments.items():
        if not isinstance(a, np.ndarray) or a.dtype.hasobject:
            laid[name] = a
        elif name not in WRITTEN.get(kernel, ()):
            laid[name] = laid_out(a, str(rng.choice(LAYOUTS)))
        else:
            laid[name] = laid_out(a, "sliced") if kernel != "adamw" and rng.random() < 0.5 else a.copy()
    return laid


def _call(module: Any, kernel: str, arguments: Arguments) -> list[Array]:
    """What is returned and what was written."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        returned = getattr(module, kernel)(**arguments)
    arrays = list(returned) if isinstance(returned, tuple) else [] if returned is None else [returned]
    return [np.asarray(a) for a in (*arrays, *(arguments[name] for name in sorted(WRITTEN.get(kernel, ()))))]


def _widened(arguments: Arguments, rng: np.random.Generator | None = None) -> Arguments:
    """The same numbers in a wider type, or numbers that are up to one rounding of the narrow one away."""
    wider, wide = {np.dtype(np.float32): np.float64, np.dtype(np.float64): np.longdouble}, {}
    for name, a in arguments.items():
        if isinstance(a, np.ndarray) and a.dtype in wider:
            off = 0 if rng is None else np.finfo(a.dtype).eps * rng.uniform(-1, 1, a.shape)
            wide[name] = a.astype(wider[a.dtype]) * (1 + np.asarray(off, wider[a.dtype]))
        else:
            wide[name] = a.copy() if isinstance(a, np.ndarray) else a
    return wide


def expect_equal(kernel: str, got: list[Array], arguments: Arguments, rng: np.random.Generator) -> None:
    """What the specification gives, as close as the type and the problem allow."""
    narrow = _call(reference, kernel, _copy(arguments))
    rounds = bool(arguments.get("bfloat16"))
    if rounds:
        arguments = (
            arguments | {name: reference._rounded(arguments[name]) for name in FACTORS[kernel]} | {"bfloat16": False}
        )
    want = _call(reference, kernel, _widened(arguments))
    nearby = _call(reference, kernel, _widened(arguments, rng))
    finite_inputs = all(np.isfinite(a).all() for a in arguments.values() if isinstance(a, np.ndarray))
    for position, (a, n, w, near) in enumerate(zip(got, narrow, want, nearby, strict=True)):
        if a.dtype != n.dtype or a.shape != w.shape:
            raise Fault(f"result {position} is {a.dtype} {a.shape}, NumPy's {n.dtype} {w.shape}")
        if a.dtype.kind != "f":
            if not np.array_equal(a, w):
                raise Fault(f"result {position} differs: {a.tolist()} for {w.tolist()}")
            continue
        # Where the wider type holds what the narrow one does not, either answer is right; and once sums of finite
        # numbers overflow, their order decides between inf and NaN.
        settled = (np.isfinite(w) == np.isfinite(n)) & (not finite_inputs or np.isfinite(n).all())
        wrong = settled & ((np.isnan(a) != np.isnan(n)) | (np.isinf(a) != np.isinf(n)))
        if arguments.get("causal") or arguments.get("mask") is not None:
            wrong &= ~np.isfinite(a)  # tiles that are hidden are skipped, where NumPy multiplies NaN by 0
        if wrong.any() and not finite_inputs:  # elsewhere numbers may overflow that were finite
            tame = {name: np.where(np.isfinite(x), x, 0).astype(x.dtype) if isinstance(x, np.ndarray) else x
                    for name, x in arguments.items()}  # fmt: skip
            wrong &= np.isfinite(a) | np.isfinite(_call(reference, kernel, tame)[position])
        if wrong.any():
            raise Fault(f"result {position} has {a[wrong][:3]} where NumPy has {n[wrong][:3]}")
        finite = np.isfinite(w) & np.isfinite(n) & np.isfinite(a) & np.isfinite(near)
        if not finite.any():
            continue
        error, own, inherent = (np.abs(other[finite] - w[finite]).max() for other in (a, n, near))
        info = np.finfo(a.dtype)
        largest = SENSITIVE.get(kernel, 64 * np.abs(w[finite]).max())
        limit = 16 * (own + inherent) + info.eps * largest + info.smallest_normal
        if rounds and kernel != "matmul":
            limit += np.abs(w[finite]).max() / 64
        if error > limit:
            raise Fault(f"result {position} is off by {error:.3g}; NumPy by {own:.3g}, by the inputs {inherent:.3g}")


def beyond(arguments: Arguments) -> bool:
    """Whether there is a whole number among them that 64 bits do not hold, or whose power they do not."""
    return any(isinstance(value, int) and abs(value) >= 2**31 for value in arguments.values())


def one_call(seed: int, number: int) -> str:
    """Make call `number` of a seed, and check it; says what happened in a word. Raises Fault."""
    rng = np.random.default_rng([seed, number])
    kernel = str(rng.choice(KERNELS))
    isa, pool, threads = str(rng.choice(native.isas())), str(rng.choice(native.pools())), int(rng.integers(1, 5))
    native.use_isa(isa)
    native.use_pool(pool)
    native.set_threads(threads)
    dtype = np.float32 if rng.random() < 0.6 else np.float64
    arguments = MAKERS[kernel](Draw(rng, dtype))
    if kernel in FACTORS and dtype == np.float32 and native.has_bfloat16():
        arguments["bfloat16"] = bool(rng.random() < 0.7)
    spoilt = spoil(rng, arguments) if rng.random() < 1 / 3 else ""
    laid = _lay_out(rng, kernel, arguments)
    shapes = {name: (a.dtype.name, a.shape) if isinstance(a, np.ndarray) else a for name, a in arguments.items()}
    what = f"{kernel} on {isa}, {threads} threads of {pool}, {spoilt or 'nothing wrong'}: {shapes}"
    try:
        got = _call(native, kernel, laid)
    except (ValueError, TypeError) as error:
        if not spoilt:
            raise Fault(f"{what}: refused: {error}") from error
        named = re.match(r"(\w+)(\[\d+\])? (is|has|must)", str(error))
        if not (named and named[1] in (*arguments, "threads")) and "incompatible function arguments" not in str(error):
            raise Fault(f"{what}: an error that names no argument: {error}") from error
        return "refused"
    except BaseException as error:
        raise Fault(f"{what}: {type(error).__name__}: {error}") from error
    try:
        expect_equal(kernel, got, arguments, rng)
        for name, a in arguments.items():
            if (
                isinstance(a, np.ndarray)
                and name not in WRITTEN.get(kernel, ())
                and a.tobytes() != laid[name].tobytes()
            ):
                raise Fault(f"{name} was changed")
        native.set_threads(1)
        alone = _call(native, kernel, _lay_out(rng, kernel, arguments))
        if [a.tobytes() for a in alone] != [a.tobytes() for a in got]:
            raise Fault("other bits on one thread")
    except Fault as fault:
        raise Fault(f"{what}: {fault}") from None
    except OverflowError:  # a whole number that is no float in NumPy
        return "refused"
    except Exception as error:  # NumPy refuses what the native kernel took
        if isinstance(error, TypeError) and np.__version__ < "2" and beyond(arguments):
            return "refused"  # whole numbers beyond 64 bits are objects to NumPy 1: no sqrt of them, no cast to float32
        raise Fault(f"{what}: taken, but {type(error).__name__} in NumPy: {error}") from error
    return "taken as right" if spoilt else "right"


def main() -> None:
    """Make so many calls; exit code 1 and a command for each fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.kernels.fuzz", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--first", type=int, default=0, help="number of the first call, to see one again")
    options = parser.parse_args()
    if native is None:
        parser.error("the native extension is not built")
    faulthandler.enable()  # after a crash: the last hundred printed, then --first and --calls
    counts: Counter[str] = Counter()
    start = time.monotonic()
    for number in range(options.first, options.first + options.calls):
        if time.monotonic() - start > options.seconds:
            break
        if number % 100 == 0:
            print(f"\rcall {number} of seed {options.seed}", end="", file=sys.stderr, flush=True)
        try:
            counts[one_call(options.seed, number)] += 1
        except Fault as fault:
            counts["faults"] += 1
            print(f"\n--seed {options.seed} --first {number} --calls 1\n    {fault}")
    print(f"\n{sum(counts.values())} calls in {time.monotonic() - start:.0f} s: "
          + ", ".join(f"{count} {what}" for what, count in sorted(counts.items())))  # fmt: skip
    sys.exit(counts["faults"] > 0)


if __name__ == "__main__":
    main()
