"""Training losses and bounds of the processes, against the formulas written out."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import D3PM, Autoregressive, Bert, MaskedDiffusion, ScoreEntropy, Tensor, Transformer, exact
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.processes import PROCESSES, Process, from_config
from tinydiff.processes.discrete import T_MIN

V, L = 3, 4


class Recorder:
    """Passes calls on to a model and remembers them."""

    def __init__(self, model) -> None:
        self.model, self.calls = model, []

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        self.calls.append((x, t, select))
        return self.model(x, t, causal=causal, select=select)


def batch(size: int, seed: int = 0) -> Ints:
    return np.random.default_rng(seed).integers(0, V, (size, L))


def test_masked_loss_is_the_weighted_cross_entropy_over_all_tokens() -> None:
    """Sum of w(t) CE over masked positions, divided by B L: dividing by the masked count would drop the 1/t."""
    process, model = MaskedDiffusion(V, "cosine"), Recorder(random_model(V, L))
    x0 = batch(8)
    loss = process.loss(model, x0, np.random.default_rng(1)).item()
    ((xt, t, select),) = model.calls
    masked = xt == process.mask_id
    np.testing.assert_array_equal(select, masked)  # only masked positions go through the head
    p = np.exp(model.model(xt, t).data)
    p /= p.sum(axis=-1, keepdims=True)
    nll = -np.log(np.take_along_axis(p, x0[..., None], axis=-1)[..., 0])
    alpha, slope = 1 - np.cos(np.pi / 2 * (1 - t)), -np.pi / 2 * np.sin(np.pi / 2 * (1 - t))
    weight = -slope / (1 - alpha)
    assert loss == pytest.approx((weight[:, None] * nll * masked).sum() / x0.size, rel=1e-12)


@pytest.mark.parametrize("power", [1.0, 0.5, 0.0])
def test_masked_loss_raises_its_weights_to_a_power(power: float) -> None:
    """sum_k (L / k)^power k / L^2 times log V, for a network that knows nothing and one text for each count k."""
    process = MaskedDiffusion(V, estimator="count", power=power)

    def ignorant(x: Ints, t: Floats, *, select: Bools) -> Tensor:
        return Tensor(np.zeros((int(select.sum()), V)))

    k = np.arange(1, L + 1)
    loss = process.loss(ignorant, batch(L), np.random.default_rng(0)).item()
    assert loss == pytest.approx(((L / k) ** power * k).sum() / L**2 * np.log(V), rel=1e-12)
    assert from_config(process.config).power == power
    with pytest.raises(ValueError, match=r"power is 1\.5; expected 0 <= power <= 1"):
        MaskedDiffusion(V, power=1.5)


def test_masked_loss_has_one_stratified_time_per_sequence() -> None:
    """One time for the whole batch would multiply the variance; each of B equal parts of (0, 1) holds one time."""
    model = Recorder(random_model(V, L))
    MaskedDiffusion(V).loss(model, batch(16), np.random.default_rng(0))
    t = model.calls[0][1]
    np.testing.assert_array_equal(np.floor((t - T_MIN) / (1 - T_MIN) * 16), np.arange(16))


@pytest.mark.parametrize("estimator", ["count", "time"])
@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial"])
def test_masked_bound_estimates_the_exact_nelbo(estimator: str, schedule: str) -> None:
    """Monte Carlo: the mean of 20,000 estimates within 4.5 standard errors of the enumerated bound, seed fixed."""
    process, model, x0 = MaskedDiffusion(V, schedule), random_model(V, L), np.array([[2, 0, 1, 1]])
    estimates = process.bound(model, np.tile(x0, (20_000, 1)), np.random.default_rng(0), estimator=estimator)
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - exact.nelbo(process, model, x0)) < 4.5 * error
    assert error < 0.1


def test_masked_bound_is_unbiased_for_each_place_in_the_batch() -> None:
    """Stratifying without shuffling would give the first sequence of every batch the fewest masks."""
    process, model, x0 = MaskedDiffusion(V), random_model(V, L), np.array([[2, 0, 1, 1]])
    rng = np.random.default_rng(0)
    estimates = np.array([process.bound(model, np.tile(x0, (4, 1)), rng) for _ in range(4000)])  # (runs, B)
    error = estimates.std(axis=0) / np.sqrt(len(estimates))
    assert (np.abs(estimates.mean(axis=0) - exact.nelbo(process, model, x0)) < 4.5 * error).all()


def test_masked_bound_by_count_masks_exactly_k() -> None:
    """k is uniform on 1..L and stratified over the batch: each value appears equally often."""
    model = Recorder(random_model(V, L))
    MaskedDiffusion(V).bound(model, batch(5 * L), np.random.default_rng(0))
    k = (model.calls[0][0] == V).sum(axis=1)
    np.testing.assert_array_equal(np.bincount(k, minlength=L + 1), [0] + [5] * L)


def test_autoregressive_bound_is_the_exact_likelihood() -> None:
    """A1: -log p(x) is the sum of -log p(x^i | x^{<i}), and the probabilities of all sequences sum to one."""
    process, model = Autoregressive(V), random_model(V, L)
    sequences = exact.all_sequences(V, L)
    nll = process.bound(model, sequences, np.random.default_rng(0))
    assert np.exp(-nll).sum() == pytest.approx(1, rel=1e-12)
    assert process.loss(model, sequences, np.random.default_rng(0)).item() == pytest.approx(nll.mean() / L)


def test_autoregressive_samples_have_its_law() -> None:
    """Draws of all 9 sequences of two tokens: two-sided at 4.5 standard errors, seed fixed; cache or no cache."""
    process, model = Autoregressive(V), random_model(V, 2)
    law = np.exp(-process.bound(model, exact.all_sequences(V, 2), np.random.default_rng(0)))
    results = []
    for network in (model, Recorder(model)):  # a Recorder is no Transformer: no cache
        *_, last = process.sample(network, 2, 20_000, rng=np.random.default_rng(0))
        results.append(last.state)
        found = np.bincount(exact.state_index(last.state, V), minlength=V**2) / 20_000
        assert (np.abs(found - law) < 4.5 * np.sqrt(law * (1 - law) / 20_000)).all()
    np.testing.assert_array_equal(*results)


def test_autoregressive_corruption_takes_from_the_end() -> None:
    """Time 0 keeps all, 1 keeps nothing, 1/2 the first half."""
    x0 = batch(3)
    xt = Autoregressive(V).corrupt(x0, np.array([0.0, 0.5, 1.0]), np.random.default_rng(0))
    np.testing.assert_array_equal((xt == V).sum(axis=1), [0, 2, 4])
    np.testing.assert_array_equal(xt[1, :2], x0[1, :2])


@pytest.mark.parametrize("name", PROCESSES)
def test_config_round_trip(name: str) -> None:
    """What a checkpoint stores is enough to build the process again, and it is a Process."""
    process: Process = PROCESSES[name](V)
    assert_round_trip(process)


def assert_round_trip(process: Process) -> None:
    again = from_config(process.config)
    assert type(again) is type(process)
    assert again.config == process.config


def test_config_of_nearest_neighbour_noise_keeps_the_embeddings() -> None:
    """Through JSON, as in a checkpoint: the same matrices to the bit."""
    process = D3PM(V, "nearest", steps=7, schedule="cosine", embeddings=[[0.1], [0.7], [0.9]], neighbours=1)
    assert_round_trip(process)
    again = from_config(json.loads(json.dumps(process.config)))
    np.testing.assert_array_equal(again.forward(0.0, 3 / 7), process.forward(0.0, 3 / 7))


def test_bert_normalises_by_the_expected_number_of_masks() -> None:
    """Sum of the masked cross-entropies over rate * B * L: the count of the batch itself would bias the slice."""
    process, model = Bert(V, 0.4), Recorder(random_model(V, L))
    x0 = batch(8)
    loss = process.loss(model, x0, np.random.default_rng(1)).item()
    ((xt, t, _),) = model.calls
    np.testing.assert_array_equal(t, 0.4)
    p = exact.token_probabilities(model.model, xt, 0.4)
    nll = -np.log(np.take_along_axis(p, x0[..., None], axis=-1)[..., 0])
    assert loss == pytest.approx((nll * (xt == V)).sum() / (0.4 * x0.size), rel=1e-12)


def test_score_entropy_stays_finite_at_the_ends() -> None:
    """Scores are infinite at t = 0 and 0 at t = 1: neither may reach loss, bound or gradient, in float32 either."""
    for graph in ("absorbing", "uniform"):
        for noise in ("loglinear", "geometric"):
            process = ScoreEntropy(V, graph, noise)
            model = Transformer(V, L, d_model=8, layers=1, heads=2, rng=np.random.default_rng(0))
            for size in (1, 2, 500):
                loss = process.loss(model, batch(size), np.random.default_rng(0))
                loss.backward()
                assert np.isfinite(loss.item())
                assert np.isfinite(process.bound(model, batch(size), np.random.default_rng(0))).all()
            assert all(np.isfinite(p.grad).all() for p in model.params.values())


def test_any_order_likelihood_against_all_orders() -> None:
    """The recursion over subsets equals the mean over all L! orders written out."""
    import itertools

    process, model, x0 = MaskedDiffusion(V), random_model(V, L), np.array([2, 0, 1, 1])
    likelihoods = []
    for order in itertools.permutations(range(L)):
        state, p = np.full(L, V), 1.0
        for i in order:
            p *= exact.token_probabilities(model, state[None], 0.5)[0, i, x0[i]]
            state[i] = x0[i]
        likelihoods.append(p)
    np.testing.assert_allclose(exact.any_order_nll(process, model, x0[None]), -np.log(np.mean(likelihoods)), rtol=1e-12)


def test_bayes_denoiser_gives_the_conditionals_of_its_law() -> None:
    """Revealing one position at a time from the true conditionals gives the law back, in any order."""
    law = np.random.default_rng(0).dirichlet(np.ones(V**L))
    model = exact.BayesDenoiser(law, V, L)
    nll = exact.any_order_nll(MaskedDiffusion(V), model, exact.all_sequences(V, L))
    np.testing.assert_allclose(np.exp(-nll), law, rtol=1e-10)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MaskedDiffusion(0), "vocab_size is 0"),
        (lambda: MaskedDiffusion(V, "sine"), "'sine'"),
        (lambda: Autoregressive(0), "vocab_size is 0"),
        (lambda: MaskedDiffusion(V).corrupt(batch(2), np.zeros(3), np.random.default_rng(0)), "one time per sequence"),
        (lambda: MaskedDiffusion(V).corrupt(batch(2), np.array([0.1, 2.0]), np.random.default_rng(0)), "t contains 2"),
        (lambda: MaskedDiffusion(V).loss(random_model(V, L), batch(2)[0], np.random.default_rng(0)), r"shape \(4,\)"),
        (lambda: MaskedDiffusion(V).loss(random_model(V, L), batch(2) + V, np.random.default_rng(0)), "x0 contains"),
        (lambda: MaskedDiffusion(V).loss(random_model(V, L), batch(2) * 0.5, np.random.default_rng(0)), "float64"),
        (
            lambda: MaskedDiffusion(V).bound(random_model(V, L), batch(2), np.random.default_rng(0), estimator="x"),
            "estimator is 'x'",
        ),
        (
            lambda: MaskedDiffusion(V).bound(random_model(V, L), batch(2), np.random.default_rng(0), spread="x"),
            "spread is 'x'",
        ),
        (lambda: MaskedDiffusion(V).loss(random_model(V + 1, L), batch(2), np.random.default_rng(0)), "room for MASK"),
        (lambda: MaskedDiffusion(V).bound(random_model(V - 1, L), batch(2), np.random.default_rng(0)), "for the model"),
        (lambda: MaskedDiffusion(V).sample(random_model(V + 1, L), L, rng=np.random.default_rng(0)), "room for MASK"),
        (lambda: Bert(V, 0.0), "rate is 0"),
        (lambda: from_config({"process": "magic"}), "'magic'"),
        (lambda: exact.all_sequences(4, 11), "at most 9"),
        (lambda: exact.BayesDenoiser(np.ones(3), V, L), r"expected \(81,\)"),
    ],
)
def test_bad_input(call, words: str) -> None:
    """Each names the argument, the value and what would be right."""
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(
    "make",
    [MaskedDiffusion, Bert, Autoregressive, lambda v: D3PM(v, "absorbing"), lambda v: D3PM(v, "uniform"),
     lambda v: ScoreEntropy(v, "absorbing"), lambda v: ScoreEntropy(v, "uniform")],
)  # fmt: skip
def test_memory_grows_with_the_vocabulary_and_not_with_its_square(make: Callable[[int], Process]) -> None:
    """20,000 words, a square table of which takes 3.2 GB: a loss, a bound and two steps of sampling take below 60 MB.

    The states of 2 x 8 tokens in float64 take 2.6 MB, the model 3.
    """
    v, rng = 20_000, np.random.default_rng(0)
    tracemalloc.start()
    try:
        process: Any = make(v)
        model = Transformer(v, 8, d_model=8, layers=1, heads=1, time=getattr(process, "needs_time", False), rng=rng)
        x0 = rng.integers(0, v, (2, 8))
        process.loss(model, x0, rng).backward()
        process.bound(model, x0, rng)
        frames = process.sample(model, 8, 2, rng=rng)
        assert next(frames).state.shape == next(frames).state.shape == (2, 8)
        assert tracemalloc.get_traced_memory()[1] < 60e6
    finally:
        tracemalloc.stop()
