"""The denoiser of texts that can be listed, against the one that enumerates every sequence."""

import numpy as np

from tests.decoders.test_decoders import rng
from tinydiff import MaskedDiffusion, decoders, exact
from tinydiff.data import laws

LAW = laws.Listed(("abab", "abba", "baba", "bbbb"), np.array([0.4, 0.3, 0.2, 0.1]))


def test_listed_denoiser_is_the_bayes_denoiser() -> None:
    """Every state of V = 2, L = 4 that fits some text: the same laws at the masks; `select` picks them."""
    law = np.exp(LAW.log_p(exact.all_sequences(2, 4)))
    states = exact.all_sequences(3, 4)
    fits = ((states[:, None] == LAW.ids) | (states[:, None] == 2)).all(axis=-1).any(axis=-1)
    states = states[fits & (states == 2).any(axis=1)]
    masked = states == 2
    expected = exact.BayesDenoiser(law, 2, 4)(states, select=masked).data
    found = exact.ListedDenoiser(LAW)(states, select=masked).data
    np.testing.assert_allclose(np.exp(found), np.exp(expected), atol=1e-12)
    np.testing.assert_array_equal(exact.ListedDenoiser(LAW)(states).data[masked], found)


def test_one_at_a_time_with_the_truth_is_always_valid() -> None:
    """No decoder errs that asks a perfect model before every token; random order then has the law itself."""
    process, model = MaskedDiffusion(2), exact.ListedDenoiser(LAW)
    *_, last = process.sample(model, 4, 20_000, decoder=decoders.Random(), rng=rng())
    counts = np.bincount(LAW.places(last.state), minlength=4)
    assert counts.sum() == 20_000
    assert (
        np.abs(counts / 20_000 - LAW.p) < 4.5 * np.sqrt(LAW.p * (1 - LAW.p) / 20_000)
    ).all()  # two-sided, seed fixed
