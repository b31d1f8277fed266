"""Flow matching, G8 and G9: each test is one line of the chapter, proved in closed form or by enumeration."""

import itertools
import math

import numpy as np
import pytest

from tests.identities.conftest import random_vector_model
from tests.identities.oracles import GaussianFlow
from tinydiff import FlowMatching, Tensor, Transformer
from tinydiff.arrays import Floats
from tinydiff.data.toys import GaussianMixture
from tinydiff.decoders import ODE

MEAN, COVARIANCE = np.array([0.6, -0.4]), np.array([[0.9, 0.3], [0.3, 0.7]])


class EveryPair:
    """Stands in for a random generator: every example has time `t`, and the noise is what it is told."""

    def __init__(self, noise: Floats, t: float) -> None:
        self.noise, self.t = noise, t

    def random(self) -> Floats:
        return self.t * len(self.noise) - np.arange(len(self.noise))  # undoes the stratification

    def standard_normal(self, shape: tuple[int, ...]) -> Floats:
        assert self.noise.shape == shape
        return self.noise


def gradients(model: Transformer, loss: Tensor) -> dict[str, Floats]:
    for p in model.params.values():
        p.grad = None
    loss.backward()
    return {name: p.grad for name, p in model.params.items()}


def assert_same(one: dict[str, Floats], other: dict[str, Floats]) -> None:
    largest = max(np.abs(g).max() for g in other.values())
    assert largest > 1e-3
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-9, atol=1e-10 * largest, err_msg=name)


def test_G8_conditional_and_marginal_loss_have_the_same_gradient_by_enumeration() -> None:
    """grad E|u_theta(x_t) - (eps - x_0)|^2 = grad E|u_theta(x_t) - u(x_t)|^2, u(x) = E[eps - x_0 | x_t = x].

    Lipman et al. 2023, theorem 2. It holds for every law of data and noise: here -1, 0, 1 and 0, 1, 3, all pairs, so
    that at t = 1/2 several pairs meet in one x_t and `loss` is the exact conditional loss.
    """
    process, model, t = FlowMatching(1), random_vector_model(1, 1), 0.5
    x0, noise = (
        np.array(x, float).reshape(-1, 1, 1) for x in zip(*itertools.product((-1, 0, 1), (0, 1, 3)), strict=True)
    )
    conditional = process.loss(model, x0, EveryPair(noise, t))
    xt = (1 - t) * x0 + t * noise
    places, place = np.unique(xt, return_inverse=True)
    assert 1 < len(places) < len(xt)  # some meet
    u = np.array([(noise - x0).ravel()[place.ravel() == i].mean() for i in range(len(places))])
    target = u[place.ravel()].reshape(-1, 1, 1)
    error = model(xt, np.full(len(xt), t)) - target
    marginal = (error * error).mean()
    assert conditional.item() > marginal.item() + 0.1  # they differ by a constant, the variance of the slopes
    assert_same(gradients(model, conditional), gradients(model, marginal))


@pytest.mark.parametrize("t", [0.3, 0.7])
def test_G8_holds_for_gaussian_noise_by_quadrature(t: float) -> None:
    """The same with eps ~ N(0, 1) and a mixture of two Gaussians as data, for u_theta = c tanh(a x + b).

    The conditional gradient by the trapezoidal rule over x_0 and eps, the marginal one over x_t, with u from the
    mixture's analytic score: u = E[eps - x_0 | x_t] = -(x + t score) / (1 - t).
    """
    law = GaussianMixture(np.array([0.4, 0.6]), np.array([[-0.5], [0.8]]), np.array([0.4, 0.5]))

    def gradient(x: Floats, target: Floats, weight: Floats) -> list[Floats]:
        a, b, c = theta = [Tensor(np.array(value), requires_grad=True) for value in (1.3, -0.2, 0.7)]
        error = (a * Tensor(x) + b).tanh() * c - target
        (error * error * weight).sum().backward()
        return [parameter.grad for parameter in theta]

    x0, dx0 = np.linspace(-6, 6, 481, retstep=True)
    eps, deps = np.linspace(-9, 9, 481, retstep=True)
    weight = np.outer(np.exp(law.log_density(x0[:, None])) * dx0, np.exp(-(eps**2) / 2) / math.sqrt(2 * math.pi) * deps)
    conditional = gradient((1 - t) * x0[:, None] + t * eps, eps - x0[:, None], weight)
    x, dx = np.linspace(-9, 9, 961, retstep=True)
    density = np.exp(law.log_density(x[:, None], 1 - t, t))
    u = -(x + t * law.score(x[:, None], 1 - t, t)[:, 0]) / (1 - t)
    np.testing.assert_allclose(conditional, gradient(x, u, density * dx), rtol=1e-9)


