"""Masked diffusion, M1 to M11 and C1: each test is one line of the chapter, proved by enumeration in float64."""

import itertools
import math

import numpy as np
import pytest

import tinydiff as td
from tests.identities.conftest import random_law, random_model
from tinydiff import MaskedDiffusion, exact, samplers, schedules
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.transformer import Model

V, L = 3, 4
X0 = np.array([2, 0, 1, 1])


class EveryUniform:
    """Stands in for a random generator: its "draws" are every point of a grid, so that counting them gives exact laws.

    The uniform numbers of `shape` (cells^L, L) run through all combinations of the midpoints of `cells` equal cells.
    """

    def __init__(self, cells: int) -> None:
        self.midpoints = (np.arange(cells) + 0.5) / cells

    def random(self, shape: tuple[int, int]) -> Floats:
        grid = np.array(list(itertools.product(self.midpoints, repeat=shape[1])))
        assert grid.shape == shape
        return grid


def expected_cross_entropy(process: MaskedDiffusion, model: Model, x0: Ints, rate: float) -> float:
    """E[sum over masked positions of -log p(x_0 | x_t)] when every token is masked with probability `rate`."""
    nll, masks = exact.masked_cross_entropy(process, model, x0[None], 0.5)
    return float(nll[0] @ exact.masks_probability(masks, 1 - rate))


def integral_over_rate(process: MaskedDiffusion, model: Model, x0: Ints, low: float, high: float) -> float:
    """Integral of E[cross-entropy at rate u] / u over the masking rate u: a polynomial, so quadrature is exact."""
    points, weights = np.polynomial.legendre.leggauss(len(x0))
    rates = low + (high - low) * (points + 1) / 2
    return sum(
        w * (high - low) / 2 * expected_cross_entropy(process, model, x0, u) / u
        for u, w in zip(rates, weights, strict=True)
    )


def test_M1_masked_fraction_is_one_minus_alpha(schedule_name: str) -> None:
    """q(x_t | x_0) = prod_i alpha_t [x_t^i = x_0^i] + (1 - alpha_t) [x_t^i = MASK], and MASK is absorbing.

    The law of `corrupt` over all masks, counted exactly; then, the same uniform numbers at a later time mask a superset
    (Sahoo et al. 2024, eq. 3).
    """
    process, cells, length = MaskedDiffusion(V, schedule_name), 8, 3
    x0 = np.broadcast_to(X0[:length], (cells**length, length))
    masked_before: Bools | None = None
    for eighths in (7, 5, 2, 1):  # alpha falls as time goes on
        t = np.full(len(x0), process.schedule.inverse(eighths / cells))
        xt = process.corrupt(x0, t, EveryUniform(cells))
        masked = xt == process.mask_id
        assert (xt[~masked] == x0[~masked]).all()
        for pattern in exact.all_masks(length):
            hits = (masked == pattern).all(axis=1).sum()
            k = pattern.sum()
            assert hits == (cells - eighths) ** k * eighths ** (length - k)
        if masked_before is not None:
            assert (masked | ~masked_before).all()
        masked_before = masked


