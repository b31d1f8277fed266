"""What holds for every kernel: the same signature twice, inputs left alone, the same bits on any number of threads."""

import inspect
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from kernel_support import sample_arguments

from tinydiff.kernels import KERNELS, native, reference

WRITTEN = {"adamw": {"p", "m", "v"}, "attention_backward": {"dq", "dk", "dv"}}
needs_native = pytest.mark.skipif(native is None, reason="the native extension is not built")


@pytest.fixture
def any_threads() -> Iterator[None]:
    """Puts the number of threads back."""
    before = native.threads()
    yield
    native.set_threads(before)


def run(module: ModuleType, kernel: str, arguments: dict[str, Any], positional: bool = False) -> list[bytes]:
    """All arrays that the kernel returns, and those it was given as they are afterwards, as bytes."""
    arguments = {name: a.copy() if isinstance(a, np.ndarray) else a for name, a in arguments.items()}
    function = getattr(module, kernel)
    returned = function(*arguments.values()) if positional else function(**arguments)
    arrays: list[Any] = list(returned) if isinstance(returned, tuple) else [returned]
    return [a.tobytes() for a in [*arrays, *arguments.values()] if isinstance(a, np.ndarray)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_signatures(impl: ModuleType, kernel: str) -> None:
    """The names, order and defaults of the reference: a renamed or reordered parameter fails."""
    parameters = inspect.signature(getattr(reference, kernel)).parameters
    defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}
    arguments = sample_arguments(kernel, np.float64) | defaults
    required = {name: arguments[name] for name in parameters if name not in defaults}
    spelled_out = {name: arguments[name] for name in parameters}
    want = run(impl, kernel, required)
    assert run(impl, kernel, spelled_out) == want
    assert run(impl, kernel, spelled_out, positional=True) == want


@pytest.mark.parametrize("kernel", KERNELS)
def test_inputs_are_left_alone(impl: ModuleType, dtype: type, kernel: str) -> None:
    """Only AdamW and the attention gradients write to what they are given, and there they do write."""
    arguments = sample_arguments(kernel, dtype)
    before = {name: a.copy() for name, a in arguments.items() if isinstance(a, np.ndarray)}
    getattr(impl, kernel)(**arguments)
    changed = {name for name, a in before.items() if a.tobytes() != arguments[name].tobytes()}
    assert changed == WRITTEN.get(kernel, set())


@pytest.mark.usefixtures("any_threads")
@pytest.mark.parametrize("kernel", KERNELS)
def test_same_bits_on_any_number_of_threads(compiled: ModuleType, dtype: type, kernel: str) -> None:
    """Work is cut by shape alone and sums across tasks are added in order; no two threads share scratch memory."""
    arguments = sample_arguments(kernel, dtype)
    results = []
    for n in (1, 2, 3):
        compiled.set_threads(n)
        results.append(run(compiled, kernel, arguments))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("kernel", KERNELS)
def test_python_threads_at_once(compiled: ModuleType, kernel: str) -> None:
    """The interpreter lock is released inside a kernel: calls that overlap must not share anything."""
    arguments = sample_arguments(kernel, np.float32)
    alone = run(compiled, kernel, arguments)
    with ThreadPoolExecutor(2) as pool:
        together = pool.map(lambda _: run(compiled, kernel, arguments), range(4))
        assert all(result == alone for result in together)


@pytest.fixture
def any_isa() -> Iterator[None]:
    """Puts the instruction set back."""
    before = native.isa()
    yield
    native.use_isa(before)


@needs_native
@pytest.mark.usefixtures("any_isa")
def test_use_isa() -> None:
    """The slowest set is always there; an unknown one is refused with the list of known ones, and changes nothing."""
    assert native.isas()[0] == "baseline"
    for name in native.isas():
        native.use_isa(name)
        assert native.isa() == name
        with pytest.raises(ValueError, match=f"^isa is 'mmx'.*use one of: {', '.join(native.isas())}"):
            native.use_isa("mmx")
        assert native.isa() == name


@pytest.mark.skipif(native is None or len(native.isas()) == 1, reason="there is one instruction set, or none")
@pytest.mark.usefixtures("any_isa")
def test_instruction_sets_are_really_switched(dtype: type) -> None:
    """Different sets round differently (vectors of other lengths, fused multiply-add): equal bits mean no switch.

    Those with products in bfloat16 have the vectors of avx512 for all else.
    """
    results = []
    for name in {"baseline", "avx2", "avx512"} & {*native.isas()}:
        native.use_isa(name)
        results.append(run(native, "softmax", sample_arguments("softmax", dtype)))
    assert all(a != b for a, b in itertools.combinations(results, 2))
