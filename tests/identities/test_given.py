"""Prompt and answer: what is given is neither corrupted nor scored, and the rest has the right likelihood."""

import itertools

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import D3PM, Autoregressive, Bert, MaskedDiffusion, ScoreEntropy, exact
from tinydiff.data import Batch
from tinydiff.processes import Process

V, L = 3, 4
GIVEN = np.array([True, False, True, False])  # a gap and an end to be filled
X0 = np.array([2, 0, 1, 1])


@pytest.mark.parametrize(
    "process",
    [MaskedDiffusion(V), Bert(V, 0.5), D3PM(V, "absorbing", steps=9), D3PM(V, "uniform", steps=9),
     ScoreEntropy(V, "absorbing"), ScoreEntropy(V, "uniform")],
    ids=lambda process: f"{type(process).__name__}-{getattr(process, 'symbols', '')}",
)  # fmt: skip
def test_P3_given_positions_never_change(process: Process) -> None:
    """x_t^i = x_0^i wherever i is given, at every t; the others are noised."""
    x0 = np.tile(X0, (500, 1))
    xt = process.corrupt(x0, np.full(500, 0.9), np.random.default_rng(0), np.tile(GIVEN, (500, 1)))  # type: ignore[call-arg]
    assert (xt[:, GIVEN] == x0[:, GIVEN]).all()
    assert (xt[:, ~GIVEN] != x0[:, ~GIVEN]).mean() > 0.3


def test_P3_autoregressive_chain_rule() -> None:
    """-log p(prompt) - log p(answer | prompt) = -log p(both)."""
    process, model, rng = Autoregressive(V), random_model(V, L), np.random.default_rng(0)
    x = exact.all_sequences(V, L)
    prefix = np.tile(np.arange(L) < 2, (len(x), 1))
    both, answer = process.bound(model, x, rng), process.bound(model, Batch(x, given=prefix), rng)
    heads = process.bound(model, exact.all_sequences(V, 2), rng)  # causal: what follows does not matter
    np.testing.assert_allclose(np.repeat(heads, V**2) + answer, both, rtol=1e-12)
    with pytest.raises(ValueError, match="behind position 1, which is free"):
        process.bound(model, Batch(X0[None], given=GIVEN[None]), rng)


def test_P1_the_bound_is_the_mean_over_orders_of_the_free_positions() -> None:
    """NELBO(free | given) = mean over orders of the free positions of the NLL in that order (M5 with a prompt).

    `bound` is drawn 20,000 times; two-sided at 4.5 standard errors.
    """
    process, model = MaskedDiffusion(V), random_model(V, L)
    free = np.flatnonzero(~GIVEN)
    by_order = []
    for order in itertools.permutations(free):
        state, nll = np.where(GIVEN, X0, V), 0.0
        for i in order:
            nll -= np.log(exact.token_probabilities(model, state[None], 0.5)[0, i, X0[i]])
            state = np.where(np.arange(L) == i, X0, state)
        by_order.append(nll)
    nelbo, likelihood = np.mean(by_order), np.mean(np.exp(-np.array(by_order)))
    assert nelbo >= -np.log(likelihood)
    n = 20_000
    batch = Batch(np.tile(X0, (n, 1)), given=np.tile(GIVEN, (n, 1)))
    for estimator in ("count", "time"):
        drawn = process.bound(model, batch, np.random.default_rng(1), estimator=estimator)  # type: ignore[arg-type]
        assert abs(drawn.mean() - nelbo) < 4.5 * drawn.std() / np.sqrt(n)


def test_P2_the_loss_is_the_bound_over_the_free_positions() -> None:
    """E[loss] A = NELBO(answer | prompt), but for times below T_MIN; at 4.5 standard errors and that share."""
    process, model, n = MaskedDiffusion(V), random_model(V, L), 4_000
    batch = Batch(np.tile(X0, (n, 1)), given=np.tile(GIVEN, (n, 1)))
    losses = [process.loss(model, batch, np.random.default_rng(seed)).item() for seed in range(8)]
    bounds = process.bound(model, batch, np.random.default_rng(9))
    error = np.hypot(np.std(losses, ddof=1) / np.sqrt(8), bounds.std() / np.sqrt(n))
    assert abs(2 * np.mean(losses) - bounds.mean()) < 4.5 * 2 * error + 2e-3 * bounds.mean()
