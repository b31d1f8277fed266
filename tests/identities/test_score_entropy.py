"""Score entropy, S1 to S7: ratios, their loss, bound and samplers, proved by enumeration in float64."""

import math

import numpy as np
import pytest

import tinydiff as td
from tests.identities.conftest import random_law, random_model
from tinydiff import MaskedDiffusion, ScoreEntropy, decoders, exact, ops, schedules
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.transformer import Model

V, L = 3, 2
GRAPHS, NOISES = ["absorbing", "uniform"], ["loglinear", "geometric"]
TIMES = (0.05, 0.4, 0.9)

every_graph = pytest.mark.parametrize("graph", GRAPHS)
every_noise = pytest.mark.parametrize("noise", NOISES)


class Shifted:
    """A model whose answers are log-probabilities plus a constant: log V makes them a normalised score for masks."""

    def __init__(self, model: Model, shift: float) -> None:
        self.model, self.shift = model, shift

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> td.Tensor:
        return ops.log_softmax(self.model(x, t, select=select)) + self.shift


def best_model(process: ScoreEntropy, law: Floats) -> Model:
    """The network whose score is the true one for data of that law."""
    return Shifted(exact.BayesDenoiser(law, V, L, process), math.log(V) if process.graph == "absorbing" else 0.0)


def noised_law(process: ScoreEntropy, law: Floats, t: float) -> Floats:
    """p_t over all states: the data's law pushed through q(x_t | x_0)."""
    sequences = exact.all_sequences(V, L)
    return law @ exact.product_law(process.forward(0.0, t)[sequences])


def neighbours(states: Ints, symbols: int) -> list[tuple[int, int, int, int]]:
    """Every (x, position, symbol, y) where y is x with another symbol at the position; x and y by number."""
    return [
        (at, i, y, int(exact.state_index(np.where(np.arange(L) == i, y, x)[None], symbols)[0]))
        for at, x in enumerate(states)
        for i in range(L)
        for y in range(symbols)
        if y != x[i]
    ]


def test_S1_score_entropy_is_zero_only_at_the_true_ratios() -> None:
    """sum_y w (s - r log s + r (log r - 1)) >= 0, = 0 iff s = r wherever w > 0. Lou et al. 2023, definition 3.1.

    Around the ratios it grows as w (s - r)^2 / 2r: they are its only minimum.
    """
    rng = np.random.default_rng(0)
    ratio, weight = rng.exponential(size=(200, V)), rng.random((200, V))
    weight[:, 0] = 0

    def entropy(score: Floats, r: Floats = ratio) -> Floats:
        return ops.score_entropy(td.Tensor(np.log(score)), r, weight).data

    np.testing.assert_allclose(entropy(ratio), 0, atol=1e-14)
    assert (entropy(rng.exponential(size=(200, V))) > 1e-6).all()
    moved = ratio * np.array([7.0, 1 + 1e-3, 1.0])  # the first has no weight
    np.testing.assert_allclose(entropy(moved), weight[:, 1] * ratio[:, 1] * 1e-6 / 2, rtol=1e-3)
    np.testing.assert_allclose(entropy(ratio, 0 * ratio), (weight * ratio).sum(axis=1), rtol=1e-12)  # 0 log 0 = 0
    td.check_grads(lambda x: ops.score_entropy(x, ratio[:5], weight[:5]), rng.normal(size=(5, V)))


