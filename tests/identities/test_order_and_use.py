"""Order and use of context, Q1 to Q3; names and their masks, Y1 and Y2."""

import itertools
import math

import numpy as np
import pytest

from tests.identities.conftest import random_law, random_model
from tinydiff import MaskedDiffusion, decoders, exact
from tinydiff.data import laws
from tinydiff.data.laws import Listed
from tinydiff.measures import order
from tinydiff.processes import SuffixMasks


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("length", "k"), [(3, 1), (4, 1), (5, 1), (4, 2), (5, 2), (5, 3), (4, 4)])
def test_Q1_ar_ness_of_a_random_order(length: int, k: int) -> None:
    """global@k = (k / L)(1 + H_L - H_k); local@k = (L - k)^2 k! (L - k - 1)! / (L! L), for k = 1 (L - 1) / L^2.

    Over all L! orders; DiffuCoder (Gong et al. 2025), appendix A.2, with sets.
    """
    orders = np.array(list(itertools.permutations(range(length))))
    local, far = order.ar_ness(orders, k)
    zero = order.random_ar_ness(length, k)
    np.testing.assert_allclose((local.mean(), far.mean()), zero, rtol=1e-12, atol=1e-15)
    harmonic = [sum(1 / i for i in range(1, n + 1)) for n in (length, k)]
    np.testing.assert_allclose(zero[1], k / length * (1 + harmonic[0] - harmonic[1]), rtol=1e-12)
    if k == 1:
        np.testing.assert_allclose(zero[0], (length - 1) / length**2, rtol=1e-12)
    elif k < length:
        ways = math.factorial(k) * math.factorial(length - k - 1)
        np.testing.assert_allclose(zero[0], (length - k) ** 2 * ways / math.factorial(length) / length, rtol=1e-12)
    local, far = order.ar_ness(np.arange(length)[None], k)  # from left to right
    np.testing.assert_allclose((local[0], far[0]), ((length - k) / length, 1), rtol=1e-12)


def test_Q1_of_decoders() -> None:
    """Left to right has 1 - 1/L and 1; random order is at the zero line, 4.5 standard errors, fixed seed."""
    process, model = MaskedDiffusion(2), random_model(2, 5)
    for decoder, wanted in ((decoders.LeftToRight(), (0.8, 1.0)), (decoders.Random(), order.random_ar_ness(5))):
        frames = process.sample(model, 5, 2000, decoder=decoder, rng=rng(3))
        for found, mean in zip(order.ar_ness(order.commit_order(frames)), wanted, strict=True):
            assert abs(found.mean() - mean) <= 4.5 * found.std() / math.sqrt(2000) + 1e-12


def test_Q2_what_the_right_is_worth() -> None:
    """Bayes conditionals gain I(X_i; X_right | X_left) from the right: .3412 nats inside `chain`, 0 at the last."""
    law = laws.chain(4)
    texts = exact.all_sequences(6, 4)
    with np.errstate(divide="ignore"):
        p = np.exp(law.log_p(texts))
    process, bayes = MaskedDiffusion(6), exact.BayesDenoiser(p / p.sum(), 6, 4)
    gain = p[p > 0] @ order.right_gain(process, bayes, texts[p > 0])
    joint = np.einsum("a,ab,bc->abc", law.start, law.matrix, law.matrix)  # the start is stationary

    def entropy(q: np.ndarray) -> float:
        return float(-(q[q > 0] * np.log(q[q > 0])).sum())

    inside = entropy(joint.sum(axis=2)) + entropy(joint.sum(axis=1)) - entropy(joint) - entropy(law.start)
    np.testing.assert_allclose(gain[1:3], inside, rtol=1e-10)
    assert round(inside, 4) == 0.3412
    np.testing.assert_allclose(gain[3], 0, atol=1e-12)
    np.testing.assert_allclose(gain[0], 2 * entropy(law.start) - entropy(joint.sum(axis=2)), rtol=1e-10)
    # sum_i I(X_i; X_right | X_left) = H(X) - sum_i H(X_i | X_others), with every text in its share
    shares = np.repeat(texts, np.round(p * 6000).astype(int), axis=0)
    total, _ = order.gain_of_law(law, shares)
    assert len(shares) == 6000  # probabilities are multiples of 1 / 6000
    np.testing.assert_allclose(total, gain.sum(), rtol=1e-10)


@pytest.mark.parametrize("seed", range(3))
def test_Q2_for_any_law(seed: int) -> None:
    """The same for a random law over {0, 1}^4: position by position by entropies of the marginals."""
    p = random_law(16, seed)
    texts = exact.all_sequences(2, 4)
    gain = p @ order.right_gain(MaskedDiffusion(2), exact.BayesDenoiser(p, 2, 4), texts)

    def entropy(*places: int) -> float:
        q = p.reshape(2, 2, 2, 2).sum(axis=tuple(set(range(4)) - set(places)))
        return float(-(q * np.log(q)).sum())

    for i in range(4):
        left, rest = [*range(i)], [j for j in range(4) if j != i]
        of_left = entropy(*left, i) - (entropy(*left) if left else 0)
        np.testing.assert_allclose(gain[i], of_left - (entropy(0, 1, 2, 3) - entropy(*rest)), rtol=1e-9, atol=1e-12)


