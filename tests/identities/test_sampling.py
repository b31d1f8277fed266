"""Samplers, C1, C2, C3 and C5: do draws have the law that the model defines? Laws by enumeration, draws by a G-test."""

import itertools
import math

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import MaskedDiffusion, exact, samplers
from tinydiff.arrays import Floats, Ints
from tinydiff.transformer import Model


def assert_drawn_from(states: Ints, law: Floats, rng: np.random.Generator) -> None:
    """G-test of draws (n, L) against a law over all sequences: two-sided, level 0.2 %, seed fixed by the caller.

    The p-value is the rank of G among 2,000 simulations of it.
    """
    draws, symbols = len(states), round(len(law) ** (1 / states.shape[1]))
    counts = np.bincount(exact.state_index(states, symbols), minlength=len(law))

    def g(observed: Floats) -> Floats:
        ratio = np.divide(observed, draws * law, out=np.ones(observed.shape), where=observed > 0)
        return 2 * (observed * np.log(ratio)).sum(axis=-1)

    assert 0.001 < (g(rng.multinomial(draws, law / law.sum(), size=2_000)) < g(counts)).mean() < 0.999


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
    assert_drawn_from(last.state, law, rng)


class Wavy:
    """A model whose answers change smoothly with t."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __call__(self, x, t=None, *, causal=False, select=None):
        logits = self.model(x, t)
        swing = 1 + 0.8 * np.sin(3 * np.asarray(t))[:, None, None]
        logits = logits * np.broadcast_to(swing, logits.shape)
        return logits if select is None else type(logits)(logits.data[select])


@pytest.mark.parametrize("timed", [False, True])
def test_C2_first_hitting_has_the_law_of_infinitely_many_steps(timed: bool) -> None:
    """Ancestral sampling tends to the continuous-time law, like 1/T, and first-hitting sampling draws from that.

    The limit: Kolmogorov's equation, or one position at a time in random order if the model does not look at t. Zheng
    et al. 2024, theorem 3.1. The time of the first hit of L positions has P(first <= t from above) = (1 - alpha_t)^L.
    """
    length, draws = 3, 20_000
    process, model = MaskedDiffusion(2, "cosine"), random_model(2, length)
    model = Wavy(model) if timed else model
    limit = exact.continuous_law(process, model, length)
    distance = [np.abs(exact.ancestral_law(process, model, length, steps) - limit).sum() / 2 for steps in (32, 64, 128)]
    assert 0 < distance[2] < 0.6 * distance[1] < 0.36 * distance[0]
    rng = np.random.default_rng(0)
    frames = list(process.sample(model, length, draws, rng=rng, remasking="first_hitting"))
    assert [frame.committed.sum(axis=1).tolist() for frame in frames[1:]] == [[1] * draws] * length
    assert_drawn_from(frames[-1].state, limit, rng)
    first = np.sort([next(itertools.islice(hits(process, model, length, seed), 1, None)).t for seed in range(400)])
    uniform = (1 - process.schedule.alpha(first)) ** length
    # Kolmogorov-Smirnov, two-sided, level 1e-6.
    assert np.abs(uniform - (np.arange(400) + 0.5) / 400).max() < 2.7 / math.sqrt(400)


def hits(process: MaskedDiffusion, model: Model, length: int, seed: int):
    return process.sample(model, length, 1, rng=np.random.default_rng(seed), remasking="first_hitting")


def test_C3_one_token_per_step_in_random_order_has_the_any_order_law() -> None:
    """`remasking="random"` with as many steps as tokens: p = mean over orders of the product of conditionals (M6)."""
    process, model, length = MaskedDiffusion(2), random_model(2, 3), 3
    law = np.exp(-exact.any_order_nll(process, model, exact.all_sequences(2, length)))
    rng = np.random.default_rng(0)
    *_, last = process.sample(model, length, 20_000, rng=rng, steps=length, remasking="random")
    assert_drawn_from(last.state, law, rng)
    # Two at once is another law, and the same test sees it.
    *_, last = process.sample(model, length, 20_000, rng=rng, steps=1, remasking="random")
    with pytest.raises(AssertionError):
        assert_drawn_from(last.state, law, rng)


class Tail:
    """A generator whose numbers for the second of two tokens all lie in the top 2^-20 of the unit interval.

    That is how far in the tail a rare token has to be lucky. Conditional on that, events of 1e-8 can be counted.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def random(self, size: tuple[int, ...], dtype: type = np.float64) -> Floats:
        u = self.rng.random(size)
        u[..., 1] = 1 - 2.0**-20 * (1 - u[..., 1])
        return np.minimum(u.astype(dtype), np.nextafter(dtype(1), dtype(0)))

    def gumbel(self, size: tuple[int, ...]) -> Floats:
        return -np.log(-np.log(self.random(size)))


def float32_gumbel(logits: Floats, rng: Tail) -> Ints:
    """The usual trick in single precision."""
    u = rng.random(logits.shape, np.float32)
    return (logits.astype(np.float32) - np.log(-np.log(u))).argmax(axis=-1)


def test_C5_draws_are_right_far_in_the_tail() -> None:
    """A token of probability e^-18 comes up that often; with float32 Gumbel noise, hardly ever.

    float32 uniforms stop at 1 - 2^-24, so that the noise stops at 16.6 (Zheng et al. 2024, section 4). Importance
    sampling by `Tail`: outside it the rare token wins with a probability below 1e-26. Two-sided at 4.5 standard errors.
    """
    draws, gap = 200_000, 18.0
    logits = np.tile([0.0, -gap], (draws, 1))
    expected = 1 / (1 + math.exp(gap)) * 2**20
    slack = 4.5 * math.sqrt(expected / draws)
    with np.errstate(divide="ignore"):
        tokens, _ = samplers.Draw()(logits, Tail(0))
        assert abs(tokens.mean() - expected) < slack
        assert abs(float32_gumbel(logits, Tail(0)).mean() - expected) > slack
    # Drawing by the cumulative law is held to the same: the last state of probability 1e-12 owns that much of [0, 1).
    law = np.array([[1.0, 1e-12]])
    assert samplers.categorical(law, Constant(1 - 2e-12)) == 0
    assert samplers.categorical(law, Constant(1 - 0.5e-12)) == 1
    for u in (0.0, np.nextafter(1.0, 0.0)):
        assert samplers.categorical(np.array([[0.0, 0.3, 0.7, 0.0]]), Constant(u))[0] in (1, 2)  # never a zero


class Constant:
    """A generator that always gives the same number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, size: tuple[int, ...]) -> Floats:
        return np.full(size, self.value)
