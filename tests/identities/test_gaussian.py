"""Gaussian diffusion, G1 to G7: each test is one line of the chapter, proved in closed form or by quadrature."""

import itertools
import math

import numpy as np
import pytest

from tests.identities.conftest import random_vector_model
from tests.identities.oracles import ExactDenoiser
from tinydiff import GaussianDiffusion
from tinydiff.arrays import Floats
from tinydiff.data.toys import GaussianMixture
from tinydiff.processes.paths import join, split

T = 40
MIXTURE = GaussianMixture(np.array([0.2, 0.5, 0.3]), np.array([[-1.5], [0.3], [2.0]]), np.array([0.3, 0.7, 0.2]))


@pytest.fixture(params=["linear", "cosine"])
def process(request: pytest.FixtureRequest) -> GaussianDiffusion:
    return GaussianDiffusion(1, T, request.param)


def normal(x: Floats, mean: Floats | float, variance: float) -> Floats:
    return np.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)


def grid(mean: float, spread: float, points: int = 4001, width: float = 12.0) -> tuple[Floats, float]:
    """Points for the trapezoidal rule, which is exact to rounding for smooth functions that vanish at the ends."""
    x = mean + spread * np.linspace(-width, width, points)
    return x, 2 * width * spread / (points - 1)


def hermite(points: int) -> tuple[Floats, Floats]:
    """Nodes and weights of E[f(z)], z ~ N(0, 1): exact for polynomials of degree < 2 points."""
    z, w = np.polynomial.hermite_e.hermegauss(points)
    return z, w / w.sum()


def vectors(x: Floats) -> Floats:
    """Numbers as sequences of one vector of one feature: (n,) to (n, 1, 1)."""
    return np.asarray(x, np.float64).reshape(-1, 1, 1)


def test_G1_noising_steps_compose_to_the_jump(process: GaussianDiffusion) -> None:
    """x_k = sqrt(1 - beta_k) x_{k-1} + sqrt(beta_k) z gives q(x_k | x_0) = N(sqrt(alpha_bar_k) x_0, 1 - alpha_bar_k).

    Ho et al. 2020, eq. 4. Mean and variance carried through the steps one at a time, against those of `q_sample`, read
    off at noise 0 and +-1.
    """
    x0, mean, variance = 1.7, 1.7, 0.0
    for k in range(1, T + 1):
        beta = process.beta[k]
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        below, middle, above = process.q_sample(vectors([x0] * 3), np.full(3, k), vectors([-1, 0, 1])).ravel()
        np.testing.assert_allclose(middle, mean, rtol=1e-12)
        np.testing.assert_allclose(((above - below) / 2) ** 2, variance, rtol=1e-12)


@pytest.mark.parametrize(("j", "k"), [(0, 1), (1, 2), (19, 20), (T - 1, T), (5, 30), (0, T)])
def test_G2_posterior_is_bayes(process: GaussianDiffusion, j: int, k: int) -> None:
    """q(x_j | x_k, x_0) = q(x_k | x_j) q(x_j | x_0) / q(x_k | x_0), a Gaussian (Ho et al. 2020, eq. 6 and 7).

    The right side's mean and variance by the trapezoidal rule; also for jumps over several steps. At j = 0 it is x_0.
    """
    x0, xk = 0.8, -0.4
    mean, variance = (float(a.item()) for a in process.posterior(vectors([x0]), vectors([xk]), j, k))
    if j == 0:
        np.testing.assert_allclose([mean, variance], [x0, 0], atol=1e-14)
        return
    keep = np.prod(1 - process.beta[j + 1 : k + 1])
    xj, dx = grid(mean, math.sqrt(variance))
    bayes = normal(xk, math.sqrt(keep) * xj, 1 - keep)
    bayes = bayes * normal(xj, math.sqrt(process.alpha_bar[j]) * x0, 1 - process.alpha_bar[j])
    bayes /= bayes.sum() * dx
    np.testing.assert_allclose((xj * bayes).sum() * dx, mean, rtol=1e-9)
    np.testing.assert_allclose(((xj - mean) ** 2 * bayes).sum() * dx, variance, rtol=1e-9)


