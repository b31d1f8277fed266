"""Commits that promise something, K1, K4 to K8: what a step costs, what speculation keeps, what stale keys lose."""

from typing import Any

import numpy as np
import pytest

from tests.identities.conftest import random_law, random_model
from tests.identities.test_sampling import assert_drawn_from
from tinydiff import MaskedDiffusion, Tensor, decoders, exact
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.processes.duality import argmax_alpha

ENTROPY_OF = lambda p: -(p * np.log(np.where(p > 0, p, 1))).sum()  # noqa: E731


class Counting:
    """A model that counts the calls, and how many canvases each has."""

    def __init__(self, model: Any) -> None:
        self.model, self.vocab_size, self.calls = model, model.vocab_size, 0

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        self.calls += 1
        return self.model(x, t, causal=causal, select=select)


@pytest.mark.parametrize("order", ["entropy", "margin", "most_likely", "left_to_right"])
def test_K1_replay_is_the_law_of_the_decoder(order: str) -> None:
    """log p(x) = sum over steps of log p(x^i | state) at what the rule commits, for every x at once (DUEL, Turok 2026).

    Against the law by enumerating every draw; V = 3, L = 3, one to three steps; and for what is free of a prompt.
    """
    process, model, texts = MaskedDiffusion(3), random_model(3, 3), exact.all_sequences(3, 3)
    kind = {
        "entropy": decoders.Entropy, "margin": decoders.Margin, "most_likely": decoders.MostLikely,
        "left_to_right": decoders.LeftToRight,
    }[order]  # fmt: skip
    for steps, quotas in ((1, [3]), (2, [1, 2]), (3, [1, 1, 1])):
        law = np.exp(-decoders.replay(process, model, kind(steps), texts))
        np.testing.assert_allclose(law, exact.unmask_law(process, model, quotas, order), rtol=1e-10)
        given = np.tile(np.arange(3) == 1, (len(texts), 1))
        answers = np.exp(-decoders.replay(process, model, kind(), texts, given))
        assert answers.sum() == pytest.approx(3, rel=1e-12)  # one for each content of the given position


