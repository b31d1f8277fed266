"""Fixtures: every implementation of the kernels, in both float types."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest

from tinydiff.kernels import native, reference

ISAS = [isa for isa in native.isas() if isa not in ("avx512_bf16", "amx")] if native else ["native"]
# the others have the same kernels as avx512, and products in bfloat16 beside them: see test_bfloat16.py


def _implementation(name: str) -> Iterator[ModuleType]:
    if name == "numpy":
        yield reference
        return
    if native is None:
        pytest.skip("the native extension is not built")
    before = native.isa()
    native.use_isa(name)
    yield native
    native.use_isa(before)


@pytest.fixture(scope="module", params=["numpy", *ISAS])
def impl(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The NumPy kernels, then the native ones on each instruction set."""
    yield from _implementation(request.param)


@pytest.fixture(scope="module", params=ISAS)
def compiled(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The native kernels on each instruction set."""
    yield from _implementation(request.param)


@pytest.fixture(scope="module", params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> type:
    """The element type."""
    return request.param
