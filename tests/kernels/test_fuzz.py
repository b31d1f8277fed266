"""A few thousand of the calls of fuzz.py; make hundreds of thousands of them by hand."""

from collections import Counter
from collections.abc import Iterator

import fuzz
import numpy as np
import pytest

from tinydiff.kernels import KERNELS, native, reference

needs_native = pytest.mark.skipif(native is None, reason="the native extension is not built")


@pytest.fixture
def any_settings() -> Iterator[None]:
    """Puts the instruction set and the threads back."""
    isa, pool, threads = native.isa(), native.pool(), native.threads()
    yield
    native.use_isa(isa)
    native.use_pool(pool)
    native.set_threads(threads)


@needs_native
@pytest.mark.usefixtures("any_settings")
@pytest.mark.parametrize("seed", range(4))
def test_calls_at_random(seed: int) -> None:
    """Right ones are right and wrong ones are refused, whatever the layout, set, pool and number of threads."""
    counts = Counter(fuzz.one_call(seed, number) for number in range(500))
    assert min(counts["right"], counts["refused"], counts["taken as right"]) > 20


def test_every_kernel_is_called() -> None:
    """A new kernel needs a maker of its arguments."""
    assert set(fuzz.MAKERS) == set(KERNELS)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("change", ["value", "nan", "dtype", "shape"])
def test_differences_are_seen(kernel: str, change: str) -> None:
    """The judge: a result that is a little off, of another type or shape, or not a number, is a fault."""
    rng = np.random.default_rng(0)
    draw = fuzz.Draw(np.random.default_rng(2), np.float64)
    assert not draw.special
    arguments = fuzz.MAKERS[kernel](draw)
    got = fuzz._call(reference, kernel, fuzz._copy(arguments))
    fuzz.expect_equal(kernel, got, arguments, rng)
    assert got[0].size > 1
    if change == "value":
        got[0].flat[1] += 1e-4 * np.abs(got[0]).max()
    elif change == "nan":
        got[0].flat[1] = np.nan
    else:
        got[0] = got[0].astype(np.float32) if change == "dtype" else got[0][None]
    with pytest.raises(fuzz.Fault):
        fuzz.expect_equal(kernel, got, arguments, rng)