@every_graph
def test_S2_three_forms_have_one_gradient(graph: str) -> None:
    """Explicit, implicit and denoising score entropy differ by constants. Lou et al. 2023, theorems 3.2 to 3.4.

    explicit:  sum_x p(x) sum_y w_xy (s(x)_y - p(y)/p(x) log s(x)_y)
    implicit:  sum_x p(x) sum_y (w_xy s(x)_y - w_yx log s(y)_x)
    denoising: sum_{x_0} p(x_0) sum_x q(x|x_0) sum_y w_xy (s(x)_y - q(y|x_0)/q(x|x_0) log s(x)_y)

    The parameters are the logarithms of a whole table of scores, over all sequences of two tokens.
    """
    process, t, law = ScoreEntropy(V, graph), 0.4, random_law(V**L)
    symbols = process.symbols
    states, sequences = exact.all_sequences(symbols, L), exact.all_sequences(V, L)
    p, rates = noised_law(process, law, t), process.rates(t)
    q = exact.product_law(process.forward(0.0, t)[sequences])  # (V^L, S^L)
    table = np.random.default_rng(0).normal(size=(len(states), L, symbols))
    weight, ratio = np.zeros(table.shape), np.zeros(table.shape)
    implicit = np.zeros(table.shape)
    each_ratio = np.zeros((len(sequences), *table.shape))
    for x, i, symbol, y in neighbours(states, symbols):
        weight[x, i, symbol] = rates[symbol, states[x, i]]  # R(y, x)
        ratio[x, i, symbol] = p[y] / p[x]
        each_ratio[:, x, i, symbol] = np.divide(q[:, y], q[:, x], out=np.zeros(len(q)), where=q[:, x] > 0)
        # The gradient of the implicit form, by hand: s(x)_y enters once forwards and once in the sum over y.
        implicit[x, i, symbol] += p[x] * weight[x, i, symbol] * np.exp(table[x, i, symbol])
        implicit[x, i, symbol] -= p[y] * rates[symbol, states[x, i]]
    parameters = td.Tensor(table, requires_grad=True)
    (ops.score_entropy(parameters, ratio, weight).sum(axis=1) * p).sum().backward()
    explicit, parameters.grad = parameters.grad, None
    for x0 in range(len(sequences)):
        terms = ops.score_entropy(parameters, each_ratio[x0], weight).sum(axis=1)
        (terms * (law[x0] * q[x0])).sum().backward()
    np.testing.assert_allclose(parameters.grad, explicit, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(implicit, explicit, rtol=1e-9, atol=1e-12)


@every_noise
@pytest.mark.parametrize("normalised", [True, False])
def test_S3_absorbing_loss_is_the_masked_nelbo(noise: str, normalised: bool) -> None:
    """With s = alpha/(1 - alpha) p_theta(y | x_t) the denoising score entropy is w(t) times the masked cross-entropy.

    At every t, for every set of masks and every x_0. A score that is not normalised pays w(t) (Z - 1 - log Z) more per
    masked position, where Z is the sum of what should be probabilities. Ou et al. 2024, section 3.3.
    """
    process, masked, network = ScoreEntropy(V, "absorbing", noise), MaskedDiffusion(V, noise), random_model(V, L)
    model = Shifted(network, math.log(V)) if normalised else network
    for t in TIMES:
        for x0 in exact.all_sequences(V, L):
            cross_entropy, masks = exact.masked_cross_entropy(masked, network, x0[None], t)
            xt = np.where(masks, V, x0)
            tiled, times = np.tile(x0, (len(masks), 1)), np.full(len(masks), t)
            found = np.zeros(masks.shape)
            found[masks] = process.integrand(model, tiled, xt, times).data
            z = np.exp(model(xt, times).data).mean(axis=-1)
            excess = np.where(masks, z - 1 - np.log(z), 0).sum(axis=1)
            assert normalised == (np.abs(excess) < 1e-12).all()
            weight = float(masked.schedule.weight(t))
            np.testing.assert_allclose(found.sum(axis=1), weight * (cross_entropy[0] + excess), rtol=1e-9)
            # The same from the definition, the ratios taken from the forward matrices.
            score, q = process.score(model, xt, t), process.forward(0.0, t)
            ratio = q[x0][None] / np.take_along_axis(q[x0], xt.T, axis=1).T[..., None]
            terms = ops.score_entropy(td.Tensor(np.log(score)), ratio, process.rates(t).T[xt]).data
            np.testing.assert_allclose(np.where(masks, terms, 0), found, rtol=1e-9, atol=1e-12)


@every_graph
@every_noise
def test_S4_denoiser_to_score_and_back(graph: str, noise: str) -> None:
    """s(x)_y = p_t(y | others) / p_t(x | others), p_t(. | others) = p(x_0 | others) Q_bar; inverted, it gives p back.

    For the best denoiser the score is the true ratio of the noised data's law, at every state. Lou et al. 2023, section
    3.1; Campbell et al. 2022, proposition 3.
    """
    process, law = ScoreEntropy(V, graph, noise), random_law(V**L)
    states = exact.all_sequences(process.symbols, L)
    for t in TIMES:
        times = np.full(len(states), t)
        p = np.random.default_rng(0).dirichlet(np.ones(V), size=states.shape)
        jumps = (states == V) if graph == "absorbing" else np.ones(states.shape, bool)
        score = np.where(jumps[..., None], process.score_from_denoiser(p, states, times), 1.0)
        rounding = 1e-16 / float(process.alpha(t))  # taking the noise off divides by alpha
        np.testing.assert_allclose(
            process.denoiser_from_score(score, times)[jumps], p[jumps], rtol=1e-9, atol=1e-12 + 10 * rounding
        )
        p_t, found = noised_law(process, law, t), process.score(best_model(process, law), states, t)
        for x, i, symbol, y in neighbours(states, process.symbols):
            if jumps[x, i]:
                np.testing.assert_allclose(found[x, i, symbol], p_t[y] / p_t[x], rtol=1e-9)


@every_graph
@every_noise
def test_S5_exact_score_carries_noise_back_to_data(graph: str, noise: str) -> None:
    """dp/dt = -p R_theta(t), R_theta(x, y) = R_t(y, x) p_t(y)/p_t(x), leads from p_1 to p_0 = the data's law.

    Kolmogorov's equation integrated over all states. Campbell et al. 2022, proposition 1.
    """
    process, law = ScoreEntropy(V, graph, noise), random_law(V**L)
    found = exact.continuous_law(process, best_model(process, law), L, noised_law(process, law, 1.0))
    np.testing.assert_allclose(found, law, rtol=1e-9)


@every_graph
@every_noise
def test_S6_bound_is_above_every_likelihood(graph: str, noise: str) -> None:
    """KL(q(x_1|x_0) || prior) + integral of the denoising score entropy >= -log p_theta(x_0), for every x_0.

    p_theta by integrating Kolmogorov's equation from the prior with the network's rates; normalised or not. Lou et al.
    2023, theorem 3.6. The discrete-time bound of the analytic sampler is a bound as well, and tends to the same number.
    """
    process, model = ScoreEntropy(V, graph, noise), random_model(V, L)
    check = exact.check_elbo(process, model, L)  # raises if the bound is broken
    np.testing.assert_allclose(np.exp(-check.nll).sum(), 1, rtol=1e-9)
    assert check.gap.min() > 0
    assert exact.check_elbo(process, model, L, 4).gap.min() > 0
    errors = [
        np.abs(exact.chain_nelbo(process, model, check.sequences, steps) - check.bound).max() for steps in (100, 200)
    ]
    assert errors[1] < 0.6 * errors[0]
    prior_term = process.prior_term(check.sequences)
    assert (prior_term > 0).all()
    if graph == "absorbing":  # a token that is still there is random under the prior: log V each
        np.testing.assert_allclose(prior_term, L * float(process.alpha(1.0)) * math.log(V), rtol=1e-6)


@every_graph
@every_noise
def test_S6_estimates_have_the_mean_of_the_bound(graph: str, noise: str) -> None:
    """`bound`, in continuous time and in steps, against the enumerated bounds. Monte Carlo.

    Two-sided at 4.5 standard errors (level 7e-6 each), seed fixed.
    """
    process, model, x0 = ScoreEntropy(V, graph, noise), random_model(V, L), np.array([[2, 0]])
    rng, batch = np.random.default_rng(0), np.tile(x0, (20_000, 1))
    # Noise that stops half way, so that the prior term is too large to be missed.
    process.schedule = (
        schedules.Schedule("half", lambda t: 1 - t / 2, lambda t: np.full_like(t, -0.5), lambda a: 2 - 2 * a)
        if noise == "loglinear"
        else process.schedule
    )
    for steps in (None, 3):
        wanted = (
            exact.continuous_nelbo(process, model, x0) if steps is None else exact.chain_nelbo(process, model, x0, 3)
        )
        estimates = process.bound(model, batch, rng, steps=steps)
        assert abs(estimates.mean() - wanted[0]) < 4.5 * estimates.std() / math.sqrt(len(estimates))
    losses = np.array([process.loss(model, batch, rng).item() * L for _ in range(10)])
    # The loss leaves out the prior term and the times below T_MIN, which hold 1 % of the integral here.
    wanted = exact.continuous_nelbo(process, model, x0)[0] - process.prior_term(x0)[0]
    error = losses.std(ddof=1) / math.sqrt(10) / wanted
    assert error < 0.011
    assert abs(losses.mean() / wanted - 1) < 4.5 * error + 0.011


@every_graph
@every_noise
def test_S7_samplers_approach_the_exact_law(graph: str, noise: str) -> None:
    """Total variation between each sampler's law and the continuous one, enumerated: halves as steps double.

    Euler (tau-leaping, Campbell et al. 2022) and analytic (Tweedie, Lou et al. 2023, theorem 4.2), a random network.
    """
    process, model = ScoreEntropy(2, graph, noise), random_model(2, L)
    states = exact.all_sequences(process.symbols, L)
    target = exact.continuous_law(process, model, L)
    real = (states < 2).all(axis=1)
    start = exact.product_law(np.broadcast_to(process.prior, (1, L, process.symbols)))[0]
    for step in (process.reverse, process.euler):
        distance = []
        for steps in (64, 128, 256):
            law = exact.walk(lambda x, t, s, step=step: step(model, x, t, s), start, states, process.grid(steps))
            np.testing.assert_allclose(law.sum(), 1, rtol=1e-12)
            assert law[~real].sum() == 0  # no mask is left behind
            distance.append(np.abs(law[real] - target).sum() / 2)
        assert distance[2] < 0.7 * distance[1] < 0.49 * distance[0]
        assert distance[2] < 0.06


@every_graph
@pytest.mark.parametrize("decoder", [decoders.Tweedie(3), decoders.Euler(3)])
def test_draws_have_the_law_of_their_sampler(graph: str, decoder: decoders.Decoder) -> None:
    """G-test of 20,000 draws against the enumerated law: two-sided, level 0.2 % by 2,000 simulations, seed fixed."""
    process, model, steps, draws = ScoreEntropy(2, graph), random_model(2, L), 3, 20_000
    states = exact.all_sequences(process.symbols, L)
    step = process.euler if isinstance(decoder, decoders.Euler) else process.reverse
    start = exact.product_law(np.broadcast_to(process.prior, (1, L, process.symbols)))[0]
    law = exact.walk(lambda x, t, s: step(model, x, t, s), start, states, process.grid(steps))
    law = law[(states < 2).all(axis=1)]
    rng = np.random.default_rng(1)
    *_, last = process.sample(model, L, draws, decoder=decoder, rng=rng)
    counts = np.bincount(exact.state_index(last.state, 2), minlength=2**L)

    def g(observed: Floats) -> Floats:
        ratio = np.divide(observed, draws * law, out=np.ones(observed.shape), where=observed > 0)
        return 2 * (observed * np.log(ratio)).sum(axis=-1)

    assert 0.001 < (g(rng.multinomial(draws, law, size=2_000)) < g(counts)).mean() < 0.999


@every_graph
@pytest.mark.parametrize("kind", [decoders.Tweedie, decoders.Euler])
def test_infilling_never_changes_what_is_given(graph: str, kind: type[decoders.Euler]) -> None:
    """C6: given positions stay, in every frame, and nothing is left masked."""
    process, model = ScoreEntropy(V, graph), random_model(V, L)
    x0, given = np.array([[1, 0], [0, 2], [0, 0]]), np.array([[True, False], [False, True], [False, False]])
    for steps in (1, 5):
        for frame in process.sample(model, L, 3, decoder=kind(steps), x0=x0, given=given, rng=np.random.default_rng(0)):
            np.testing.assert_array_equal(frame.given, given)
            assert frame.state[0, 0] == 1
            assert frame.state[1, 1] == 2
            assert not frame.committed[0, 0]
        assert (frame.state < V).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: ScoreEntropy(0), "vocab_size is 0"),
        (lambda: ScoreEntropy(V, "ring"), "graph is 'ring'"),
        (lambda: ScoreEntropy(V, noise="linear"), "noise is 'linear'"),
        (lambda: ScoreEntropy(V).denoiser_from_score(np.full((1, 1, 4), -1.0), np.array([0.5])), "score contains -1"),
        (lambda: ScoreEntropy(V).denoiser_from_score(np.full((1, 1, 4), np.nan), np.array([0.5])), "NaN"),
    ],
)
def test_bad_input(call, words: str) -> None:
    """Each names the argument, the value and what would be right."""
    with pytest.raises(ValueError, match=words):
        call()
