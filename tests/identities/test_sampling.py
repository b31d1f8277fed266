"""Decoders, C1 to C6 and K1 to K3: do draws have the law that the model defines? By enumeration, and by a G-test."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import MaskedDiffusion, Tensor, decoders, exact
from tinydiff.arrays import Floats, Ints
from tinydiff.decoders.orders import Order
from tinydiff.transformer import Model

ORDERS: dict[str, type[Order]] = {
    "random": decoders.Random,
    "left_to_right": decoders.LeftToRight,
    "low_confidence": decoders.LowConfidence,
    "most_likely": decoders.MostLikely,
    "entropy": decoders.Entropy,
    "margin": decoders.Margin,
}
OF_THE_STATE = [order for order in ORDERS if order != "low_confidence"]


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
    """The law of `decoders.Ancestral` is that of the chain defined by p_theta(x_s | x_t) and Bayes' rule.

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
    *_, last = process.sample(model, length, draws, decoder=decoders.Ancestral(steps), rng=rng)
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
    frames = list(process.sample(model, length, draws, decoder=decoders.FirstHitting(), rng=rng))
    assert [frame.committed.sum(axis=1).tolist() for frame in frames[1:]] == [[1] * draws] * length
    assert_drawn_from(frames[-1].state, limit, rng)
    first = np.sort([next(itertools.islice(hits(process, model, length, seed), 1, None)).t for seed in range(400)])
    uniform = (1 - process.schedule.alpha(first)) ** length
    # Kolmogorov-Smirnov, two-sided, level 1e-6.
    assert np.abs(uniform - (np.arange(400) + 0.5) / 400).max() < 2.7 / math.sqrt(400)


def hits(process: MaskedDiffusion, model: Model, length: int, seed: int):
    return process.sample(model, length, decoder=decoders.FirstHitting(), rng=np.random.default_rng(seed))


def test_C3_one_token_per_step_in_random_order_has_the_any_order_law() -> None:
    """`decoders.Random` with as many steps as tokens: p = mean over orders of the product of conditionals (M6)."""
    process, model, length = MaskedDiffusion(2), random_model(2, 3), 3
    law = np.exp(-exact.any_order_nll(process, model, exact.all_sequences(2, length)))
    rng = np.random.default_rng(0)
    *_, last = process.sample(model, length, 20_000, decoder=decoders.Random(length), rng=rng)
    assert_drawn_from(last.state, law, rng)
    # Two at once is another law, and the same test sees it.
    *_, last = process.sample(model, length, 20_000, decoder=decoders.Random(1), rng=rng)
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
        u[..., -1] = 1 - 2.0**-20 * (1 - u[..., -1])
        return np.minimum(u.astype(dtype), np.nextafter(dtype(1), dtype(0)))


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
        tokens, _ = decoders.Draw()(logits, Tail(0))
        assert abs(tokens.mean() - expected) < slack
        assert abs(float32_gumbel(logits, Tail(0)).mean() - expected) > slack
    # Drawing by the cumulative law is held to the same: the last state of probability 1e-12 owns that much of [0, 1).
    law = np.array([[1.0, 1e-12]])
    assert decoders.categorical(law, Constant(1 - 2e-12)) == 0
    assert decoders.categorical(law, Constant(1 - 0.5e-12)) == 1
    for u in (0.0, np.nextafter(1.0, 0.0)):
        assert decoders.categorical(np.array([[0.0, 0.3, 0.7, 0.0]]), Constant(u))[0] in (1, 2)  # never a zero


