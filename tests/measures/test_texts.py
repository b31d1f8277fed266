"""Measures of texts, each on texts whose figure is known."""

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import Autoregressive
from tinydiff.data import laws
from tinydiff.measures import texts

SUMS = laws.sums()


def test_ngrams_do_not_cross_texts() -> None:
    """Two texts side by side have no pair in common with their neighbour."""
    ids = np.array([[0, 1, 2], [3, 4, 5]])
    assert texts.ngrams(ids, 2).tolist() == [[0, 1], [1, 2], [3, 4], [4, 5]]
    with pytest.raises(ValueError, match="n is 4"):
        texts.ngrams(ids, 4)


def test_entropy_and_distinct() -> None:
    """Uniform over k is log k; one text over and over is 0."""
    ids = np.array([[0, 1], [1, 0], [2, 2], [3, 1]])
    assert texts.ngram_entropy(ids, 2) == pytest.approx(np.log(4))
    assert texts.ngram_entropy(np.tile(ids[:1], (9, 1)), 2) == 0
    assert texts.distinct(ids, 2) == 1
    assert texts.distinct(np.tile(ids[:1], (9, 1)), 2) == pytest.approx(1 / 9)


def test_by_law_counts_valid_texts_and_their_nll() -> None:
    """Invalid texts count as 0 and leave the NLL finite; the entropy is that of whole texts."""
    ids = SUMS.codec.encode("17+25=42 99+99=19820+20=41 17+25=42 ").reshape(4, 9)
    measure = texts.ByLaw(SUMS)
    assert measure.score(ids).tolist() == [1, 1, 0, 1]
    columns = measure.columns(ids)
    assert columns["nll"] == columns["nll_real"] == pytest.approx(np.log(8100))
    assert columns["entropy"] == pytest.approx(1.5 * np.log(2))
    assert columns["tv"] == pytest.approx(1 - 2 / 8100)  # two of 8,100 texts are hit, too often
    assert columns["entropy_real"] == pytest.approx(np.log(4))
    assert np.isnan(measure.columns(ids[2:3])["nll"])


def test_total_variation_to_a_law() -> None:
    """All of a law is 0 from it; texts that are not valid are as far as can be."""
    assert texts.total_variation(SUMS, SUMS.ids) == pytest.approx(0, abs=1e-12)
    assert texts.total_variation(SUMS, np.zeros((5, 9), int)) == 1
    assert texts.total_variation(SUMS, SUMS.ids[: 8100 // 2]) == pytest.approx(0.5)


def test_by_judge_is_the_exact_likelihood() -> None:
    """Nats per character of the judge, whatever the number of texts; real texts beside them."""
    process, model = Autoregressive(3), random_model(3, 4)
    ids, real = (np.random.default_rng(seed).integers(0, 3, (130, 4)) for seed in (0, 1))
    measure = texts.ByJudge(process, model, real)
    nll = process.bound(model, ids, np.random.default_rng(0))
    np.testing.assert_allclose(measure.score(ids), -nll / 4)
    columns = measure.columns(ids[:100])
    assert columns["nll"] == pytest.approx(nll[:100].mean() / 4)
    assert columns["nll_real"] == pytest.approx(-measure.score(real[:100]).mean())
    assert columns["entropy"] == texts.ngram_entropy(ids[:100], 3)
    assert columns["distinct_real"] == texts.distinct(real[:100], 3)


def test_intervals_cover() -> None:
    """95 % intervals of a difference hold the truth in 95 % of 200 repetitions: 4.5 standard errors, seed fixed.

    And they are no wider than they need be, 2 x 1.96 standard errors of the difference on average.
    """
    assert texts.interval(np.arange(1001)) == pytest.approx((25, 975))
    rng, held, widths = np.random.default_rng(0), 0, []
    for _ in range(200):
        a, b = (rng.random(100) < 0.6).astype(float), (rng.random(150) < 0.3).astype(float)
        found, low, high = texts.difference(a, b, rng)
        assert low <= found <= high
        held += low <= 0.3 <= high
        widths.append(high - low)
    assert abs(held / 200 - 0.95) < 4.5 * np.sqrt(0.95 * 0.05 / 200)
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.sqrt(0.6 * 0.4 / 100 + 0.3 * 0.7 / 150), rel=0.05)
