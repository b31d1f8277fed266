"""Measures of quality, against closed forms and plain loops."""

import math

import numpy as np
import pytest

from tinydiff.measures import vectors

RNG = np.random.default_rng(0)


def test_energy_distance_is_its_definition() -> None:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| over all pairs, written out; symmetric; 0 for the same sample."""
    x, y = RNG.normal(size=(5, 3, 2)), RNG.normal(size=(7, 3, 2)) + 1

    def mean(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([[math.dist(p.ravel(), q.ravel()) for p in a] for q in b]))

    expected = 2 * mean(x, y) - mean(x, x) - mean(y, y)
    assert vectors.energy_distance(x, y) == pytest.approx(expected, rel=1e-7)
    assert vectors.energy_distance(y, x) == pytest.approx(expected, rel=1e-7)
    assert abs(vectors.energy_distance(x, x)) < 1e-6  # square roots of rounding errors on the diagonal


def test_energy_distance_of_two_real_samples_is_the_floor() -> None:
    """About 2 E|X - X'| / n, = 4 / sqrt(pi) / n for N(0, 1): the mean of 40 within 4.5 standard errors, two-sided."""
    n = 200
    found = np.array([vectors.energy_distance(*RNG.normal(size=(2, n, 1))) for _ in range(40)])
    assert abs(found.mean() - 4 / math.sqrt(math.pi) / n) < 4.5 * found.std() / math.sqrt(40)
    shifted = vectors.energy_distance(RNG.normal(size=(n, 1)), RNG.normal(size=(n, 1)) + 0.5)
    assert shifted > 3 * found.mean()


def test_sliced_wasserstein_of_a_shift() -> None:
    """Moving a sample by d moves its projection on u by d u: the root of the mean of (d u)^2 is |d| / sqrt(D)."""
    x, shift = RNG.normal(size=(50, 3)), np.array([1.0, -2.0, 0.5])
    found = vectors.sliced_wasserstein(x, RNG.permutation(x) + shift, RNG, directions=20_000)
    assert found == pytest.approx(np.linalg.norm(shift) / math.sqrt(3), rel=0.02)  # 4.5 standard errors of the mean


def test_nearest_finds_the_copy() -> None:
    """The index of the most similar example, and 0 for a copy."""
    train = RNG.normal(size=(30, 4, 4))
    distance, at = vectors.nearest(np.stack([train[7], train[3] + 0.1]), train)
    assert at.tolist() == [7, 3]
    assert distance[0] == 0
    assert distance[1] == pytest.approx(0.1)


def test_classifier_learns_what_can_be_told_apart() -> None:
    """Three far Gaussians: nothing learnt, or classes mixed up."""
    labels = RNG.integers(0, 3, 600)
    x = RNG.normal(size=(600, 2, 2)) + 4 * labels[:, None, None]
    read = vectors.train_classifier(x[:500], labels[:500], RNG, hidden=32, steps=600, batch=32)
    assert (read(x[500:]) == labels[500:]).mean() > 0.95


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: vectors.energy_distance(np.zeros((3, 2)), np.zeros((3, 4))), "have shapes"),
        (lambda: vectors.energy_distance(np.zeros((0, 2)), np.zeros((3, 2))), "have shapes"),
        (lambda: vectors.energy_distance(np.full((3, 2), np.nan), np.zeros((3, 2))), "x contains NaN"),
        (lambda: vectors.nearest(np.zeros((3, 2)), np.full((3, 2), np.inf)), "y contains NaN or inf"),
        (lambda: vectors.sliced_wasserstein(np.zeros((3, 2)), np.zeros((4, 2)), RNG), "x has 3 examples and y 4"),
        (lambda: vectors.sliced_wasserstein(np.zeros((3, 2)), np.zeros((3, 2)), RNG, 0), "directions is 0"),
        (lambda: vectors.train_classifier(np.zeros((3, 2)), np.zeros(2, int), RNG), r"expected \(3,\)"),
    ],
)
def test_bad_input(call, words: str) -> None:
    """Each names the argument and what would be right."""
    with pytest.raises(ValueError, match=words):
        call()
