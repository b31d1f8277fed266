"""D3PM, D1 to D8: discrete noise with any matrix, proved by enumeration in float64."""

import itertools
import math

import numpy as np
import pytest

import tinydiff as td
from tests.identities.conftest import random_law, random_model
from tinydiff import D3PM, MaskedDiffusion, decoders, exact, ops, schedules
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.processes import transitions
from tinydiff.processes.discrete import DiscreteDiffusion
from tinydiff.processes.transitions import Absorbing, Nearest, Transition, Uniform
from tinydiff.transformer import Model

V, L = 3, 3
MATRICES = ["uniform", "absorbing", "nearest"]
EMBEDDINGS = np.array([[0.0], [1.0], [3.0]])  # on a line: 0 - 1 - 2 with one neighbour each

every_matrix = pytest.mark.parametrize("matrix", MATRICES)


def d3pm(matrix: str, steps: int, schedule: str = "linear", vocab_size: int = V, **options) -> D3PM:
    if matrix == "nearest":
        options |= {"embeddings": EMBEDDINGS[:vocab_size], "neighbours": 1}
    return D3PM(vocab_size, matrix, steps=steps, schedule=schedule, **options)


def exponential(generator: Floats, amount: float) -> Floats:
    """exp(amount * generator) by its power series, halved until it converges fast and squared back."""
    halvings = 20
    small, term = np.eye(len(generator)), np.eye(len(generator))
    for n in range(1, 12):
        term = term @ generator * (amount / 2**halvings / n)
        small = small + term
    for _ in range(halvings):
        small = small @ small
    return small


def possible_pairs(noise: Transition, total: Floats) -> list[tuple[int, int]]:
    """Every (x_0, x_t) that can occur together."""
    return [(a, b) for a in range(noise.vocab_size) for b in range(noise.symbols) if total[a, b] > 0]


@every_matrix
def test_D1_steps_multiply_to_the_closed_form(matrix: str, schedule_name: str) -> None:
    """Q_1 Q_2 ... Q_t = Q_bar_t and every row sums to one.

    Q_bar = alpha I + (1 - alpha) 1 1^T / V for uniform noise, alpha I + (1 - alpha) 1 e_MASK^T for absorbing noise, and
    the exponential of the generator for nearest-neighbour noise. Austin et al. 2021, appendix A.2.
    """
    process = d3pm(matrix, 7, schedule_name)
    symbols, so_far = process.symbols, np.eye(process.symbols)
    for i in range(1, 8):
        step = process.forward((i - 1) / 7, i / 7)
        np.testing.assert_allclose(step.sum(axis=1), 1, rtol=1e-12)
        assert (step >= 0).all()
        so_far = so_far @ step
        np.testing.assert_allclose(so_far, process.forward(0.0, i / 7), rtol=1e-9, atol=1e-12)
        alpha = float(process.alpha(i / 7))
        if matrix == "uniform":
            closed = alpha * np.eye(V) + (1 - alpha) / V
        elif matrix == "absorbing":
            closed = alpha * np.eye(symbols)
            closed[:, V] += 1 - alpha
        else:
            closed = exponential(process.noise.generator, min(float(process.level(i / 7)), 1e3))
        np.testing.assert_allclose(so_far, closed, rtol=1e-9, atol=1e-12)