def test_M2_weight_is_minus_alpha_prime_over_one_minus_alpha(schedule_name: str) -> None:
    """w(t) = -alpha'(t) / (1 - alpha(t)), alpha' by eighth-order central differences; 1/t for the linear schedule.

    Shi et al. 2024, eq. 4.
    """
    schedule = schedules.schedule(schedule_name)
    t, h = np.linspace(0.05, 0.95, 37), 2e-3
    coefficients = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    slope = sum(c * (schedule.alpha(t + k * h) - schedule.alpha(t - k * h)) / h for k, c in coefficients.items())
    np.testing.assert_allclose(schedule.derivative(t), slope, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(schedule.weight(t), -slope / (1 - schedule.alpha(t)), rtol=1e-9, atol=1e-10)
    if schedule_name == "linear":
        np.testing.assert_allclose(schedule.weight(t), 1 / t, rtol=1e-14)


def test_M3_discrete_bound_tends_to_the_continuous_one(schedule_name: str) -> None:
    """sum_t (alpha_{t-1} - alpha_t)/(1 - alpha_t) E[CE] -> integral of w(t) E[CE] as T grows.

    The sums are Riemann sums, whose error is a power series in 1/T for a smooth schedule: Richardson extrapolation over
    T = 4, 8, ..., 512 removes it. Schedules with a jump at an end keep it as a term of its own in both bounds.
    Sahoo et al. 2024, eq. 8 and 10.
    """
    process, model = MaskedDiffusion(2, schedule_name), random_model(2, 3)
    x0 = np.array([[1, 0, 1]])
    continuous = exact.nelbo(process, model, x0)[0]
    # First order: halving the step halves the error (of either sign, for a network that is not optimal).
    errors = [abs(exact.discrete_nelbo(process, model, x0, steps)[0] - continuous) for steps in (64, 128, 256)]
    assert 0 < errors[2] < 0.6 * errors[1] < 0.36 * errors[0]
    if schedule_name in ("linear", "cosine", "polynomial"):
        table = [exact.discrete_nelbo(process, model, x0, 4 << i)[0] for i in range(8)]
        for order in range(1, 8):
            table = [(2**order * b - a) / (2**order - 1) for a, b in itertools.pairwise(table)]
        np.testing.assert_allclose(table[0], continuous, rtol=1e-9)


def test_M3_bayes_optimal_bound_falls_on_nested_grids(schedule_name: str) -> None:
    """With p_theta the true conditionals, E_{x_0}[NELBO_T] never rises when every step is split in two.

    It stays above the entropy of the data, and above its own limit, the continuous bound.
    """
    law = random_law(2**3)
    process, model = MaskedDiffusion(2, schedule_name), exact.BayesDenoiser(law, 2, 3)
    sequences = exact.all_sequences(2, 3)
    bounds = [law @ exact.discrete_nelbo(process, model, sequences, steps) for steps in (1, 2, 4, 8, 16, 32)]
    limit = law @ exact.nelbo(process, model, sequences)
    entropy = -(law * np.log(law)).sum()
    assert (np.diff(bounds) < 0).all()
    assert bounds[-1] > limit >= entropy - 1e-12


def test_M4_bound_does_not_depend_on_the_schedule(schedule_name: str) -> None:
    """integral w(t) E[CE_t] dt = integral_{1 - alpha(0)}^{1 - alpha(1)} E[CE_u] / u du, whatever alpha(t).

    Substituting the masking rate u = 1 - alpha(t). Adding the parts of the rate that a schedule does not reach gives
    the same number for all, the closed form over the number of masks (Kingma et al. 2021, section 5.1, for masks).
    """
    process, model = MaskedDiffusion(V, schedule_name), random_model(V, L)
    first, last = float(process.schedule.alpha(0.0)), float(process.schedule.alpha(1.0))
    points, weights = np.polynomial.legendre.leggauss(96)
    over_time = sum(
        w / 2 * process.schedule.weight(t) * expected_cross_entropy(process, model, X0, 1 - process.schedule.alpha(t))
        for t, w in zip((points + 1) / 2, weights, strict=True)
    )
    np.testing.assert_allclose(over_time, integral_over_rate(process, model, X0, 1 - first, 1 - last), rtol=1e-9)
    unreached = integral_over_rate(process, model, X0, 0, 1 - first) if first < 1 else 0.0
    unreached += integral_over_rate(process, model, X0, 1 - last, 1) if last > 0 else 0.0
    by_count = exact.nelbo_by_count(process, model, X0[None])[0]
    np.testing.assert_allclose(over_time + unreached, by_count, rtol=1e-9)
    # The estimators' own means, over every order and every k: no schedule enters.
    counts = [
        (L / k) * np.mean([mask_nll(process, model, X0, hidden) for hidden in itertools.combinations(range(L), k)])
        for k in range(1, L + 1)
    ]
    np.testing.assert_allclose(np.mean(counts), by_count, rtol=1e-12)


def mask_nll(process: MaskedDiffusion, model: Model, x0: Ints, hidden: tuple[int, ...]) -> float:
    """-log p_theta(x_0 | x_t) summed over the hidden positions, by asking the model directly."""
    xt = x0.copy()
    xt[list(hidden)] = process.mask_id
    p = exact.token_probabilities(model, xt[None], 0.5)[0]
    return -sum(math.log(p[i, x0[i]]) for i in hidden)


@pytest.mark.parametrize("seed", range(3))
def test_M7_bound_is_above_every_likelihood_and_they_sum_to_one(seed: int, schedule_name: str) -> None:
    """-log p_theta(x_0) <= NELBO(x_0) for every x_0, sum_{x_0} p_theta(x_0) = 1; continuous and discrete time.

    `check_elbo` raises unless both hold. A network that is told the time has an exact law in discrete time only.
    """
    process = MaskedDiffusion(V, schedule_name)
    for steps in (None, 1, 3):
        check = exact.check_elbo(process, random_model(V, L, seed=seed), L, steps)
        assert len(check.nll) == V**L
        np.testing.assert_allclose(np.exp(-check.nll).sum(), 1, rtol=1e-12)
    timed = exact.check_elbo(process, random_model(V, 3, time=True, seed=seed), 3, 4)
    np.testing.assert_allclose(np.exp(-timed.nll).sum(), 1, rtol=1e-12)


def test_M7_check_elbo_notices_a_broken_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A weight half as large gives a "bound" below some likelihood, and `check_elbo` must say so."""
    process, model = MaskedDiffusion(V), random_model(V, L)
    whole = schedules.Schedule.weight
    monkeypatch.setattr(schedules.Schedule, "weight", lambda self, t: whole(self, t) / 2)
    with pytest.raises(AssertionError, match="bound is broken"):
        exact.check_elbo(process, model, L)


class Meddler:
    """A model whose answers at visible positions are overwritten with anything."""

    def __init__(self, model: td.Transformer) -> None:
        self.model = model

    def __call__(
        self, x: Ints, t: Floats | None = None, *, causal: bool = False, select: Bools | None = None
    ) -> td.Tensor:
        logits = self.model(x, t).data.copy()
        logits[x != self.model.vocab_size] = np.random.default_rng(0).normal(size=V) * 100
        return td.Tensor(logits if select is None else logits[select])


def test_M11_visible_positions_contribute_nothing_and_mask_has_no_probability() -> None:
    """Carry-over and zero masking probability (Sahoo et al. 2024, section 3.2.3).

    Loss, bound, exact bound and samples are the same if the model's answers at visible positions are replaced; the
    model's probabilities are over the V real tokens and sum to one, and no sample contains MASK.
    """
    model = random_model(V, L)
    process, meddler = MaskedDiffusion(V), Meddler(model)
    x0 = np.random.default_rng(1).integers(0, V, (64, L))

    def rng() -> np.random.Generator:
        return np.random.default_rng(2)

    np.testing.assert_allclose(
        process.loss(meddler, x0, rng()).item(), process.loss(model, x0, rng()).item(), rtol=1e-12
    )
    for estimator in ("count", "time"):
        np.testing.assert_allclose(
            process.bound(meddler, x0, rng(), estimator=estimator),
            process.bound(model, x0, rng(), estimator=estimator),
            rtol=1e-12,
        )
    np.testing.assert_allclose(
        exact.nelbo(process, meddler, X0[None]), exact.nelbo(process, model, X0[None]), rtol=1e-12
    )
    states = exact.all_sequences(V + 1, L)
    p = exact.token_probabilities(model, states, 0.5)
    assert p.shape == (len(states), L, V)
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-12)

    for remasking in ("low_confidence", "random", "ancestral"):
        options = {"steps": 3, "remasking": remasking}
        honest = list(process.sample(model, L, 50, rng=rng(), **options))
        meddled = list(process.sample(meddler, L, 50, rng=rng(), **options))
        for before, frame, other in zip(honest, honest[1:], meddled[1:], strict=False):
            visible = before.state != process.mask_id
            assert (frame.state[visible] == before.state[visible]).all()  # carried over
            assert (frame.state == other.state).all()
        assert (honest[-1].state < V).all()


def chain_law_by_bayes(process: MaskedDiffusion, model: Model, length: int, steps: int) -> Floats:
    """p(x_0) of the discrete-time chain from its definition, with no formula of masked diffusion.

    p(x_s | x_t) = prod_i sum_{x_0^i} q(x_s^i | x_t^i, x_0^i) p_theta(x_0^i | x_t), the posterior by Bayes from the
    transition matrices Q_t of absorbing noise.
    """
    v, symbols = process.vocab_size, process.vocab_size + 1
    alpha = process.schedule.grid(steps)
    states = exact.all_sequences(symbols, length)
    law = (states == v).all(axis=1).astype(float)

    def matrix(keep: float) -> Floats:
        q = keep * np.eye(symbols)
        q[:, v] += 1 - keep
        return q

    for i in range(steps, 0, -1):
        step, so_far = matrix(alpha[i] / alpha[i - 1]), matrix(alpha[i - 1])  # Q_t and Q_bar_{t-1}
        joint = so_far[:v, :, None] * step[None]  # q(x_s, x_t | x_0): (V, S, S)
        total = joint.sum(axis=1, keepdims=True)
        posterior = np.divide(joint, total, out=np.zeros_like(joint), where=total > 0)  # (x_0, x_s, x_t)
        p = exact.token_probabilities(model, states, i / steps)  # (n, L, V)
        p = np.where((states == v)[..., None], p, np.eye(symbols)[states][..., :v])  # a visible token is x_0 itself
        per_position = np.einsum("nlv,vsnl->nls", p, posterior[:, :, states])  # (n, L, S)
        transition = np.array([[row[range(length), s].prod() for s in states] for row in per_position])
        law = law @ transition
    return law[(states < v).all(axis=1)]


@pytest.mark.parametrize("time", [False, True])
def test_C1_ancestral_sampling_has_the_law_of_the_chain(schedule_name: str, time: bool) -> None:
    """The law of `samplers.ancestral` is that of the chain defined by p_theta(x_s | x_t) and Bayes' rule.

    First the enumerated laws agree (total variation 0), then draws are compared with them by a G-test: two-sided, level
    0.2 % (the p-value is the rank of G among 2,000 simulations of it); seed fixed. Austin et al. 2021, eq. 4.
    """
    process, model, length, steps, draws = (
        MaskedDiffusion(2, schedule_name),
        random_model(2, 3, time=time),
        3,
        3,
        20_000,
    )
    law = exact.ancestral_law(process, model, length, steps)
    assert np.abs(law - chain_law_by_bayes(process, model, length, steps)).sum() / 2 < 1e-12

    rng = np.random.default_rng(3)
    start = np.full((draws, length), process.mask_id)
    *_, last = samplers.ancestral(model, start, process.mask_id, process.schedule, steps=steps, rng=rng)
    counts = np.bincount(exact.state_index(last.state, 2), minlength=2**length)

    def g(observed: Floats) -> Floats:
        ratio = np.divide(observed, draws * law, out=np.ones(observed.shape), where=observed > 0)
        return 2 * (observed * np.log(ratio)).sum(axis=-1)

    simulated = g(rng.multinomial(draws, law, size=2_000))
    rank = (simulated < g(counts)).mean()
    assert 0.001 < rank < 0.999
