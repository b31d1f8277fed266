"""What kernels refuse: the wrong shape, dtype or value, by an error that names the argument.

A shape that slips through would make the native kernels read past the end of an array.
"""

import re
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from kernel_support import Array, laid_out, sample_arguments

from tinydiff.kernels import KERNELS, native

needs_native = pytest.mark.skipif(native is None, reason="the native extension is not built")

# kernel, argument, its wrong shape; see sample_arguments for the right ones
WRONG_SHAPES = [
    ("matmul", "a", (131,)),
    ("matmul", "b", (300, 65)),
    ("matmul", "b", (301, 65, 1)),
    ("matmul", "bias", (1,)),
    ("matmul", "residual", (65,)),
    ("matmul", "residual", (131, 1)),
    ("column_sum", "x", (303,)),
    ("column_sum", "x", (3, 101, 401)),
    ("cross_entropy", "logits", (41,)),
    ("cross_entropy", "targets", (40,)),
    ("cross_entropy", "targets", (41, 1)),
    ("cross_entropy_backward", "logits", (41, 1003, 1)),
    ("cross_entropy_backward", "targets", (1,)),
    ("layer_norm", "weight", (66,)),
    ("layer_norm", "weight", (1, 67)),
    ("layer_norm", "bias", (1,)),
    ("layer_norm_backward", "g", (3, 101, 1)),
    ("layer_norm_backward", "weight", (1,)),
    ("layer_norm_backward", "mean", (3, 1)),
    ("layer_norm_backward", "mean", (101, 3)),
    ("layer_norm_backward", "rstd", (303,)),
    ("gelu_backward", "g", (4099,)),
    ("orthogonalise", "x", (67, 33)),
    ("rotary", "qkv", (2, 65, 3, 66)),
    ("rotary", "qkv", (2, 65, 2, 3, 22)),
    ("rotary", "qkv", (2, 65, 3, 3, 21)),
    ("rotary", "cos", (65, 22)),
    ("rotary", "cos", (64, 11)),
    ("rotary", "sin", (1, 11)),
    ("attention", "q", (2, 259, 15)),
    ("attention", "q", (2, 262, 3, 5)),  # more queries than keys: the arguments say causal
    ("attention", "k", (1, 261, 3, 5)),
    ("attention", "k", (2, 261, 1, 5)),
    ("attention", "k", (2, 261, 3, 4)),
    ("attention", "v", (2, 260, 3, 5)),
    ("attention", "v", (2, 261, 3, 6)),
    ("attention", "mask", (261,)),
    ("attention", "mask", (259, 260)),
    ("attention", "mask", (1, 259, 261)),
    ("attention", "mask", (2, 1, 259, 261)),
    ("attention_backward", "k", (2, 261, 1, 5)),
    ("attention_backward", "mask", (2, 261, 259)),
    ("attention_backward", "g", (2, 1, 3, 5)),
    ("attention_backward", "out", (2, 259, 3, 1)),
    ("attention_backward", "dq", (2, 261, 3, 5)),
    ("attention_backward", "dk", (2, 259, 3, 5)),
    ("attention_backward", "dv", (1, 261, 3, 5)),
    ("adamw", "g", (4099,)),
    ("adamw", "m", (5, 1)),
    ("adamw", "v", (1, 5, 4099)),
]

# The same for what the reference leaves to NumPy.
WRONG_SHAPES_NATIVE = [
    ("softmax", "x", ()),
    ("log_softmax", "x", ()),
    ("layer_norm", "x", ()),
    ("topk", "x", ()),
    ("cross_entropy_backward", "g", (1,)),
    ("cross_entropy_backward", "lse", (41, 1)),
    ("attention_backward", "lse", (2, 259, 3)),
]


def expect_wrong_shape(module: ModuleType, kernel: str, name: str, shape: tuple[int, ...]) -> None:
    """The call fails and says which argument has which shape."""
    arguments = sample_arguments(kernel, np.float64)
    arguments[name] = np.zeros(shape, arguments[name].dtype)
    with pytest.raises(ValueError, match=rf"^{name} has shape {re.escape(str(shape))}; expected "):
        getattr(module, kernel)(**arguments)


@pytest.mark.parametrize(("kernel", "name", "shape"), WRONG_SHAPES)
def test_wrong_shape(impl: ModuleType, kernel: str, name: str, shape: tuple[int, ...]) -> None:
    """Also shapes that NumPy would quietly broadcast."""
    expect_wrong_shape(impl, kernel, name, shape)


@needs_native
@pytest.mark.parametrize(("kernel", "name", "shape"), WRONG_SHAPES_NATIVE)
def test_wrong_shape_native(kernel: str, name: str, shape: tuple[int, ...]) -> None:
    """Native kernels check every argument, because they trust the shapes after that."""
    expect_wrong_shape(native, kernel, name, shape)


def test_attention_without_depth(impl: ModuleType) -> None:
    """1 / sqrt(0) has no answer."""
    empty = np.zeros((1, 2, 1, 0))
    with pytest.raises(ValueError, match=r"^q has shape \(1, 2, 1, 0\); expected .* D at least 1"):
        impl.attention(empty, empty, empty)