@every_matrix
def test_D2_stationary_laws(matrix: str) -> None:
    """pi Q = pi and every row of Q(infinity) is pi: uniform, all MASK, uniform (the generator is symmetric)."""
    process = d3pm(matrix, 5)
    pi = np.eye(process.symbols)[V] if matrix == "absorbing" else np.full(V, 1 / V)
    np.testing.assert_allclose(pi @ process.noise.generator, 0, atol=1e-14)
    np.testing.assert_allclose(pi @ process.forward(0.2, 0.8), pi, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(process.forward(0.0, 1.0), np.tile(pi, (process.symbols, 1)), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(process.prior, pi, rtol=1e-12, atol=1e-15)
    if matrix == "nearest":
        np.testing.assert_array_equal(process.noise.generator, process.noise.generator.T)


@every_matrix
def test_D3_posterior_is_bayes(matrix: str, schedule_name: str) -> None:
    """q(x_{t-1} | x_t, x_0) = q(x_t | x_{t-1}) q(x_{t-1} | x_0) / q(x_t | x_0), by enumerating chains x_1 ... x_t.

    Every (x_t, x_0), every t; the joint law of the chain comes from the matrices of single steps only. The reverse law
    p_theta mixes those posteriors by p(x_0) q(x_t | x_0). Austin et al. 2021, eq. 3 and 4.
    """
    steps = 4
    process = d3pm(matrix, steps, schedule_name)
    noise, symbols = process.noise, process.symbols
    single = [process.forward((i - 1) / steps, i / steps) for i in range(1, steps + 1)]
    p = np.random.default_rng(0).dirichlet(np.ones(V))
    for t in range(1, steps + 1):
        chains = exact.all_sequences(symbols, t)  # x_1 ... x_t
        before, now = process.level((t - 1) / steps), process.level(t / steps)
        posteriors, total = np.zeros((V, symbols, symbols)), np.zeros((V, symbols))
        for x0 in range(V):
            path = np.concatenate([np.full((len(chains), 1), x0), chains], axis=1)
            q = np.prod([single[i][path[:, i], path[:, i + 1]] for i in range(t)], axis=0)
            np.add.at(posteriors[x0], (path[:, t], path[:, t - 1]), q)
            np.add.at(total[x0], path[:, t], q)
        for x0, xt in possible_pairs(noise, total):
            found = transitions.posterior(noise, np.array([x0]), np.array([xt]), before, now)[0]
            # Sums over eigenvectors are right to 1e-16 absolutely: that much over the chance of a rare pair.
            rounding = 1e-15 / total[x0, xt] if matrix == "nearest" else 0
            np.testing.assert_allclose(
                found, posteriors[x0, xt] / total[x0, xt], rtol=1e-9 + rounding, atol=1e-12 + rounding
            )
        for xt in range(symbols):
            mixture = p @ posteriors[:, xt]  # sum of p(x_0) q(x_t | x_0) q(x_{t-1} | x_t, x_0)
            if mixture.sum() > 0:
                found = transitions.reverse(
                    noise, td.Tensor(p[None, None]), np.array([[xt]]), before[None], now[None]
                ).data[0, 0]
                np.testing.assert_allclose(found, mixture / mixture.sum(), rtol=1e-9, atol=1e-12)


@every_matrix
@pytest.mark.parametrize("schedule", ["linear", "loglinear"])
def test_D4_bound_is_above_every_likelihood(matrix: str, schedule: str) -> None:
    """L_T + sum_t L_{t-1} + L_0 >= -log p_theta(x_0) for every x_0, and the p_theta(x_0) sum to one.

    p_theta by pushing the law of x_t through the reverse chain over all S^L states. The loglinear schedule stops short
    of the stationary law, so that L_T > 0 for uniform and nearest-neighbour noise. Austin et al. 2021, eq. 1.
    """
    process, model = d3pm(matrix, 4, schedule), random_model(V, L, time=True)
    check = exact.check_elbo(process, model, L)  # raises if the bound is broken
    np.testing.assert_allclose(np.exp(-check.nll).sum(), 1, rtol=1e-12)
    assert check.gap.min() > 0
    prior_term = process.prior_term(check.sequences)
    assert (prior_term > 1e-9).all() if (schedule == "loglinear" and matrix != "absorbing") else (prior_term == 0).all()


@every_matrix
def test_D4_estimates_of_the_bound_have_its_mean(matrix: str, schedule_name: str) -> None:
    """Loss and bound average to the enumerated VLB over t and x_t. Monte Carlo.

    Two-sided at 4.5 standard errors (level 7e-6 each), seed fixed. The loss leaves L_T out, and weighs the auxiliary
    cross-entropy -log p_theta(x_0 | x_t) by `hybrid`, which here is 0 and then 1.
    """
    steps, x0, copies, repeats = 3, np.array([[2, 0, 1]]), 500, 20
    process, model = d3pm(matrix, steps, schedule_name, hybrid=0.0), random_model(V, L, time=True)
    batch, rng = np.tile(x0, (copies, 1)), np.random.default_rng(0)
    vlb = exact.chain_nelbo(process, model, x0, steps)[0]
    estimates = np.concatenate([process.bound(model, batch, rng) for _ in range(repeats)])
    error = estimates.std() / math.sqrt(len(estimates))
    assert abs(estimates.mean() - vlb) < 4.5 * error
    losses = np.array([process.loss(model, batch, rng).item() * L for _ in range(repeats)])
    # The error of the loss is that of the bound's estimates, which are as many and have the same spread or less.
    expected = vlb - process.prior_term(x0)[0]
    assert abs(losses.mean() - expected) < 4.5 * max(losses.std() / math.sqrt(repeats), error)
    auxiliary = sum(clean_cross_entropy(process, model, x0[0], i / steps) for i in range(1, steps + 1)) / steps
    both = d3pm(matrix, steps, schedule_name, hybrid=1.0)
    hybrids = np.array([both.loss(model, batch, rng).item() * L for _ in range(repeats)])
    assert abs(hybrids.mean() - expected - auxiliary) < 4.5 * max(hybrids.std() / math.sqrt(repeats), error)


@every_matrix
def test_D4_prior_term_counts(matrix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """L_T is part of the estimate: noise that stops half way, alpha(1) = 1/2, leaves a large one.

    Two-sided at 4.5 standard errors, seed fixed. Masks jump to alpha = 0 at t = 1 whatever the schedule: L_T = 0.
    """
    half = schedules.Schedule("half", lambda t: 1 - t / 2, lambda t: np.full_like(t, -0.5), lambda a: 2 - 2 * a)
    monkeypatch.setitem(schedules.SCHEDULES, "half", lambda: half)
    process, model = d3pm(matrix, 3, "half"), random_model(V, L, time=True)
    x0 = np.array([[2, 0, 1]])
    q = process.forward(0.0, 1.0)[x0[0]]
    prior_term = sum(float((row[row > 0] * np.log(row[row > 0] * V)).sum()) for row in q)
    if matrix == "absorbing":
        prior_term = 0.0
    np.testing.assert_allclose(process.prior_term(x0), prior_term, rtol=1e-9)
    assert matrix == "absorbing" or prior_term > 0.2 * L
    assert exact.check_elbo(process, model, L).gap.min() > 0
    estimates = process.bound(model, np.tile(x0, (10_000, 1)), np.random.default_rng(0))
    wanted = exact.chain_nelbo(process, model, x0, 3)[0]
    assert abs(estimates.mean() - wanted) < 4.5 * estimates.std() / math.sqrt(len(estimates))


def clean_cross_entropy(process: D3PM, model: Model, x0: Ints, t: float) -> float:
    """E[-log p_theta(x_0 | x_t)] by enumeration, in nats per sequence."""
    states = exact.all_sequences(process.symbols, len(x0))
    q = process.forward(0.0, t)[x0, states].prod(axis=1)
    p = process.reverse(model, states, t, 0.0)[:, range(len(x0)), x0]
    return float(-(q[q > 0] * np.log(p[q > 0]).sum(axis=1)).sum())


@every_matrix
@pytest.mark.parametrize("steps", [1, 2])
def test_D5_gap_is_the_divergence_of_the_paths(matrix: str, steps: int) -> None:
    """VLB(x_0) + log p_theta(x_0) = KL(q(x_{1:T} | x_0) || p_theta(x_{1:T} | x_0)), by enumerating every path."""
    process, model = d3pm(matrix, steps, "loglinear", vocab_size=2), random_model(2, 2, time=True)
    for x0 in exact.all_sequences(2, 2):
        vlb = exact.chain_nelbo(process, model, x0[None], steps)[0]
        gap, nll = exact.path_gap(process, model, x0, steps)
        np.testing.assert_allclose(vlb - nll, gap, rtol=1e-9, atol=1e-12)


def test_D6_absorbing_bound_is_weighted_cross_entropy(schedule_name: str) -> None:
    """VLB = sum_t (alpha_{t-1} - alpha_t)/(1 - alpha_t) E[sum of -log p_theta(x_0 | x_t) over masked positions].

    The left side by Bayes' rule from the matrices, the right side by the formula; a masked chain of as many steps is
    the same process. Austin et al. 2021, appendix A.3; Sahoo et al. 2024, eq. 8.
    """
    process, model = d3pm("absorbing", 5, schedule_name), random_model(V, L, time=True)
    masked, sequences = MaskedDiffusion(V, schedule_name), exact.all_sequences(V, L)
    by_bayes = exact.chain_nelbo(process, model, sequences, 5)
    np.testing.assert_allclose(by_bayes, exact.discrete_nelbo(masked, model, sequences, 5), rtol=1e-9)
    np.testing.assert_allclose(by_bayes, exact.chain_nelbo(masked, model, sequences, 5), rtol=1e-9)


@every_matrix
def test_D7_bound_falls_to_the_entropy_with_the_best_denoiser(matrix: str) -> None:
    """E_{x_0} VLB -> H(data) as T grows, at the rate 1/T, with the true p(x_0^i | x_t) as denoiser.

    In the limit one position changes at a time, so that knowing each position's law is knowing the joint law. The
    error at T = 2^4 ... 2^8 is nearly a power series in 1/T, and Richardson extrapolation leaves the entropy. Terms in
    log(T)/T^2, which come from t log t, limit it to 3e-5 for uniform noise.
    """
    length, law = 2, random_law(V**2)
    entropy = -(law * np.log(law)).sum()
    bounds = []
    for steps in (16, 32, 64, 128, 256):
        process = d3pm(matrix, steps)
        model = exact.BayesDenoiser(law, V, length, process)
        bounds.append(law @ exact.chain_nelbo(process, model, exact.all_sequences(V, length), steps))
    excess = np.array(bounds) - entropy
    assert (excess > 0).all()
    assert (np.diff(excess) < 0).all()
    assert excess[-1] < 0.03
    if matrix != "nearest":
        table = bounds
        for order in range(1, 5):
            table = [(2**order * b - a) / (2**order - 1) for a, b in itertools.pairwise(table)]
        np.testing.assert_allclose(table[0], entropy, rtol=3e-5 if matrix == "uniform" else 1e-6)


def test_D8_nearest_noise_moves_to_neighbours_first() -> None:
    """q(neighbour | x) > q(stranger | x) at every finite level, equal at infinity; survival is that of uniform noise.

    Eight tokens in two distant groups joined at one place. "Equal noise": the mean probability of being oneself is
    alpha + (1 - alpha)/V for both kinds of noise. Austin et al. 2021, appendix A.2.4.
    """
    embeddings = np.concatenate([np.arange(4.0), np.arange(4.0) + 4.5])[:, None]
    noise, uniform = Nearest(embeddings, 2), Uniform(8)
    place = embeddings[:, 0]
    nearest = [sorted(set(range(8)) - {i}, key=lambda j, i=i: (abs(place[i] - place[j]), j))[:2] for i in range(8)]
    near = np.array([[j in nearest[i] or i in nearest[j] for j in range(8)] for i in range(8)])
    far = ~near & ~np.eye(8, dtype=bool)
    for alpha in (0.99, 0.9, 0.5, 0.1):
        q = transitions.matrix(noise, float(noise.level(alpha)))
        np.testing.assert_allclose(np.trace(q), np.trace(transitions.matrix(uniform, float(uniform.level(alpha)))))
        assert all(q[i, near[i]].mean() > q[i, far[i]].mean() for i in range(8))
    # A little noise: neighbours in proportion to their links, twice as strong where both are near each other.
    slow = transitions.matrix(noise, float(noise.level(1 - 1e-7)))
    chosen = np.array([[j in nearest[i] for j in range(8)] for i in range(8)], float)
    links = (chosen + chosen.T) / (2 * chosen.sum())
    assert set(np.unique(links * 32).round(12)) == {0, 1, 2}
    off = np.where(near, slow, 0)
    np.testing.assert_allclose(off / off.sum(), links, rtol=1e-5, atol=1e-9)  # first order in the level: 1e-7
    np.testing.assert_allclose(transitions.matrix(noise, np.inf), 1 / 8, rtol=1e-12)


# --- traps ------------------------------------------------------------------------------------------------------------


class Certain:
    """A model that is sure of token 0 everywhere, beyond what float32 can express as a probability."""

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> td.Tensor:
        logits = np.zeros((*x.shape, V), np.float32)
        logits[..., 0] = 500
        return td.Tensor(logits if select is None else logits[select], requires_grad=True)


@every_matrix
def test_zero_log_zero_and_certainty_stay_finite(matrix: str, schedule_name: str) -> None:
    """At t = 1/T the posterior is certain and at t = 1 alpha is 0: 0 log 0, 0/0 and log 0 must not reach the loss."""
    for steps in (1, 2, 1000):
        process = d3pm(matrix, steps, schedule_name)
        for token in range(V):
            loss = process.loss(Certain(), np.full((64, L), token), np.random.default_rng(0))
            loss.backward()
            assert np.isfinite(loss.item())
        assert np.isfinite(
            process.bound(random_model(V, L, time=True), np.zeros((64, L), int), np.random.default_rng(0))
        ).all()


@every_matrix
def test_one_step_per_sequence(matrix: str) -> None:
    """One t for the whole batch would multiply the variance: the steps of a batch cover 1 .. T evenly."""
    seen = []

    class Recorder:
        def __call__(self, x, t=None, *, causal=False, select=None):
            seen.append(np.asarray(t))
            return random_model(V, L)(x, t, select=select)

    d3pm(matrix, 16).loss(Recorder(), np.zeros((16, L), int), np.random.default_rng(0))
    np.testing.assert_allclose(np.sort(seen[0]), np.arange(1, 17) / 16)


@every_matrix
@pytest.mark.parametrize("steps", [1, 3, 8])
def test_last_step_leaves_no_mask_and_given_stays(matrix: str, steps: int) -> None:
    """Off by one in the last step leaves masks; C6: given positions never change, in every frame."""
    process, model = d3pm(matrix, 8), random_model(V, L, time=True)
    x0, given = np.array([[1, 0, 0], [0, 0, 2]]), np.array([[True, False, False], [False, False, True]])
    decoder = decoders.Chain(steps)
    frames = list(process.sample(model, L, 2, decoder=decoder, x0=x0, given=given, rng=np.random.default_rng(0)))
    assert len(frames) == steps + 1
    for frame in frames:
        assert frame.state[0, 0] == 1
        assert frame.state[1, 2] == 2
        np.testing.assert_array_equal(frame.given, given)
    assert (frames[-1].state < V).all()


def test_D1_rates_into_a_token_are_a_column_of_the_generator() -> None:
    """G[:, x] without building G, for every symbol."""
    for noise in (Uniform(V), Absorbing(V), Nearest(EMBEDDINGS, 1)):
        x = np.arange(noise.symbols)
        np.testing.assert_array_equal(noise.into(x), noise.generator.T[x])


def test_gradients_of_the_reverse_law() -> None:
    """The loss differentiates through Bayes' rule: central differences, all matrices."""
    rng = np.random.default_rng(0)
    for noise in (Uniform(V), Absorbing(V), Nearest(EMBEDDINGS, 1)):
        xt = np.array([[0, V if noise.symbols > V else 2], [1, 1]])
        before, now = noise.level(np.array([0.7, 0.3])), noise.level(np.array([0.5, 0.1]))

        def law(x: td.Tensor, noise=noise, xt=xt, before=before, now=now) -> td.Tensor:
            return transitions.reverse(noise, ops.softmax(x), xt, before, now)

        td.check_grads(law, rng.normal(size=(2, 2, V)))


class Leaky(Uniform):
    """Noise whose rows do not sum to zero."""

    @property
    def generator(self) -> Floats:
        g = Uniform.generator.fget(self)
        g[1, 0] += 0.5
        return g


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: D3PM(0), "vocab_size is 0"),
        (lambda: D3PM(V, steps=0), "steps is 0"),
        (lambda: D3PM(V, "banded"), "matrix is 'banded'"),
        (lambda: D3PM(V, hybrid=-1.0), "hybrid is -1"),
        (lambda: D3PM(V, schedule="sine"), "'sine'"),
        (lambda: schedules.Schedule("flat", np.ones_like, np.zeros_like, np.ones_like), "'flat' goes from 1"),
        (lambda: schedules.Schedule("up", lambda t: 1 - t + 2 * t**8, np.ones_like, np.ones_like), "expected to fall"),
        (lambda: DiscreteDiffusion(Leaky(V), schedules.linear()), "row 1 of the noise's generator sums to 0.5"),
        (lambda: D3PM(V, "nearest"), "embeddings is missing"),
        (lambda: D3PM(V, "uniform", embeddings=EMBEDDINGS), "embeddings is given"),
        (lambda: D3PM(V, "nearest", embeddings=EMBEDDINGS, neighbours=3), "neighbours is 3 and embeddings has 3 rows"),
        (lambda: D3PM(V, "nearest", embeddings=EMBEDDINGS * np.nan), "NaN"),
        (lambda: D3PM(V, "nearest", embeddings=EMBEDDINGS[:, 0]), r"shape \(3,\)"),
        (lambda: D3PM(4, "nearest", embeddings=EMBEDDINGS, neighbours=1), "expected vocab_size = 4"),
        (
            lambda: D3PM(4, "nearest", embeddings=[[0.0], [1.0], [9.0], [10.0]], neighbours=1),
            "2 groups without a link",
        ),
        (lambda: D3PM(V).grid(2000), "T = 1000"),
        (lambda: D3PM(V).level(1.5), "t contains 1.5"),
        (
            lambda: D3PM(V).sample(random_model(V, L), L, decoder=decoders.Chain(2000), rng=np.random.default_rng(0)),
            "T = 1000",
        ),
        (lambda: exact.check_elbo(D3PM(20, "uniform", steps=2), random_model(20, 5), 5), "at most 4"),
    ],
)
def test_bad_input(call, words: str) -> None:
    """Each names the argument, the value and what would be right."""
    with pytest.raises(ValueError, match=words):
        call()
