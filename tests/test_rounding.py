"""Fractions of whole numbers, rounded: the last bit of a product must not decide which whole number comes out."""

from collections.abc import Callable

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tests.test_continuous import MODEL
from tinydiff import D3PM, Autoregressive, GaussianDiffusion, MaskedDiffusion, ScoreEntropy, data
from tinydiff.arrays import Floats
from tinydiff.processes.discrete import stratified, uniforms

LARGEST = float(np.nextafter(1.0, 0.0))  # that a generator can give


class Last:
    """A generator all of whose numbers are the largest there is, and which shuffles nothing."""

    def random(self, size: object = ()) -> Floats:
        return np.full(size, LARGEST)

    def permutation(self, x: Floats) -> Floats:
        return x

    def beta(self, a: Floats, b: Floats) -> Floats:
        return a / (a + b)

    def standard_normal(self, size: object) -> Floats:
        return np.zeros(size)

    def integers(self, low: int, high: int, size: object) -> Floats:
        return np.zeros(size, np.int64)


def test_uniform_numbers_stay_below_one() -> None:
    """(B - 1 + u) / B is rounded up to 1 for every B but 1, and then 1 + floor(u L) is one more than there is."""
    for batch in range(1, 300):
        assert stratified(batch, Last()).max() < 1
        assert uniforms(batch, Last(), "antithetic").max() < 1
    lengths = np.arange(1, 10_000)
    assert (1 + np.floor(LARGEST * lengths) <= lengths).all()


@pytest.mark.parametrize(
    "call",
    [
        lambda x0: MaskedDiffusion(3).bound(random_model(3, 4), x0, Last()),
        lambda x0: MaskedDiffusion(3).loss(random_model(3, 4), x0, Last()).data,
        lambda x0: ScoreEntropy(3).bound(random_model(3, 4), x0, Last()),
        lambda x0: D3PM(3, steps=7).bound(random_model(3, 4), x0, Last()),
        lambda x0: D3PM(3, steps=7).loss(random_model(3, 4), x0, Last()).data,
        lambda x0: D3PM(3, "uniform", steps=7).bound(random_model(3, 4, time=True), x0, Last()),
        lambda x0: GaussianDiffusion(2, 50).loss(MODEL, np.zeros((8, 3, 2)), Last()).data,
        lambda x0: GaussianDiffusion(2, 50).bound(MODEL, np.zeros((8, 3, 2)), Last()),
    ],
)
def test_the_largest_number_is_no_step_too_far(call: Callable[[np.ndarray], np.ndarray]) -> None:
    """Once in 10^14 batches: an index beyond the last step, or more masks than positions."""
    assert np.isfinite(call(np.zeros((8, 4), np.int64))).all()


def test_grids_take_the_nearest_steps() -> None:
    """n of T steps, evenly: each within half a step of i T / n in whole numbers, no two the same, both ends there."""
    for T in (1, 2, 3, 5, 10, 50, 64, 100, 101):
        d3pm = D3PM(1, steps=T)
        for n in range(1, T + 1):
            grids = [np.rint(d3pm.grid(n) * T).astype(int)]
            if T >= 50:
                grids.append(GaussianDiffusion(1, T).grid(n)[::-1])
            for grid in grids:
                assert (np.abs(2 * n * grid - 2 * np.arange(n + 1) * T) <= n).all()
                assert (np.diff(grid) > 0).all()
                assert (grid[0], grid[-1]) == (0, T)


def test_a_step_is_found_again_by_its_time() -> None:
    """T (i / T) is not always i, but nearest to it: `D3PM.level` at i / T is that of step i, for T up to 300."""
    for T in range(1, 301):
        process = D3PM(1, steps=T)
        np.testing.assert_array_equal(process.level(np.arange(T + 1) / T), process._levels)


def test_left_to_right_takes_away_the_nearest_number() -> None:
    """i of L at i / L, the nearest in between, and the larger half at t = 1/2: to even, 2 of 3 and 2 of 5 would go."""
    process, rng = Autoregressive(2), np.random.default_rng(0)

    def taken(t: Floats, length: int) -> Floats:
        return (process.corrupt(np.zeros((len(t), length), int), t, rng) == process.start_id).sum(axis=1)

    for length in range(1, 100):
        i = np.arange(length + 1)
        np.testing.assert_array_equal(taken(i / length, length), i)
        quarters = np.arange(4 * length + 1)
        assert (np.abs(4 * taken(quarters / (4 * length), length) - quarters) <= 2).all()
        assert taken(np.array([0.5]), length) == (length + 1) // 2


def test_nine_tenths_of_a_text_are_nine_tenths() -> None:
    """0.9 n falls short of a whole number for no n, so the split is the same in whole numbers."""
    for n in (*range(400), 419_430, 1_115_394):
        corpus = data.Corpus("text", "a" * n, data.Characters("a"))
        assert len(corpus.train) == 9 * n // 10
        assert len(corpus.train) + len(corpus.held_out) == n
