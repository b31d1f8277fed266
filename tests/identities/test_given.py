"""Prompt and answer: what is given is neither corrupted nor scored, and the rest has the right likelihood."""

import itertools
from typing import Any

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import D3PM, Autoregressive, Bert, MaskedDiffusion, ScoreEntropy, Tensor, Transformer, exact
from tinydiff.data import Batch
from tinydiff.processes.discrete import DiscreteDiffusion

V, L = 3, 4
GIVEN = np.array([True, False, True, False])  # a gap and an end to be filled
X0 = np.array([2, 0, 1, 1])
A = int((~GIVEN).sum())
PROCESSES: list[Any] = [
    MaskedDiffusion(V), D3PM(V, "absorbing", steps=9, hybrid=0), D3PM(V, "uniform", steps=9, hybrid=0),
    D3PM(V, "nearest", steps=9, hybrid=0, embeddings=np.eye(V), neighbours=1), ScoreEntropy(V, "absorbing"),
    ScoreEntropy(V, "uniform"),
]  # fmt: skip


def named(process: DiscreteDiffusion) -> str:
    """The process and its noise."""
    return "-".join(str(process.config.get(key, "")) for key in ("process", "matrix", "graph")).rstrip("-")


@pytest.mark.parametrize("process", [*PROCESSES, Bert(V, 0.5)], ids=named)
def test_P3_given_positions_never_change(process: DiscreteDiffusion) -> None:
    """x_t^i = x_0^i wherever i is given, at every t; the others are noised."""
    x0 = np.tile(X0, (500, 1))
    xt = process.corrupt(x0, np.full(500, 0.9), np.random.default_rng(0), np.tile(GIVEN, (500, 1)))
    assert (xt[:, GIVEN] == x0[:, GIVEN]).all()
    assert (xt[:, ~GIVEN] != x0[:, ~GIVEN]).mean() > 0.3


