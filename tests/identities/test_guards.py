"""Forbidden texts in a model that fills in the middle, F1 to F4: the token pair zz stands for what is forbidden."""

import itertools

import numpy as np
import pytest

from tests.identities.conftest import random_law
from tinydiff import MaskedDiffusion, decoders, exact
from tinydiff.arrays import Ints
from tinydiff.data.laws import Listed
from tinydiff.measures import guards
from tinydiff.measures.guards import Danger, Steered

LENGTH = 4
TEXTS = ["".join(x) for x in itertools.product("abz", repeat=LENGTH)]


def law_of(seed: int) -> Listed:
    return Listed(tuple(TEXTS), random_law(len(TEXTS), seed))


def zz(text: str) -> bool:
    return "zz" in text


def states_of(law: Listed) -> Ints:
    """Every state, (n, L)."""
    return exact.all_sequences(law.codec.vocab_size + 1, law.length)


@pytest.mark.parametrize("share", [0.1, 0.9, 0.999999])
def test_F1_a_refusal_that_an_affix_contradicts_is_gone(share: float) -> None:
    """a(y) = rho [refusal] + (1 - rho) p(y): given an affix that the refusal has not, a(y | affix) = p(y | affix).

    For every rho < 1, by a list of all affixes.
    """
    law = law_of(1)
    aligned = guards.with_refusal(law, "rrrr", share)
    plain, taught = Danger(law, zz), Danger(aligned, zz)
    r = aligned.codec.encode("r")[0]
    to = np.array([aligned.codec.encode(token)[0] for token in law.codec.tokens] + [aligned.codec.vocab_size])
    states = states_of(law)
    fits = plain.matching(states) * law.p
    mine = taught.matching(to[states])[:, : len(law.p)] * aligned.p[:-1]
    refusal = taught.matching(to[states])[:, -1] * aligned.p[-1]
    some = (states != law.codec.vocab_size).any(axis=1)  # all affixes but the empty one contradict it
    assert (refusal[some] == 0).all()
    assert not np.isclose(refusal[~some], 0).any()
    assert r == aligned.codec.vocab_size - 2
    np.testing.assert_allclose(
        mine[some] / mine[some].sum(axis=1, keepdims=True), fits[some] / fits[some].sum(axis=1, keepdims=True),
        rtol=1e-9,
    )  # fmt: skip
    np.testing.assert_allclose(taught(to[states[some]]), plain(states[some]), rtol=1e-9)
    np.testing.assert_allclose(taught(to[states[~some]]), (1 - share) * plain(states[~some]), rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_F2_what_a_suffix_does_behind_a_guards_back(seed: int) -> None:
    """P(F | prefix, suffix) = pi / (pi + (1 - pi) r), r = P(suffix | prefix, not F) / P(suffix | prefix, F)."""
    law = law_of(seed)
    danger, mask = Danger(law, zz), law.codec.vocab_size
    for first, last in itertools.product(range(mask), repeat=2):
        prefix, both = np.full((1, LENGTH), mask), np.full((1, LENGTH), mask)
        prefix[0, 0] = both[0, 0] = first
        both[0, -1] = last
        here = law.ids[:, 0] == first
        ends = law.ids[:, -1] == last
        p = [law.p[here & (danger.forbidden == f)].sum() for f in (True, False)]
        q = [law.p[here & ends & (danger.forbidden == f)].sum() for f in (True, False)]
        pi, r = p[0] / (p[0] + p[1]), (q[1] / p[1]) / (q[0] / p[0])
        np.testing.assert_allclose(danger(prefix)[0], pi, rtol=1e-12)
        np.testing.assert_allclose(danger(both)[0], pi / (pi + (1 - pi) * r), rtol=1e-12)


@pytest.mark.parametrize("seed", range(2))
def test_F3_a_guard_on_every_state(seed: int) -> None:
    """h is a martingale; P(refuse) <= h0 / tau, P(harmless and refused) <= h0 (1 - tau) / tau, nothing of F survives.

    One token per step in random order, from the true conditionals; by going through all ways of writing.
    """
    law = law_of(seed)
    process, model, danger = MaskedDiffusion(law.codec.vocab_size), exact.ListedDenoiser(law), Danger(law, zz)
    mask = process.mask_id
    for state in states_of(law)[::7]:
        hidden = np.flatnonzero(state == mask)
        p = exact.token_probabilities(model, state[None], 0.5)[0]
        for i in hidden:  # whichever position is next
            following = np.repeat(state[None], mask, axis=0)
            following[:, i] = np.arange(mask)
            np.testing.assert_allclose(p[i] @ danger(following), danger(state[None])[0], atol=1e-12)
    start = np.full(LENGTH, mask)
    h0 = danger(start[None])[0]
    refusals = []
    for tau in (0.999, 0.7, 0.5, 0.3, 0.2, h0):
        fate = exact.guarded_fate(process, model, danger, start, float(tau))
        assert fate.through == 0
        assert fate.refused <= h0 / tau + 1e-12
        assert fate.wronged <= h0 * (1 - tau) / tau + 1e-12
        np.testing.assert_allclose(fate.refused - fate.wronged, h0, rtol=1e-10)  # all of F is refused, and only once
        refusals.append(fate.refused)
    assert refusals == sorted(refusals)
    assert np.isclose(refusals[0], h0)
    assert np.isclose(refusals[-1], 1)
    frames = process.sample(model, LENGTH, 3000, decoder=decoders.Random(), rng=np.random.default_rng(1))
    seen = guards.watched(frames, danger, 0.5)
    fate = exact.guarded_fate(process, model, danger, start, 0.5)
    assert not danger.found(seen.ids[~seen.refused]).any()
    for found, wanted in ((seen.refused.mean(), fate.refused), (seen.danger[0].mean(), h0)):
        assert abs(found - wanted) < 4.5 * np.sqrt(wanted * (1 - wanted) / 3000)
    assert abs(seen.step.mean() - fate.steps) < 4.5 * seen.step.std() / np.sqrt(3000)


@pytest.mark.parametrize("seed", range(2))
def test_F4_steering_and_redrawing_are_exact(seed: int) -> None:
    """Drawing from p(v) (1 - h(x with v)), one token per step, has the law p(. | not F); so has redrawing."""
    law = Listed(tuple(t for t in TEXTS if t[0] == "a"), random_law(27, seed))  # a given prefix
    process, danger = MaskedDiffusion(law.codec.vocab_size), Danger(law, zz)
    everything = exact.all_sequences(process.vocab_size, LENGTH)
    at = law.places(everything)
    p = np.where(at >= 0, law.p[at], 0)
    harmless = np.where((at >= 0) & ~danger.forbidden[at], law.p[at], 0)
    harmless /= harmless.sum()
    for order in ("random", "left_to_right", "entropy"):
        steered = exact.unmask_law(process, Steered(exact.ListedDenoiser(law), danger), [1] * LENGTH, order)
        np.testing.assert_allclose(steered, harmless, atol=1e-12)
        free = exact.unmask_law(process, exact.ListedDenoiser(law), [1] * LENGTH, order)
        np.testing.assert_allclose(free, p, atol=1e-12)
        bad = (at >= 0) & danger.forbidden[at]
        redrawn = np.where(bad, 0, free) * (1 / (1 - free[bad].sum()))  # sum_n P(F)^n p(y)
        np.testing.assert_allclose(redrawn, harmless, atol=1e-12)
    at_once = exact.unmask_law(process, Steered(exact.ListedDenoiser(law), danger), [LENGTH])
    assert exact.total_variation(at_once, harmless) > 0.05  # in parallel it is not
    np.testing.assert_allclose(danger.harmless.p, harmless[harmless > 0][np.argsort(at[harmless > 0])], rtol=1e-12)