@pytest.mark.parametrize("kernel", ["cross_entropy", "cross_entropy_backward"])
@pytest.mark.parametrize("target", [-1, 1003, 2**62, -(2**63)])
def test_targets_out_of_range(impl: ModuleType, kernel: str, target: int) -> None:
    """An index that NumPy would count from the end, or that lies outside of the array."""
    arguments = sample_arguments(kernel, np.float64)
    arguments["targets"][[7, 40]] = target
    with pytest.raises(ValueError, match=rf"^targets\[7\] is {target}; expected 0 <= target < 1003"):
        getattr(impl, kernel)(**arguments)


@pytest.mark.parametrize("k", [-1, 2004])
def test_k_out_of_range(impl: ModuleType, k: int) -> None:
    """More than there are, or fewer than none."""
    with pytest.raises(ValueError, match=f"^k is {k}; expected 0 <= k <= 2003, the length of the last axis"):
        impl.topk(**(sample_arguments("topk", np.float64) | {"k": k}))


@pytest.mark.parametrize("step", [0, -1])
def test_step_counts_from_one(impl: ModuleType, step: int) -> None:
    """Step 0 would divide by zero in the bias correction; nothing may be written before the check."""
    arguments = sample_arguments("adamw", np.float64) | {"step": step}
    before = arguments["p"].copy(), arguments["m"].copy(), arguments["v"].copy()
    with pytest.raises(ValueError, match=f"^step is {step}; it counts from 1"):
        impl.adamw(**arguments)
    np.testing.assert_array_equal([arguments[name] for name in "pmv"], before)


@pytest.mark.parametrize("kernel", ["attention", "attention_backward"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_mask_of_numbers(impl: ModuleType, kernel: str, dtype: type) -> None:
    """0 and 1 could mean hidden and seen, or be added to scores: only bool says which."""
    arguments = sample_arguments(kernel, np.float64)
    arguments["mask"] = arguments["mask"].astype(dtype)
    with pytest.raises(TypeError, match=f"^mask has dtype {np.dtype(dtype)}; expected bool"):
        getattr(impl, kernel)(**arguments)


# --- dtypes: checked by the native kernels only -----------------------------------------------------------------------

DECIDES = ("a", "logits", "qkv", "q", "p", "x")  # the argument whose dtype the others must have
FLOAT_ARGUMENTS = [
    (kernel, name)
    for kernel in KERNELS
    for name, a in sample_arguments(kernel, np.float32).items()
    if isinstance(a, np.ndarray) and a.dtype == np.float32
]


def expect_wrong_dtype(kernel: str, arguments: dict[str, Any], name: str) -> None:
    """TypeError for what is read, ValueError for what is written in place (where no copy could stand in)."""
    written = (kernel, name) in {("adamw", "m"), ("adamw", "v")} or name in ("dq", "dk", "dv")
    message = f"^{name} must be .*writable" if written else f"^{name} has dtype {arguments[name].dtype}; expected "
    with pytest.raises(ValueError if written else TypeError, match=message):
        getattr(native, kernel)(**arguments)


@needs_native
@pytest.mark.parametrize(("kernel", "name"), FLOAT_ARGUMENTS)
def test_wrong_dtype(kernel: str, name: str) -> None:
    """Half precision, integers, complex numbers and swapped bytes are refused, not reinterpreted or converted."""
    arguments = sample_arguments(kernel, np.float32)
    right: Array = arguments[name]
    for dtype in (np.float16, np.int32, np.int64, np.complex64, np.longdouble, right.dtype.newbyteorder()):
        arguments[name] = right.astype(dtype)
        expect_wrong_dtype(kernel, arguments, name)


@needs_native
@pytest.mark.parametrize(("kernel", "name"), [case for case in FLOAT_ARGUMENTS if case[1] not in DECIDES])
def test_mixed_dtypes(kernel: str, name: str) -> None:
    """One float64 among float32, and the reverse: a hidden conversion would cost time and memory at every step."""
    for ours, other in ((np.float32, np.float64), (np.float64, np.float32)):
        arguments = sample_arguments(kernel, ours)
        arguments[name] = arguments[name].astype(other)
        expect_wrong_dtype(kernel, arguments, name)


@needs_native
@pytest.mark.parametrize("kernel", ["cross_entropy", "cross_entropy_backward"])
@pytest.mark.parametrize("dtype", ["int32", "uint64", "float64", "bool", np.dtype(np.int64).newbyteorder()])
def test_targets_of_another_dtype(kernel: str, dtype: str) -> None:
    """Eight bytes that are no signed integer, or four read as eight."""
    arguments = sample_arguments(kernel, np.float32)
    arguments["targets"] = arguments["targets"].astype(dtype)
    with pytest.raises(TypeError, match=f"^targets has dtype {arguments['targets'].dtype}; expected int64"):
        getattr(native, kernel)(**arguments)


@needs_native
@pytest.mark.parametrize("layout", ["strided", "readonly", "misaligned"])
@pytest.mark.parametrize("name", ["dq", "dk", "dv"])
def test_gradients_that_cannot_be_written(name: str, layout: str) -> None:
    """No silent update of a copy."""
    arguments = sample_arguments("attention_backward", np.float32)
    arguments[name] = laid_out(arguments[name], layout)
    with pytest.raises(ValueError, match=f"^{name} must be writable, of dtype float32, with a contiguous last axis"):
        native.attention_backward(**arguments)
