"""Masked diffusion, M1 to M11: each test is one line of the chapter, proved by enumeration in float64."""

import itertools
import math

import numpy as np
import pytest

import tinydiff as td
from tests.identities.conftest import random_law, random_model
from tinydiff import Bert, MaskedDiffusion, decoders, exact, schedules
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.processes.discrete import uniforms
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


def order_nll(process: MaskedDiffusion, model: Model, x0: Ints, order: tuple[int, ...]) -> float:
    """-log p of revealing the tokens of x0 one at a time in this order, by asking the model directly."""
    hidden, total = set(range(len(x0))), 0.0
    for i in order:
        xt = np.where([j in hidden for j in range(len(x0))], process.mask_id, x0)
        total -= math.log(exact.token_probabilities(model, xt[None], 0.5)[0, i, x0[i]])
        hidden.remove(i)
    return total


def test_M5_bound_is_the_mean_over_orders() -> None:
    """NELBO = mean over all L! orders of the autoregressive NLL in that order.

    Hoogeboom et al. 2022 (autoregressive diffusion); Ou et al. 2024, section 4.
    """
    process, model = MaskedDiffusion(V), random_model(V, L)
    for x0 in exact.all_sequences(V, L)[::19]:
        orders = [order_nll(process, model, x0, order) for order in itertools.permutations(range(L))]
        np.testing.assert_allclose(exact.nelbo(process, model, x0[None]), np.mean(orders), rtol=1e-9)


def test_M6_jensen_gap_of_the_orders() -> None:
    """-log p(x_0) = -log mean over orders of exp(-NLL in that order); NELBO - NLL is the Jensen gap, never negative.

    Zero exactly if the likelihood is the same in every order, as for the true conditionals of a law. The same
    likelihood by integrating Kolmogorov's equation for the continuous-time process.
    """
    process, model, sequences = MaskedDiffusion(V), random_model(V, L), exact.all_sequences(V, L)
    nll, nelbo = exact.any_order_nll(process, model, sequences), exact.nelbo(process, model, sequences)
    for i in range(3, len(sequences), 19):
        orders = [order_nll(process, model, sequences[i], order) for order in itertools.permutations(range(L))]
        np.testing.assert_allclose(nll[i], -np.log(np.mean(np.exp(-np.array(orders)))), rtol=1e-9)
    assert (nelbo - nll > 0).all()
    law = random_law(V**L)
    best = exact.BayesDenoiser(law, V, L)
    np.testing.assert_allclose(exact.any_order_nll(process, best, sequences), -np.log(law), rtol=1e-9)
    np.testing.assert_allclose(exact.nelbo(process, best, sequences), -np.log(law), rtol=1e-9)
    small = random_model(2, 2)
    np.testing.assert_allclose(
        exact.continuous_law(MaskedDiffusion(2), small, 2),
        np.exp(-exact.any_order_nll(MaskedDiffusion(2), small, exact.all_sequences(2, 2))),
        rtol=1e-9,
    )


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


def test_M8_counting_masks_has_the_same_mean_and_less_variance() -> None:
    """Exactly k masks, k uniform, weight L/k; or independent masks at a uniform time, weight 1/t: one mean.

    Means and variances of a single draw, by enumerating masks and integrating over t. Given a set of k masks both weigh
    its cross-entropy, but the time behind the second varies as well. LLaDA (Nie et al. 2025), appendix A.2. The second
    moment of the second is infinite: E[1/t^2 CE^2] ~ integral of 1/t^2 t dt. Hence from t = 0.001 on.
    """
    process, model = MaskedDiffusion(V), random_model(V, L)
    nll, masks = exact.masked_cross_entropy(process, model, X0[None], 0.5)
    k = masks.sum(axis=1)
    some = k > 0
    chance = np.array([1 / (L * math.comb(L, i)) if i else 0 for i in k])
    assert chance.sum() == pytest.approx(1)
    by_count = np.where(some, L / np.maximum(k, 1) * nll[0], 0)
    mean, square = chance @ by_count, chance @ by_count**2
    points, weights = np.polynomial.legendre.leggauss(40)
    low = 1e-3
    edges = np.geomspace(low, 1, 12)
    times = np.concatenate([a + (b - a) * (points + 1) / 2 for a, b in itertools.pairwise(edges)])
    measure = np.concatenate([(b - a) * weights / 2 for a, b in itertools.pairwise(edges)])
    q = np.array([exact.masks_probability(masks, 1 - t) for t in times])  # (times, 2^L)
    mean_by_time = measure @ (q @ nll[0] / times)
    square_by_time = measure @ (q @ nll[0] ** 2 / times**2)
    below = integral_over_rate(process, model, X0, 0, low)
    np.testing.assert_allclose(mean_by_time + below, mean, rtol=1e-9)
    np.testing.assert_allclose(mean, exact.nelbo(process, model, X0[None])[0], rtol=1e-9)
    assert square - mean**2 < 0.5 * (square_by_time - mean_by_time**2)
    # And `bound` draws them so: the spread of its independent draws.
    rng, batch = np.random.default_rng(0), np.tile(X0, (40_000, 1))
    estimates = process.bound(model, batch, rng, spread="independent")
    error = (estimates**2).std() / math.sqrt(len(estimates))
    assert abs((estimates**2).mean() - square) < 4.5 * error  # two-sided, level 7e-6, seed fixed