@pytest.mark.parametrize("process", [*PROCESSES, Bert(V, 0.5)], ids=named)
def test_P3_the_model_sees_the_prompt(process: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In loss and bound what is given stands before the network as it is, and what is free does not always."""
    model, seen = random_model(V, L, time=process.needs_time), []
    answer = Transformer.__call__

    def listening(self: Transformer, x: np.ndarray, *args: Any, **options: Any) -> Tensor:
        seen.append(x)
        return answer(self, x, *args, **options)

    monkeypatch.setattr(Transformer, "__call__", listening)
    batch = Batch(np.tile(X0, (50, 1)), given=np.tile(GIVEN, (50, 1)))
    for score in (process.loss, process.bound):
        seen.clear()
        score(model, batch, np.random.default_rng(0))
        assert seen
        for x in seen:
            assert (x[:, GIVEN] == X0[GIVEN]).all()
            assert (x[:, ~GIVEN] != X0[~GIVEN]).any()


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


class Answering:
    """A model of the free positions alone, which sees the prompt beside them."""

    def __init__(self, model: Transformer) -> None:
        self.model, self.vocab_size, self.time = model, model.vocab_size, model.time

    def __call__(
        self, x: np.ndarray, t: np.ndarray | None = None, *, causal: int = 0, select: np.ndarray | None = None
    ) -> Tensor:
        """Logits (B, A, V), or (n, V) of the positions of `select`."""
        whole = np.tile(X0, (len(x), 1))
        whole[:, ~GIVEN] = x
        logits = self.model(whole, t).data[:, ~GIVEN]
        return Tensor(logits if select is None else logits[select])


@pytest.mark.parametrize("process", PROCESSES, ids=named)
def test_P1_a_prompt_is_a_model_that_sees_it(process: DiscreteDiffusion) -> None:
    """Exact p(free | given) and its bound are those of the free positions alone, if their model sees the prompt.

    The bound is a bound (check_elbo, for the 9 prompts there are), and `bound` draws it: 6,000 draws at 4.5 errors.
    """
    model = random_model(V, L, time=process.needs_time)
    check = exact.check_elbo(process, model, L, given=GIVEN)
    rows = (check.sequences[:, GIVEN] == X0[GIVEN]).all(axis=1)
    alone = exact.check_elbo(process, Answering(model), A)
    np.testing.assert_allclose(check.nll[rows], alone.nll, rtol=1e-9)
    np.testing.assert_allclose(check.bound[rows], alone.bound, rtol=1e-9)
    assert "for each of 9 prompts" in str(check)
    n = 6_000
    drawn = process.bound(model, Batch(np.tile(X0, (n, 1)), given=np.tile(GIVEN, (n, 1))), np.random.default_rng(1))
    nelbo = check.bound[rows][(check.sequences[rows] == X0).all(axis=1)].item()
    assert abs(drawn.mean() - nelbo) < 4.5 * drawn.std() / np.sqrt(n)


def test_P1_the_bound_is_the_mean_over_orders_of_the_free_positions() -> None:
    """NELBO(free | given) = mean over orders of the free positions of the NLL in that order (M5 with a prompt).

    And p(free | given) is the mean of the probabilities. `bound` by drawn times: 20,000 at 4.5 standard errors.
    """
    process, model = MaskedDiffusion(V), random_model(V, L)
    by_order = []
    for order in itertools.permutations(np.flatnonzero(~GIVEN)):
        state, nll = np.where(GIVEN, X0, V), 0.0
        for i in order:
            nll -= np.log(exact.token_probabilities(model, state[None], 0.5)[0, i, X0[i]])
            state = np.where(np.arange(L) == i, X0, state)
        by_order.append(nll)
    nelbo, likelihood = np.mean(by_order), np.mean(np.exp(-np.array(by_order)))
    np.testing.assert_allclose(exact.nelbo(process, model, X0[None], given=GIVEN), [nelbo], rtol=1e-12)
    np.testing.assert_allclose(exact.nelbo_by_count(process, model, X0[None], given=GIVEN), [nelbo], rtol=1e-12)
    np.testing.assert_allclose(exact.any_order_nll(process, model, X0[None], GIVEN), [-np.log(likelihood)], rtol=1e-12)
    n = 20_000
    batch = Batch(np.tile(X0, (n, 1)), given=np.tile(GIVEN, (n, 1)))
    drawn = process.bound(model, batch, np.random.default_rng(1), estimator="time")
    assert abs(drawn.mean() - nelbo) < 4.5 * drawn.std() / np.sqrt(n)


@pytest.mark.parametrize(
    "given", [np.ones(L, bool), np.zeros(L - 1, bool), np.zeros(L)], ids=["all", "short", "floats"]
)
def test_P1_oracles_refuse_what_is_no_prompt(given: np.ndarray) -> None:
    """Nothing free, another length, numbers in place of booleans."""
    with pytest.raises(ValueError, match=r"given is \[.*expected 4 booleans, one per position, at least one"):
        exact.check_elbo(MaskedDiffusion(V), random_model(V, L), L, given=given)


@pytest.mark.parametrize("process", PROCESSES, ids=named)
def test_P2_the_loss_is_the_bound_over_the_free_positions(process: DiscreteDiffusion) -> None:
    """E[loss] A = NELBO(answer | prompt) exactly, but for times below T_MIN; 32,000 draws, two-sided at 4.5 errors."""
    model, n = random_model(V, L, time=process.needs_time), 4_000
    batch = Batch(np.tile(X0, (n, 1)), given=np.tile(GIVEN, (n, 1)))
    losses = A * np.array([process.loss(model, batch, np.random.default_rng(seed)).item() for seed in range(8)])
    check = exact.check_elbo(process, model, L, given=GIVEN)
    nelbo = check.bound[(check.sequences == X0).all(axis=1)].item()
    error = np.std(losses, ddof=1) / np.sqrt(8)
    assert 4.5 * error < 0.1 * nelbo
    assert abs(np.mean(losses) - nelbo) < 4.5 * error + 2e-3 * nelbo


def test_P2_bert_counts_the_free_positions() -> None:
    """E[loss] A rate = E[cross-entropy of the masks], each free position masked at that rate; 32,000 draws as above."""
    process, model, n = Bert(V, 0.5), random_model(V, L), 4_000
    batch = Batch(np.tile(X0, (n, 1)), given=np.tile(GIVEN, (n, 1)))
    losses = A * 0.5 * np.array([process.loss(model, batch, np.random.default_rng(seed)).item() for seed in range(8)])
    nll, masks = exact.masked_cross_entropy(process, model, X0[None], 0.5, GIVEN)
    assert abs(np.mean(losses) - nll[0] @ exact.masks_probability(masks, 0.5)) < 4.5 * np.std(losses) / np.sqrt(7)


def test_P2_the_prior_is_paid_for_free_positions_only() -> None:
    """L_T = A KL(q(x_1^i | x_0^i) || prior), for noise that stops short of its prior, different for each token."""
    process = D3PM(V, "nearest", steps=9, embeddings=np.arange(V)[:, None], neighbours=1, schedule="loglinear")
    kl = process.prior_term(np.arange(V)[:, None])  # (V,)
    assert len(set(kl.round(12))) > 1
    assert (kl > 0).all()
    np.testing.assert_allclose(process.prior_term(X0[None], ~GIVEN[None]), [kl[X0[~GIVEN]].sum()], rtol=1e-12)