RULES: list[Any] = [
    decoders.EntropyBounded(gamma=0.9), decoders.Frechet(factor=0.9), decoders.AtOnce(decoders.Draw()),
    decoders.StaleBlocks(decoders.Entropy(), block_length=2), decoders.Entropy(3, block_length=2),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_K1_every_rule_of_the_state_has_a_law(rule: Any) -> None:
    """The replayed probabilities sum to one over all texts, and texts are drawn from them (G-test, level 0.2 %)."""
    process, model, rng = MaskedDiffusion(2), random_model(2, 4), np.random.default_rng(3)
    law = np.exp(-decoders.replay(process, model, rule, exact.all_sequences(2, 4)))
    assert law.sum() == pytest.approx(1, rel=1e-12)
    *_, last = process.sample(model, 4, 20_000, decoder=rule, rng=rng)
    assert_drawn_from(last.state, law, rng)


def joint_laws(count: int, variables: int, values: int) -> Floats:
    """Random laws, from flat ones to nearly certain ones: (count, values, .., values)."""
    rng = np.random.default_rng(0)
    sharpness = 10 ** rng.uniform(-1.5, 0.5, count)
    laws = np.array([rng.dirichlet(np.full(values**variables, a)) for a in sharpness])
    return laws.reshape(count, *[values] * variables)


def test_K4_the_price_of_a_step_is_bounded_by_entropies() -> None:
    """KL(joint || product of marginals) = sum H_i - H(joint) <= sum H_i - max H_i, for 500 laws of three variables.

    Equality where one variable says all: then H(joint) = max H_i. And what `EntropyBounded` commits is the longest run
    of the surest for which the right side is at most gamma, so that the left side is.
    """
    for joint in joint_laws(500, 3, 3):
        marginals = [joint.sum(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]
        product = np.einsum("i,j,k->ijk", *marginals)
        here = joint > 0
        kl = (joint[here] * np.log(joint[here] / product[here])).sum()
        entropies = np.array([ENTROPY_OF(p) for p in marginals])
        assert kl == pytest.approx(entropies.sum() - ENTROPY_OF(joint), abs=1e-9)
        assert kl <= entropies.sum() - entropies.max() + 1e-9
        for gamma in (0.0, 0.1, 0.5):
            chosen = decoders.EntropyBounded(gamma=gamma).chosen(np.ones((1, 3), bool), np.array(marginals))[0]
            part = joint.sum(axis=tuple(np.flatnonzero(~chosen)))
            assert entropies[chosen].sum() - ENTROPY_OF(part) <= gamma + 1e-9
            surest = np.sort(entropies)
            assert chosen.sum() == max(n for n in (1, 2, 3) if surest[: n - 1].sum() <= gamma)
            assert entropies[chosen].max() == surest[chosen.sum() - 1]
    same = np.zeros((3, 3))
    np.fill_diagonal(same, [0.2, 0.3, 0.5])
    entropy = ENTROPY_OF(same.sum(axis=0))
    assert 2 * entropy - ENTROPY_OF(same) == pytest.approx(2 * entropy - max(entropy, entropy))


def test_K4_total_correlation_adds_up_over_a_fixed_partition() -> None:
    """KL(p || p_decoder) = sum over steps of E[TC of what is committed | what is visible], with Bayes conditionals.

    Left to right, two at a time, on four positions.
    """
    law, v, length = random_law(2**4), 2, 4
    process, bayes, texts = MaskedDiffusion(v), exact.BayesDenoiser(law, v, length), exact.all_sequences(v, length)
    decoded = np.exp(-decoders.replay(process, bayes, decoders.LeftToRight(2), texts))
    joint = law.reshape(4, 2, 2)  # the first pair, then each of the second
    first = joint.sum(axis=(1, 2)).reshape(2, 2)

    def correlation(pair: Floats) -> float:
        return float(ENTROPY_OF(pair.sum(axis=0)) + ENTROPY_OF(pair.sum(axis=1)) - ENTROPY_OF(pair))

    p = joint.sum(axis=(1, 2))
    steps = correlation(first) + sum(p[i] * correlation(joint[i] / p[i]) for i in range(4))
    assert (law * np.log(law / decoded)).sum() == pytest.approx(steps, rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 0.05, 0.3, 1.0, 9.0])
def test_K4_the_entropy_bound_limits_the_whole_text(gamma: float) -> None:
    """KL(p || p_decoder) <= gamma E[steps], by enumeration of 10 laws; 0 loses nothing, a large one takes one step."""
    v, length = 2, 4
    process, texts, rule = MaskedDiffusion(v), exact.all_sequences(2, 4), decoders.EntropyBounded(gamma=gamma)
    for seed in range(10):
        law = np.random.default_rng(seed).dirichlet(np.full(v**length, 0.5))
        bayes = Counting(exact.BayesDenoiser(law, v, length))
        nll, steps = np.empty(len(texts)), np.empty(len(texts))
        for n, text in enumerate(texts):
            bayes.calls = 0
            nll[n] = decoders.replay(process, bayes, rule, text[None])[0]
            steps[n] = bayes.calls
        kl = (law * (np.log(law) + nll)).sum()
        assert -1e-9 <= kl <= gamma * (law @ steps) + 1e-9
        if gamma == 0:
            assert (steps == length).all()
        if gamma == 9:
            assert (steps == 1).all()
            assert kl > 0.01


def test_K5_few_doubts_make_the_likeliest_tuple() -> None:
    """sum eps_i + max eps_i <= 1 => argmax of the joint = tuple of argmaxes, and its probability >= 1 - sum eps_i.

    For 3,000 laws of three variables, of which some hundreds qualify; of those that just do not, some break it. The
    decoder's own choice is checked: what `Frechet` would commit at factor 1, and at factor 1.6.
    """
    qualified, broken = 0, 0
    for joint in joint_laws(3_000, 3, 3):
        marginals = [joint.sum(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]
        for factor in (1.0, 1.6):
            chosen = decoders.Frechet(factor=factor).chosen(np.ones((1, 3), bool), np.array(marginals))[0]
            those = np.flatnonzero(chosen)
            part = joint.sum(axis=tuple(j for j in range(3) if j not in those))
            greedy = tuple(int(marginals[i].argmax()) for i in those)
            doubts = np.array([1 - marginals[i].max() for i in those])
            if factor == 1 and len(those) > 1:
                assert doubts.sum() + doubts.max() <= 1
                assert part[greedy] == pytest.approx(part.max())
                assert part[greedy] >= 1 - doubts.sum() - 1e-12
                qualified += 1
            broken += factor > 1 and part[greedy] < part.max() - 1e-12
    assert qualified > 300
    assert broken > 20


@pytest.mark.parametrize("drafts", [1, 2, 3, 4])
def test_K6_speculation_has_the_law_of_one_at_a_time(drafts: int) -> None:
    """min(1, q / p), and (q - p)^+ at the first rejection, give the left-to-right law in at most L calls.

    By enumeration of drafts and decisions. To redraw from q afresh gives another law (Guo and Ermon 2025 against
    Pannatier et al. 2024).
    """
    process, model, length = MaskedDiffusion(2), random_model(2, 4, seed=1), 4
    one_at_a_time = exact.unmask_law(process, model, [1] * length, "left_to_right")
    law, calls, most = exact.speculative_law(process, model, length, drafts)
    np.testing.assert_allclose(law, one_at_a_time, rtol=1e-10)
    assert calls <= most + 1e-12 <= length + 1e-12
    afresh, _, _ = exact.speculative_law(process, model, length, drafts, afresh=True)
    assert afresh.sum() == pytest.approx(1, rel=1e-12)
    assert (exact.total_variation(afresh, one_at_a_time) > 0.005) == (drafts > 1)


@pytest.mark.parametrize("order", ["left_to_right", "random"])
def test_K6_the_decoder_draws_from_it(order: Any) -> None:
    """Texts of `Speculate` against the law of one at a time (G-test, level 0.2 %, seed fixed), and its calls."""
    process, model, rng = MaskedDiffusion(2), random_model(2, 4, seed=1), np.random.default_rng(0)
    law = exact.unmask_law(process, model, [1] * 4, order)
    *_, last = process.sample(model, 4, 20_000, decoder=decoders.Speculate(3, order), rng=rng)
    assert_drawn_from(last.state, law, rng)
    spent = []
    for seed in range(100):
        counting = Counting(model)
        frames = list(
            process.sample(counting, 4, decoder=decoders.Speculate(3, order), rng=np.random.default_rng(seed))
        )
        assert counting.calls <= 4
        assert all(frame.committed.any() for frame in frames[1:])
        spent.append(counting.calls)
    assert np.mean(spent) < 3.7


@pytest.mark.parametrize("kept", ["prefix", "both"])
def test_K7_keys_kept_under_full_attention_change_the_law(kept: Any) -> None:
    """Total variation, by enumeration, from the law in which every look reads everything: more than rounding.

    With one step per block there is no second look, and it is 0.
    """
    process, model, texts = MaskedDiffusion(2), random_model(2, 4, layers=2), exact.all_sequences(2, 4)

    def law(steps: int, how: Any) -> Floats:
        decoder = decoders.StaleBlocks(decoders.LeftToRight(steps), block_length=2, kept=how)
        return np.exp(-decoders.replay(process, model, decoder, texts))

    np.testing.assert_allclose(law(2, "nothing"), exact.unmask_law(process, model, [1] * 4, "left_to_right"), rtol=1e-9)
    assert exact.total_variation(law(1, kept), law(1, "nothing")) < 1e-12
    assert law(2, kept).sum() == pytest.approx(1, rel=1e-12)
    assert exact.total_variation(law(2, kept), law(2, "nothing")) > 1e-4


@pytest.mark.parametrize("v", [2, 4, 50])
def test_K8_the_argmax_of_gaussian_noise_is_uniform_noise(v: int) -> None:
    """P(argmax(a x + s eps) = x) = T + (1 - T) / K, s^2 = 1 - a^2, T(a) by quadrature (Sahoo et al. 2025).

    For K = 2 in closed form, Phi(a / (s sqrt 2)); drawn, 40,000 vectors of each a, two-sided at 4.5 standard errors,
    and the other entries are equally likely.
    """
    n, rng = 40_000, np.random.default_rng(0)
    for a in (0.1, 0.6, 0.95):
        alpha = argmax_alpha(a, v)
        z = np.sqrt(1 - a * a) * rng.standard_normal((n, v))
        z[:, 0] += a
        counts = np.bincount(z.argmax(axis=1), minlength=v) / n
        p = np.full(v, (1 - alpha) / v)
        p[0] += alpha
        assert (np.abs(counts - p) < 4.5 * np.sqrt(p * (1 - p) / n)).all()
    from math import erf, sqrt

    if v == 2:
        for a in (0.2, 0.7):
            stays = (1 + erf(a / sqrt(1 - a * a) / 2)) / 2
            assert argmax_alpha(a, 2) == pytest.approx(2 * stays - 1, rel=1e-10)
    ends = argmax_alpha([0.0, 1.0], v)
    np.testing.assert_allclose(ends, [0, 1], atol=1e-10)
    many = argmax_alpha(np.linspace(0, 1, 20), v)
    assert (np.diff(many) > 0).all()