def test_Q3_suffix_masks_are_left_to_right() -> None:
    """E_k[L (-log p(x^i | left, MASK ..))], i = L - k + 1, k uniform, is -log p of decoding from left to right.

    And of the loss with all masks of a suffix nothing looks to the right: the bound of each state is that of its left.
    """
    v, length = 2, 4
    process, model = MaskedDiffusion(v), random_model(v, length, seed=1)
    texts = exact.all_sequences(v, length)
    nll = np.zeros(len(texts))
    for k in range(1, length + 1):
        state = np.where(np.arange(length) >= length - k, v, texts)
        p = exact.token_probabilities(model, state, 0.5)[np.arange(len(texts)), length - k, texts[:, length - k]]
        nll += 1 / length * length * -np.log(p)
    np.testing.assert_allclose(order.left_to_right_nll(process, model, texts), nll, rtol=1e-12)
    law = exact.unmask_law(process, model, [1] * length, "left_to_right")
    np.testing.assert_allclose(np.exp(-nll), law, rtol=1e-10)

    seen = []

    class Spy:
        vocab_size = v

        def __call__(self, x: np.ndarray, t: object = None, **options: object) -> object:
            seen.append(x)
            return model(x, **options)

    SuffixMasks(v).loss(Spy(), texts, rng())
    masked = seen[0] == v
    assert (masked[:, 1:] >= masked[:, :-1]).all()
    assert set(masked.sum(axis=1)) == {1, 2, 3, 4}
    SuffixMasks(v, 0.0).loss(Spy(), texts, rng())
    assert (seen[1][:, :-1] == v)[(seen[1][:, 1:] != v)].any()


def test_Q3_the_loss_is_the_bound_over_suffixes() -> None:
    """Its mean over texts and counts, times L, is sum_k 1/k of the cross-entropies of the last k: every k once."""
    v, length = 2, 4
    process, model = SuffixMasks(v), random_model(v, length, seed=1)
    x0 = np.array([[0, 1, 1, 0]] * 4)  # stratified counts: each of 1 .. 4 once
    nll, masks = exact.masked_cross_entropy(process, model, x0[:1], 0.5)
    suffixes = [(np.arange(length) >= length - k) for k in range(1, length + 1)]
    wanted = sum(nll[0][(masks == s).all(axis=1)][0] / s.sum() for s in suffixes)
    np.testing.assert_allclose(process.loss(model, x0, rng()).item() * length, wanted, rtol=1e-12)


@pytest.mark.parametrize(("m", "others"), [(1, 0), (2, 3), (4, 4)])
def test_Y1_a_name_is_hidden_as_a_whole(m: int, others: int) -> None:
    """All m tokens masked: r^m at a fixed rate, 1 / (m + 1) at a uniform one; by all masks, and by counts.

    With d others all visible: r^m (1 - r)^d against m! d! / (m + d + 1)!. Kitouni et al. 2024 explain by it why BERT
    does not invert facts.
    """
    masks = exact.all_masks(m + others)
    whole = masks[:, :m].all(axis=1)
    alone = whole & ~masks[:, m:].any(axis=1)
    for rate in (0.15, 0.5):
        q = exact.masks_probability(masks, 1 - rate)
        np.testing.assert_allclose((q @ whole, q @ alone), (rate**m, rate**m * (1 - rate) ** others), rtol=1e-12)
    points, weights = np.polynomial.legendre.leggauss(20)
    q = sum(w / 2 * exact.masks_probability(masks, 1 - (u + 1) / 2) for u, w in zip(points, weights, strict=True))
    of_alone = math.factorial(m) * math.factorial(others) / math.factorial(m + others + 1)
    np.testing.assert_allclose((q @ whole, q @ alone), (1 / (m + 1), of_alone), rtol=1e-12)
    # Counts uniform on 1 .. L, as in training, condition on that something is masked: L / (L + 1) of the above.
    size = m + others
    k = masks.sum(axis=1)
    by_count = np.array([0 if i == 0 else 1 / size / math.comb(size, int(i)) for i in k])
    np.testing.assert_allclose(by_count @ alone, of_alone * (size + 1) / size, rtol=1e-12)


def test_Y2_scoring_inverts_any_relation() -> None:
    """argmax_a p(a) p(b | a) is the name of b, whatever order the model writes in: p(a | b) is proportional to it.

    The factors of the true left-to-right model of 'name=description' are handed over, and no other conditional.
    """
    names, descriptions = ["ab", "ba", "aa", "bb"], ["xy", "yx", "yy", "xx"]
    joint = rng(3).dirichlet(np.ones(16) / 3).reshape(4, 4)
    law = Listed(tuple(f"{a}={b}" for a in names for b in descriptions), joint.reshape(-1))
    model, v = exact.ListedNextWord(law), law.codec.vocab_size
    start = np.full((16, 1), v)
    p = exact.token_probabilities(model, np.concatenate([start, law.ids[:, :-1]], axis=1), 0.5)
    log_p = np.log(np.take_along_axis(p, law.ids[..., None], axis=2))[..., 0].sum(axis=1).reshape(4, 4)
    posterior = np.exp(log_p) / np.exp(log_p).sum(axis=0)
    np.testing.assert_allclose(posterior, joint / joint.sum(axis=0), rtol=1e-10)
    assert (log_p.argmax(axis=0) == joint.argmax(axis=0)).all()