def test_G9_flow_carries_noise_to_the_data_law() -> None:
    """dx/dt = u(x, t) from N(0, 1) at t = 1 arrives at N(m, C) at t = 0 (Lipman et al. 2023, theorem 1).

    The exact u of Gaussian data is affine, and so is the flow: x -> m + A x with A A^T = C, read off from the images of
    the origin and the unit vectors.
    """
    process, model = FlowMatching(1), GaussianFlow(MEAN, COVARIANCE)
    start = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, :, None]

    class Start:
        def standard_normal(self, shape: tuple[int, ...]) -> Floats:
            return start

    *_, last = process.sample(model, 2, 3, decoder=ODE(400, "rk4"), rng=Start())
    origin, first, second = last.state[:, :, 0]
    A = np.stack([first - origin, second - origin], axis=1)
    np.testing.assert_allclose(origin, MEAN, rtol=1e-9)
    np.testing.assert_allclose(A @ A.T, COVARIANCE, rtol=1e-9)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2), ("rk4", 4)])
def test_G9_solvers_have_their_order(solver: str, order: int) -> None:
    """Halving the step divides the error by 2^order, within a tenth of the exponent (Hairer et al. 1993, II.1)."""
    process, model, z = FlowMatching(1), GaussianFlow(MEAN, COVARIANCE), np.random.default_rng(0).normal(size=(4, 2, 1))

    class Start:
        def standard_normal(self, shape: tuple[int, ...]) -> Floats:
            return z

    def end(steps: int, solver: str = solver) -> Floats:
        *_, last = process.sample(model, 2, 4, decoder=ODE(steps, solver), rng=Start())
        return last.state

    exact = end(800, "rk4")
    errors = [np.abs(end(steps) - exact).max() for steps in (40, 80, 160)]
    measured = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert measured == pytest.approx([order, order], abs=0.1 * order)


def test_G9_likelihood_by_divergence_equals_the_closed_form() -> None:
    """-log p(x_0) = -log N(x_1; 0, 1) - integral of div u (Chen et al. 2018, eq. 8), against -log N(x_0; m, C)."""
    process, model = FlowMatching(1), GaussianFlow(MEAN, COVARIANCE)
    x0 = np.random.default_rng(0).normal(size=(6, 2, 1))
    away = x0[:, :, 0] - MEAN
    closed = 0.5 * (away @ np.linalg.inv(COVARIANCE) * away).sum(axis=1)
    closed += 0.5 * math.log((2 * math.pi) ** 2 * np.linalg.det(COVARIANCE))
    np.testing.assert_allclose(process.nll(model, x0, steps=400), closed, rtol=1e-9)
    np.testing.assert_allclose(process.bound(model, x0, np.random.default_rng(0)), closed, rtol=1e-3)  # 10 steps


def test_G9_divergence_is_the_trace_of_the_jacobian() -> None:
    """d/dt of the integral in `nll` is the trace of du/dx, for a random transformer, by central differences.

    One Euler step of `nll` from x_0 is -log N(x_0 + h u) - h div u, so two of them isolate the divergence.
    """
    process, model = FlowMatching(2), random_vector_model(3, 2)
    x0 = np.random.default_rng(0).normal(size=(2, 3, 2))
    u = model(x0, np.zeros(2)).data
    noise = x0 + u
    gaussian = 0.5 * (noise**2).sum(axis=(1, 2)) + 3 * math.log(2 * math.pi)
    divergence = gaussian - process.nll(model, x0, steps=1, solver="euler")
    h, trace = 1e-5, np.zeros(2)
    for at in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[at] = h
        difference = model(x0 + step, np.zeros(2)).data - model(x0 - step, np.zeros(2)).data
        trace += difference[:, at[0], at[1]] / (2 * h)
    np.testing.assert_allclose(divergence, trace, rtol=1e-7)  # central differences have no more digits


def test_G9_hutchinson_is_unbiased() -> None:
    """E[z^T J z] = tr J for random signs z (Hutchinson 1990): exactly, as the mean over all 2^D sign vectors.

    A random transformer, so that J is not symmetric and the single estimates differ.
    """
    process, model = FlowMatching(1), random_vector_model(3, 1)
    x0 = np.random.default_rng(0).normal(size=(1, 3, 1))
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))[:, :, None]

    class EverySign:
        def choice(self, values: list[float], shape: tuple[int, ...]) -> Floats:
            assert shape == signs.shape
            return signs

    estimates = process.nll(model, np.repeat(x0, 8, axis=0), steps=2, rng=EverySign(), solver="euler")
    np.testing.assert_allclose(estimates.mean(), process.nll(model, x0, steps=2, solver="euler")[0], rtol=1e-12)
    assert np.ptp(estimates) > 1e-3
