"""Noise schedules: ends, inverse, grid. The weight is proved in identities/test_masked.py (M2)."""

import numpy as np
import pytest

from tinydiff import schedules

NAMES = list(schedules.SCHEDULES)
T = np.linspace(0, 1, 101)


@pytest.mark.parametrize("name", NAMES)
def test_falls_from_one_to_zero(name: str) -> None:
    """0 is clean and 1 is noise, everywhere; loglinear stops at its eps and geometric close by, on purpose."""
    alpha = schedules.schedule(name).alpha(T)
    assert (np.diff(alpha) < 0).all()
    assert 1 - alpha[0] <= 1.1e-5
    assert alpha[-1] <= 1.1e-3


@pytest.mark.parametrize("name", NAMES)
def test_inverse(name: str) -> None:
    """t -> alpha -> t; an alpha that is never reached gives the nearer end."""
    schedule = schedules.schedule(name)
    inside = T[5:-5]
    np.testing.assert_allclose(schedule.inverse(schedule.alpha(inside)), inside, atol=1e-9)
    np.testing.assert_allclose(schedule.inverse(np.array([1.0, 0.0])), [0.0, 1.0], atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_grid_ends_exactly(name: str, steps: int) -> None:
    """An alpha of 0.999 at t = 0 would leave masks behind in the last reverse step."""
    grid = schedules.schedule(name).grid(steps)
    assert grid.shape == (steps + 1,)
    assert grid[0] == 1
    assert grid[-1] == 0
    assert (np.diff(grid) < 0).all()


def test_polynomial_of_power_one_is_linear() -> None:
    """A known special case."""
    np.testing.assert_allclose(schedules.polynomial(1.0).alpha(T), schedules.linear().alpha(T), atol=1e-15)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: schedules.schedule("sine"), "'sine'; expected one of linear"),
        (lambda: schedules.linear().alpha(1.5), "t contains 1.5"),
        (lambda: schedules.linear().alpha(np.array([0.2, np.nan])), "t contains nan"),
        (lambda: schedules.linear().inverse(-0.1), "alpha contains -0.1"),
        (lambda: schedules.linear().weight(np.array([0.5, 0.0])), "t contains 0"),
        (lambda: schedules.linear().grid(0), "steps is 0"),
        (lambda: schedules.loglinear(0.0), "eps is 0"),
        (lambda: schedules.geometric(2.0, 1.0), "low is 2"),
        (lambda: schedules.polynomial(0.0), "power is 0"),
    ],
)
def test_bad_input(call, words: str) -> None:
    """Each names the argument and its value."""
    with pytest.raises(ValueError, match=words):
        call()