@pytest.mark.parametrize("k", [1, 10, 25, T])
@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_G3_score_is_minus_expected_noise(k: int, predict: str) -> None:
    """grad log p_k(x_k) = -E[eps | x_k] / sqrt(1 - alpha_bar_k) (Vincent 2011; Ho et al. 2020, section 3.2).

    For a mixture of three Gaussians: its analytic score, E[eps | x_k] by quadrature over x_0, and the process's score
    of the exact denoiser, whatever that predicts. The analytic score against differences of the log density, too.
    """
    process = GaussianDiffusion(1, T, "linear", predict)
    a, s = math.sqrt(process.alpha_bar[k]), math.sqrt(1 - process.alpha_bar[k])
    x = np.linspace(-3, 3, 13)
    analytic = MIXTURE.score(x[:, None], a, s)[:, 0]
    h = 1e-3
    coefficients = {1: 4 / 5, 2: -1 / 5, 3: 4 / 105, 4: -1 / 280}
    slope = sum(
        c * (MIXTURE.log_density(x[:, None] + i * h, a, s) - MIXTURE.log_density(x[:, None] - i * h, a, s)) / h
        for i, c in coefficients.items()
    )
    np.testing.assert_allclose(analytic, slope, rtol=1e-8, atol=1e-8)  # differences lose log10(1 / h) digits

    x0, dx = grid(0, 1.0, 48_001)
    prior = np.exp(MIXTURE.log_density(x0[:, None]))
    np.testing.assert_allclose(prior.sum() * dx, 1, rtol=1e-12)
    for at, expected in zip(x, analytic, strict=True):
        joint = prior * normal(at, a * x0, s**2)
        eps = (at - a * x0) / s
        np.testing.assert_allclose(-(joint @ eps) / joint.sum() / s, expected, rtol=1e-9, atol=1e-11)
    of_model = process.score(ExactDenoiser(process, MIXTURE), vectors(x), k)
    np.testing.assert_allclose(of_model.ravel(), analytic, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("k", [1, 2, 3, 20, T])
def test_G4_bound_terms_are_weighted_noise_errors(process: GaussianDiffusion, k: int) -> None:
    """L_{k-1} = beta_k^2 / (2 sigma_k^2 alpha_k (1 - alpha_bar_k)) |eps - eps_theta|^2 + constant, sigma_k^2 = beta_k.

    Ho et al. 2020, eq. 8 and 12. A random network; the whole term against the KL of q(x_{k-1} | x_k, x_0) and
    p_theta(x_{k-1} | x_k) by quadrature, and against -log p_theta(x_0 | x_1) for k = 1.
    """
    model, rng = random_vector_model(1, 1), np.random.default_rng(0)
    x0, noise = rng.normal(size=(5, 1, 1)), rng.normal(size=(5, 1, 1))
    terms = process.term(model, x0, k, noise)
    xk = process.q_sample(x0, np.full(5, k), noise)
    predicted = model(xk, np.full(5, k / T)).data
    beta, alpha_bar, before = process.beta[k], process.alpha_bar[k], process.alpha_bar[k - 1]
    weight = beta**2 / (2 * beta * (1 - beta) * (1 - alpha_bar))
    np.testing.assert_allclose(process.eps_weight[k], weight, rtol=1e-12)
    squares = weight * ((noise - predicted) ** 2).ravel()
    np.testing.assert_allclose(terms, squares + process.constant[k], rtol=1e-9)

    guessed = (xk - math.sqrt(1 - alpha_bar) * predicted) / math.sqrt(alpha_bar)
    of_x0, of_xk = math.sqrt(before) * beta / (1 - alpha_bar), math.sqrt(1 - beta) * (1 - before) / (1 - alpha_bar)
    variance = (1 - before) / (1 - alpha_bar) * beta
    for i in range(5):
        q, p = (float((of_x0 * x + of_xk * xk)[i].item()) for x in (x0, guessed))
        if k == 1:
            expected = -math.log(normal(x0[i].item(), p, beta))
        else:
            x, dx = grid(q, math.sqrt(variance))
            log_ratio = (x - p) ** 2 / (2 * beta) - (x - q) ** 2 / (2 * variance) + 0.5 * math.log(beta / variance)
            expected = (normal(x, q, variance) * log_ratio).sum() * dx
        np.testing.assert_allclose(terms[i], expected, rtol=1e-9)


def full_bound(process: GaussianDiffusion, model: object, x0: Floats) -> Floats:
    """E[L_T + sum of L_{k-1} + L_0] over the noise of every step: (n,) numbers to (n,) nats.

    Gauss-Hermite quadrature, exact because the exact denoiser of Gaussian data is affine and its error a quadratic.
    """
    z, w = hermite(3)
    data, noise = vectors(np.repeat(x0, len(z))), vectors(np.tile(z, len(x0)))
    total = process.prior_term(vectors(x0))
    for k in range(1, process.T + 1):
        total = total + process.term(model, data, k, noise).reshape(len(x0), len(z)) @ w
    return total


def model_law(process: GaussianDiffusion, model: object) -> tuple[float, float]:
    """Mean and variance of p_theta(x_0) for an affine model: the reverse chain carried from N(0, 1)."""
    mean, variance = 0.0, 1.0
    for k in range(process.T, 0, -1):
        guesses = process.guess(model, vectors([0.0, 1.0]), k)[0]
        at_0, at_1 = process.posterior(guesses, vectors([0.0, 1.0]), k - 1, k)[0].ravel()
        mean, variance = at_0 + (at_1 - at_0) * mean, (at_1 - at_0) ** 2 * variance + process.beta[k]
    return mean, variance


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_G5_bound_is_above_the_likelihood_and_tightens(schedule: str) -> None:
    """VLB(x_0) >= -log p_theta(x_0) for every x_0; E[VLB] >= E[-log p(x_0)], its gap falling to 0 as T grows.

    Data N(m, S^2) with the exact denoiser: p_theta is Gaussian, so both sides are known. Ho et al. 2020, eq. 5. What
    the schedule leaves of the data at its end, KL(q(x_T) || N(0, 1)), is part of the gap: of the linear schedule's, all
    that remains as T grows; the cosine schedule leaves nothing.
    """
    m, S = 0.7, 0.5
    z, w = hermite(3)
    x0 = m + S * z
    entropy = 0.5 * math.log(2 * math.pi * math.e * S**2)
    gaps, beyond_prior = [], []
    for steps in (25, 50, 100, 200, 400, 800):
        process = GaussianDiffusion(1, steps, schedule)
        model = ExactDenoiser(process, GaussianMixture(np.ones(1), np.array([[m]]), np.array([S])))
        bounds = full_bound(process, model, x0)
        mean, variance = model_law(process, model)
        nll = 0.5 * math.log(2 * math.pi * variance) + (x0 - mean) ** 2 / (2 * variance)
        assert (bounds >= nll - 1e-12).all()
        gaps.append(float(w @ bounds) - entropy)
        left = process.alpha_bar[-1]
        end = left * (S**2 - 1)  # q(x_T) has mean sqrt(left) m and variance 1 + end
        beyond_prior.append(gaps[-1] - 0.5 * (left * m**2 + end - math.log1p(end)))
    assert all(0 < after < 0.62 * before for before, after in itertools.pairwise(beyond_prior))  # first order in 1/T
    assert beyond_prior[-1] < 0.01
    if schedule == "cosine":
        assert gaps[-1] < 0.01
        assert gaps == sorted(gaps, reverse=True)


def test_G5_prior_term_is_the_kl_of_two_gaussians() -> None:
    """L_T = KL(q(x_T | x_0) || N(0, 1)), by quadrature, for a schedule that leaves as much as it may."""
    process = GaussianDiffusion(1, 3, [0.7, 0.8, 0.84])
    x0, left = 1.3, process.alpha_bar[-1]
    x, dx = grid(math.sqrt(left) * x0, math.sqrt(1 - left))
    q = normal(x, math.sqrt(left) * x0, 1 - left)
    log_ratio = (x**2 - (x - math.sqrt(left) * x0) ** 2 / (1 - left) - math.log(1 - left)) / 2
    np.testing.assert_allclose(process.prior_term(vectors([x0])), (q * log_ratio).sum() * dx, rtol=1e-9)


def test_G5_bound_estimates_the_full_sum(process: GaussianDiffusion) -> None:
    """Monte Carlo: `bound` draws one step and one noise; the mean of 40,000 is within 4.5 standard errors of the sum.

    Two-sided, seed fixed; the sum over all steps is `full_bound`.
    """
    model = ExactDenoiser(process, GaussianMixture(np.ones(1), np.array([[0.7]]), np.array([0.5])))
    estimates = process.bound(model, vectors(np.full(40_000, 1.1)), np.random.default_rng(0))
    error = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - full_bound(process, model, np.array([1.1]))[0]) < 4.5 * error
    assert error < 0.02