class Given:
    """Stands in for a random generator: every "draw" is the same number, and nothing is shuffled."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, size: int) -> Floats:
        return np.full(size, self.value)

    def permutation(self, x: Floats) -> Floats:
        return x


def test_M9_spread_out_times_keep_the_mean_and_lower_the_variance() -> None:
    """Stratified times lower the variance of the batch mean; antithetic ones do for a monotone integrand.

    The integrand is F(t) = w(t) E[CE at t], enumerated; the means and variances of the mean over a batch of four are
    integrals over the numbers that the generator gives. Kingma et al. 2021, appendix I.
    """
    process, model, batch = MaskedDiffusion(V, "polynomial"), random_model(V, L), 4

    def integrand(t: Floats) -> Floats:
        rates = 1 - process.schedule.alpha(t)
        pairs = zip(process.schedule.weight(t), rates, strict=True)
        return np.array([w * expected_cross_entropy(process, model, X0, rate) for w, rate in pairs])

    points, weights = (np.polynomial.legendre.leggauss(24)[0] + 1) / 2, np.polynomial.legendre.leggauss(24)[1] / 2
    mean = weights @ integrand(points)
    variance = weights @ (integrand(points) - mean) ** 2 / batch  # of the mean of independent ones
    # Stratified: each place has its own number, independent of the others.
    places = np.stack([uniforms(batch, Given(u), "stratified") for u in points])  # (points, batch)
    values = integrand(places.ravel()).reshape(places.shape)
    means = weights @ values
    np.testing.assert_allclose(means.mean(), mean, rtol=1e-9)
    stratified = (weights @ (values - means) ** 2).sum() / batch**2
    # Antithetic: one number for each of two independent pairs.
    pairs = np.stack([uniforms(batch, Given(u), "antithetic") for u in points])
    np.testing.assert_allclose(pairs[:, :2] + pairs[:, 2:], 1, rtol=1e-12)
    values = integrand(pairs.ravel()).reshape(pairs.shape)
    np.testing.assert_allclose(weights @ values.mean(axis=1), mean, rtol=1e-9)
    assert (np.diff(integrand(np.linspace(0.01, 1, 50))) > 0).all()  # monotone
    antithetic = weights @ ((values[:, 0] + values[:, 2]) / 2 - mean) ** 2 / 2
    assert stratified < 0.2 * variance
    assert antithetic < 0.5 * variance
    # Not monotone: pairs that mirror each other make it worse.
    bump = (points - 0.5) ** 2
    mirrored = ((1 - points) - 0.5) ** 2
    spread = weights @ ((bump + mirrored) / 2 - weights @ bump) ** 2
    assert spread > 1.9 * (weights @ (bump - weights @ bump) ** 2) / 2


def test_M9_every_spread_is_unbiased() -> None:
    """Each place of the batch sees a uniform number: Kolmogorov-Smirnov, two-sided, level 1e-6, seed fixed."""
    rng, repeats = np.random.default_rng(0), 4_000
    for spread in ("stratified", "antithetic", "independent"):
        u = np.sort([uniforms(3, rng, spread) for _ in range(repeats)], axis=0)
        assert u.min() >= 0
        assert u.max() < 1
        distance = np.abs(u - (np.arange(repeats)[:, None] + 0.5) / repeats).max()
        assert distance < 2.7 / math.sqrt(repeats)


def test_M10_bert_is_one_slice_of_the_integral() -> None:
    """Masked cross-entropy at a fixed rate u is the integrand at u; over all rates it adds up to the NELBO.

    The expectation of `Bert.loss` over all masks, counted: uniform numbers at every point of a grid.
    """
    cells, length = 8, 3
    model, x0 = random_model(V, L), np.broadcast_to(X0[:length], (cells**length, length))
    masked = MaskedDiffusion(V)

    def slice_at(rate: float) -> float:
        return expected_cross_entropy(masked, model, X0[:length], rate) / (rate * length)

    for eighths in (1, 4, 8):
        found = Bert(V, eighths / cells).loss(model, x0, EveryUniform(cells)).item()
        np.testing.assert_allclose(found, slice_at(eighths / cells), rtol=1e-9)
    points, weights = np.polynomial.legendre.leggauss(8)
    integral = sum(w / 2 * slice_at((u + 1) / 2) for u, w in zip(points, weights, strict=True))
    np.testing.assert_allclose(integral * length, exact.nelbo(masked, model, X0[None, :length])[0], rtol=1e-9)


def refill_kernel(process: Bert, model: Model, length: int) -> Floats:
    """One round of masking and filling as a matrix over all V^L sequences."""
    states = exact.all_sequences(V, length)
    kernel = np.zeros((len(states), len(states)))
    for hidden in exact.all_masks(length):
        chance = process.rate ** hidden.sum() * (1 - process.rate) ** (~hidden).sum()
        kernel += chance * exact.product_law(process.refill(model, np.where(hidden, V, states)))
    return kernel


def test_M10_masking_and_filling_does_not_generate_the_law() -> None:
    """With the true conditionals, repeated masking and filling settles on another law than the data's.

    Filling several positions at once from their separate laws loses what ties them together. The data: two tokens that
    always agree. The fixed point by enumeration: the stationary law of a round keeps a share of pairs that disagree,
    unless only one token is masked at a time, which is Gibbs sampling and leaves the law as it is.
    """
    length, states = 2, exact.all_sequences(V, 2)
    agree = states[:, 0] == states[:, 1]
    law = np.where(agree, 0.98 / V, 0.02 / (V * (V - 1)))
    model = exact.BayesDenoiser(law, V, length)
    process = Bert(V, 0.5)
    kernel = refill_kernel(process, model, length)
    np.testing.assert_allclose(kernel.sum(axis=1), 1, rtol=1e-12)
    stationary = np.linalg.matrix_power(kernel, 2000)[0]
    np.testing.assert_allclose(stationary @ kernel, stationary, rtol=1e-9)
    assert np.abs(stationary - law).sum() / 2 > 0.1
    gibbs = np.mean(
        [exact.product_law(process.refill(model, np.where(np.arange(2) == i, V, states))) for i in range(2)], axis=0
    )
    np.testing.assert_allclose(law @ gibbs, law, rtol=1e-9)
    # The draws of `decoders.Refill` do as the matrix says: 4.5 standard errors, two-sided, seed fixed.
    draws, rounds = 20_000, 6
    start = exact.product_law(process.refill(model, np.full((1, length), V)))[0]
    expected = start @ np.linalg.matrix_power(kernel, rounds - 1)
    *_, last = process.sample(model, length, draws, decoder=decoders.Refill(rounds), rng=np.random.default_rng(0))
    found = np.bincount(exact.state_index(last.state, V), minlength=V**2) / draws
    assert (np.abs(found - expected) <= 4.5 * np.sqrt(expected * (1 - expected) / draws)).all()


class Meddler:
    """A model whose answers at visible positions are overwritten with anything."""

    def __init__(self, model: td.Transformer) -> None:
        self.model = model

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> td.Tensor:
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

    for decoder in (decoders.LowConfidence(3), decoders.Random(3), decoders.Ancestral(3)):
        honest = list(process.sample(model, L, 50, decoder=decoder, rng=rng()))
        meddled = list(process.sample(meddler, L, 50, decoder=decoder, rng=rng()))
        for before, frame, other in zip(honest, honest[1:], meddled[1:], strict=False):
            visible = before.state != process.mask_id
            assert (frame.state[visible] == before.state[visible]).all()  # carried over
            assert (frame.state == other.state).all()
        assert (honest[-1].state < V).all()


def test_M3_schedules_that_end_above_zero_jump_to_pure_mask() -> None:
    """What survives until t = 1 is masked there at once; coming back it is revealed in one look: check_elbo holds.

    Likelihood and bound by sets of masks equal Kolmogorov's equation with a step at its start, and `bound` by drawn
    times is unbiased, jump included: 20,000 draws, two-sided at 4.5 standard errors (the jump is a third of it).
    """
    half = schedules.Schedule("half", lambda t: 1 - t / 2, lambda t: np.full_like(t, -0.5), lambda a: 2 - 2 * a)
    process, model = MaskedDiffusion(V), random_model(V, L)
    process.schedule = half
    check = exact.check_elbo(process, model, L)
    np.testing.assert_allclose(np.exp(-check.nll), exact.continuous_law(process, model, L), rtol=1e-9)
    np.testing.assert_allclose(check.bound, exact.continuous_nelbo(process, model, check.sequences), rtol=1e-9)
    n = 20_000
    drawn = process.bound(model, np.tile(X0, (n, 1)), np.random.default_rng(3), estimator="time")
    nelbo = exact.nelbo(process, model, X0[None])[0]
    assert abs(drawn.mean() - nelbo) < 4.5 * drawn.std() / np.sqrt(n)