class Constant:
    """A generator that always gives the same number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def random(self, size: tuple[int, ...]) -> Floats:
        return np.full(size, self.value)


class Deaf:
    """A model that never listens: every position has a law of its own, whatever is visible."""

    def __init__(self, vocab_size: int, length: int) -> None:
        self.logits = np.random.default_rng(0).normal(size=(length, vocab_size))

    def __call__(self, x, t=None, *, causal=False, select=None):
        logits = np.broadcast_to(self.logits, (*x.shape, self.logits.shape[1]))
        return Tensor(logits.copy() if select is None else logits[select])


def at_once(k: int, length: int) -> list[int]:
    """Commits per step: k at once, and what is left in the end."""
    return [k] * (length // k) + [length % k] * (length % k > 0)


@pytest.mark.parametrize("order", OF_THE_STATE)
def test_C4_committing_several_at_once_costs_what_ties_them_together(order: str) -> None:
    """TV(law of k at once, law of one at a time) is 0 for k = 1, 0 for any k if positions are independent, else > 0.

    By enumeration; for random order the law of k = 1 is that of M6, found in another way. It holds for orders that do
    not look at the draws.
    """
    v, length = 2, 4
    process, model, deaf = MaskedDiffusion(v), random_model(v, length), Deaf(v, length)
    one = exact.unmask_law(process, model, at_once(1, length), order)
    if order == "random":
        any_order = np.exp(-exact.any_order_nll(process, model, exact.all_sequences(v, length)))
        assert exact.total_variation(one, any_order) < 1e-12
    independent = exact.product_law(np.exp(deaf.logits)[None] / np.exp(deaf.logits).sum(-1, keepdims=True))[0]
    for k in (1, 2, 3, 4):
        assert exact.total_variation(exact.unmask_law(process, deaf, at_once(k, length), order), independent) < 1e-12
        distance = exact.total_variation(exact.unmask_law(process, model, at_once(k, length), order), one)
        assert distance < 1e-12 if k == 1 else distance > 0.01


def test_C4_low_confidence_tilts_even_independent_positions() -> None:
    """An order that looks at the draws is an exception: likely tokens are committed, unlikely ones get another chance.

    For two independent positions with laws a and b and one commit per step, p(x, y) is not a(x) b(y); at once it is.
    """
    v, length = 2, 2
    process, deaf = MaskedDiffusion(v), Deaf(v, length)
    independent = exact.product_law(np.exp(deaf.logits)[None] / np.exp(deaf.logits).sum(-1, keepdims=True))[0]
    both = exact.unmask_law(process, deaf, [2], "low_confidence")
    one = exact.unmask_law(process, deaf, [1, 1], "low_confidence")
    assert exact.total_variation(both, independent) < 1e-12
    assert exact.total_variation(one, independent) > 0.01
    a, b = np.exp(deaf.logits) / np.exp(deaf.logits).sum(-1, keepdims=True)
    by_hand = np.zeros((2, 2))
    for x, y in itertools.product(range(2), repeat=2):
        keep_first = a[x] >= b[y]  # the surer draw is kept
        for z in range(2):  # the other position is drawn again
            by_hand[(x, z) if keep_first else (z, y)] += a[x] * b[y] * (b[z] if keep_first else a[z])
    np.testing.assert_allclose(one, by_hand.ravel(), atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
def test_C4_draws_have_the_enumerated_law(order: str) -> None:
    """What each order draws has the law that the oracle enumerates: G-test as in C1, seed fixed."""
    v, length = 2, 3
    process, model, rng = MaskedDiffusion(v), random_model(v, length), np.random.default_rng(1)
    *_, last = process.sample(model, length, 20_000, decoder=ORDERS[order](2), rng=rng)
    assert_drawn_from(last.state, exact.unmask_law(process, model, [1, 2], order), rng)
    with pytest.raises(AssertionError):  # the same test tells other numbers of commits apart
        assert_drawn_from(last.state, exact.unmask_law(process, model, [3], order), rng)


COMMITS: list[list[int]] = [[1, 1, 1], [2, 1], [1, 2], [3]]


@pytest.mark.parametrize("quotas", COMMITS)
@pytest.mark.parametrize("order", OF_THE_STATE)
def test_K1_orders_that_follow_a_rule_of_the_state_have_a_likelihood(order: str, quotas: list[int]) -> None:
    """log p(x) = sum over steps of log p(x_i | state) at the positions that the rule commits, replayed on x.

    It sums to one over all x and equals the law found by enumerating every draw. By enumeration, V = 3, L = 3.
    """
    process, model = MaskedDiffusion(3), random_model(3, 3)
    replayed = exact.replayed(process, model, quotas, order)
    assert replayed.sum() == pytest.approx(1, rel=1e-12)
    np.testing.assert_allclose(replayed, exact.unmask_law(process, model, quotas, order), rtol=1e-10)


@pytest.mark.parametrize("kind", [decoders.MostLikely, decoders.Entropy, decoders.Margin, decoders.LeftToRight])
def test_K1_blocks_have_a_likelihood_too(kind: type[decoders.Entropy]) -> None:
    """The decoder itself, in blocks, replayed on every x: the products sum to one and are the law of its draws.

    Positions are chosen as always, while the tokens of x take the place of the draws. G-test as in C1, seed fixed.
    """
    v, length, steps = 2, 4, 3
    process, model, rng = MaskedDiffusion(v), random_model(v, length), np.random.default_rng(2)
    texts = exact.all_sequences(v, length)
    decoder = kind(steps) if kind is decoders.LeftToRight else kind(steps, block_length=2)

    class Dictated(kind):
        """The same rule, with draws that are dictated."""

        def pick(self, model, look, quota, rng):
            chosen, _, _ = super().pick(model, look, quota, rng)
            p = exact.token_probabilities(model, look.state, 0.5)
            sure = np.take_along_axis(p, texts[..., None], axis=-1)[..., 0]
            return chosen, texts, sure

    fields = {field.name: getattr(decoder, field.name) for field in dataclasses.fields(decoder)}
    frames = list(process.sample(model, length, len(texts), decoder=Dictated(**fields), rng=rng))
    np.testing.assert_array_equal(frames[-1].state, texts)
    likelihood = frames[-1].confidence.prod(axis=1)
    assert likelihood.sum() == pytest.approx(1, rel=1e-12)
    *_, last = process.sample(model, length, 20_000, decoder=decoder, rng=rng)
    assert_drawn_from(last.state, likelihood, rng)


@pytest.mark.parametrize("quotas", COMMITS)
def test_K2_low_confidence_has_no_such_likelihood(quotas: list[int]) -> None:
    """Replaying the decoder on x tells it that x was drawn, so what it prefers depends on x: no sum of one.

    The law itself sums to one as any does, and differs from what is replayed; at once, there is nothing to prefer.
    """
    process, model = MaskedDiffusion(3), random_model(3, 3)
    replayed = exact.replayed(process, model, quotas, "low_confidence")
    law = exact.unmask_law(process, model, quotas, "low_confidence")
    assert law.sum() == pytest.approx(1, rel=1e-12)
    if quotas == [3]:
        np.testing.assert_allclose(replayed, law, rtol=1e-10)
    else:
        assert abs(replayed.sum() - 1) > 0.02


@pytest.mark.parametrize("order", ORDERS)
def test_K3_one_token_per_step_with_bayes_conditionals_keeps_the_law(order: str) -> None:
    """With p(x_i | visible) of the data itself, at temperature 1, any rule of the state gives the data's law exactly.

    By the chain rule along whatever order. Ranking by the drawn token does not; nor, for any order, two tokens at once.
    Enumerated, and drawn: G-test as in C1, seed fixed.
    """
    v, length = 3, 3
    process, law = MaskedDiffusion(v), np.random.default_rng(0).dirichlet(np.full(v**length, 0.5))
    model, rng = exact.BayesDenoiser(law, v, length), np.random.default_rng(3)
    found = exact.unmask_law(process, model, [1] * length, order)
    *_, last = process.sample(model, length, 20_000, decoder=ORDERS[order](), rng=rng)
    if order in OF_THE_STATE:
        assert exact.total_variation(found, law) < 1e-12
        assert_drawn_from(last.state, law, rng)
    else:
        assert exact.total_variation(found, law) > 0.02
        with pytest.raises(AssertionError):
            assert_drawn_from(last.state, law, rng)
    assert exact.total_variation(exact.unmask_law(process, model, [2, 1], order), law) > 0.02


def test_K4_block_gibbs_keeps_the_law_and_finds_it() -> None:
    """sum_x p(x) q(y | x) = p(y) for rounds that hide a random part and draw it anew (Geman and Geman 1984).

    Drawn from the true conditionals the law is there from the beginning, and stays. From a model that knows them only
    where at most one of three positions is masked, and nothing else, the draft is far from it, and the rounds find it.
    G-test as in C1, seed fixed.
    """
    v, length, draws = 3, 3, 4_000
    process, law = MaskedDiffusion(v), np.random.default_rng(0).dirichlet(np.full(v**length, 2.0))
    bayes, rng = exact.BayesDenoiser(law, v, length), np.random.default_rng(3)

    def near(x: Ints, t: Floats | None = None, *, causal: int = 0, select: np.ndarray | None = None) -> Tensor:
        known = (x == v).sum(axis=1) <= 1
        logits = np.where(known[:, None, None], bayes(x, t).data, 0.0)
        return Tensor(logits if select is None else logits[select])

    def drawn(model: Model, rounds: int, share: float) -> Ints:
        decoder = decoders.Gibbs(decoders.Random(), rounds, share)
        *_, last = process.sample(model, length, draws, decoder=decoder, rng=rng)
        return last.state

    assert_drawn_from(drawn(bayes, 3, 2 / 3), law, rng)
    assert_drawn_from(drawn(near, 15, 1 / 3), law, rng)
    for rounds, share in ((0, 1 / 3), (15, 2 / 3)):  # no second look, or one that sees too little
        with pytest.raises(AssertionError):
            assert_drawn_from(drawn(near, rounds, share), law, rng)


WAYS: dict[str, decoders.Decoder] = {
    "random": decoders.Random(3),
    "low_confidence": decoders.LowConfidence(3),
    "most_likely": decoders.MostLikely(3, block_length=5),
    "entropy": decoders.Entropy(3, commits="cosine"),
    "margin": decoders.Margin(3, block_length=4),
    "left_to_right": decoders.LeftToRight(3),
    "threshold": decoders.Threshold(0.5),
    "guided": decoders.LowConfidence(3),
    "ancestral": decoders.Ancestral(3),
    "first_hitting": decoders.FirstHitting(),
    "cap": decoders.RemaskCap(6, 0.5),
    "rescale": decoders.RemaskRescale(6, 0.5),
    "confidence": decoders.RemaskConfidence(6),
    "gibbs": decoders.Gibbs(decoders.LowConfidence(3), 2),
}


@pytest.mark.parametrize("way", WAYS)
def test_C6_infilling_never_changes_a_given_position(way: str) -> None:
    """x_t^i = x_0^i for every given i and every t, in every frame of every sampler, and no mask is left."""
    v, length, rng = 5, 12, np.random.default_rng(0)
    process, model = MaskedDiffusion(v), random_model(v, length)
    kept, x0 = rng.random((8, length)) < 0.5, rng.integers(0, v, (8, length))
    model = decoders.prompted(model, kept, process.mask_id, 1.0 if way == "guided" else 0.0)
    for frame in process.sample(model, length, 8, decoder=WAYS[way], x0=x0, given=kept, rng=rng):
        np.testing.assert_array_equal(frame.given, kept)
        np.testing.assert_array_equal(frame.state[kept], x0[kept])
        assert not (frame.committed | frame.remasked)[kept].any()
        assert (frame.confidence[kept] == 1).all()
    assert (frame.state != process.mask_id).all()