@pytest.mark.parametrize(("a", "s"), [(math.sqrt(0.9), math.sqrt(0.1)), (math.sqrt(0.2), math.sqrt(0.8)), (0.3, 0.7)])
def test_G6_predictions_convert_into_each_other(a: float, s: float) -> None:
    """eps, x_0, v = a eps - s x_0 and velocity = eps - x_0 each determine both x_0 and eps, given x_t = a x_0 + s eps.

    Salimans and Ho 2022, section 4; on diffusion's circle a^2 + s^2 = 1 and on flow matching's line a + s = 1. The two
    textbook inverses of v on the circle, x_0 = a x_t - s v and eps = s x_t + a v, and of the velocity on the line,
    x_0 = x_t - s u and eps = x_t + a u, are special cases.
    """
    rng = np.random.default_rng(0)
    x0, eps = rng.normal(size=(2, 6, 3, 2))
    xt = a * x0 + s * eps
    kinds = ("eps", "x0", "v", "velocity")
    outputs = {kind: join(x0, eps, a, s, kind) for kind in kinds}
    for one, other in itertools.product(kinds, repeat=2):
        there = join(*split(xt, outputs[one], a, s, one), a, s, other)
        np.testing.assert_allclose(there, outputs[other], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(
            join(*split(xt, there, a, s, other), a, s, one), outputs[one], rtol=1e-12, atol=1e-12
        )
    if math.isclose(a * a + s * s, 1):
        np.testing.assert_allclose(split(xt, outputs["v"], a, s, "v")[0], a * xt - s * outputs["v"], atol=1e-12)
        np.testing.assert_allclose(split(xt, outputs["v"], a, s, "v")[1], s * xt + a * outputs["v"], atol=1e-12)
    if math.isclose(a + s, 1):
        u = outputs["velocity"]
        np.testing.assert_allclose(split(xt, u, a, s, "velocity"), (xt - s * u, xt + a * u), atol=1e-12)


class Fixed:
    """Stands in for a random generator whose normal draws are all this number."""

    def __init__(self, z: float) -> None:
        self.z = z

    def standard_normal(self, shape: tuple[int, ...]) -> Floats:
        return np.full(shape, self.z)


@pytest.mark.parametrize(("j", "k"), [(0, 1), (1, 2), (19, 20), (5, 30)])
def test_G7_ddim_spans_ancestral_sampling_and_the_probability_flow(process: GaussianDiffusion, j: int, k: int) -> None:
    """eta = 1 draws from q(x_j | x_k, x_0); eta = 0 is one Euler step of the probability-flow ODE.

    Song, Meng and Ermon 2020, eq. 12 to 14. With y = x / sqrt(alpha_bar) and the noise-to-signal ratio
    r = sqrt(1 / alpha_bar - 1) the ODE is dy = eps dr, and the step is y_j = y_k + (r_j - r_k) eps, exactly.
    """
    x0, eps = vectors([0.8]), vectors([-0.3])
    xk = process.q_sample(x0, k, eps)
    mean, variance = process.posterior(x0, xk, j, k)
    low, middle, high = (process.step(x0, eps, j, k, 1.0, Fixed(z)).item() for z in (-1, 0, 1))
    np.testing.assert_allclose(middle, mean.item(), rtol=1e-12)
    np.testing.assert_allclose((high - low) / 2, math.sqrt(variance.item()), rtol=1e-12)

    y_k, y_j = (x / math.sqrt(process.alpha_bar[i]) for x, i in ((xk, k), (process.step(x0, eps, j, k, 0.0, None), j)))
    r_k, r_j = (math.sqrt(1 / process.alpha_bar[i] - 1) for i in (k, j))
    np.testing.assert_allclose(y_j, y_k + (r_j - r_k) * eps, rtol=1e-12)


def test_G7_deterministic_step_tends_to_the_probability_flow() -> None:
    """In the original time the ODE is dx/dt = -beta (x + score) / 2 (Song et al. 2021, eq. 13).

    Its Euler step and DDIM's agree up to second order in beta: halving every step quarters their difference.
    """
    differences = []
    for steps in (400, 800, 1600):
        process, x0, eps = GaussianDiffusion(1, steps, "linear"), vectors([0.8]), vectors([-0.3])
        k = steps // 2
        xk = process.q_sample(x0, k, eps)
        score = -eps / math.sqrt(1 - process.alpha_bar[k])
        euler = xk + process.beta[k] / 2 * (xk + score)  # backwards in time
        differences.append(abs((process.step(x0, eps, k - 1, k, 0.0, None) - euler).item()))
    assert all(0.2 < after / before < 0.3 for before, after in itertools.pairwise(differences))
