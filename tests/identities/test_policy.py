"""Policy gradients, V8 to V10: what stands in for log p, against the gradient by enumeration."""

import itertools
import math

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import MaskedDiffusion, Tensor, Transformer, exact
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.exact import policy
from tinydiff.exact.policy import stand_in

V, L = 2, 3
PROCESS = MaskedDiffusion(V)
TEXTS = exact.all_sequences(V, L)
REWARD = np.random.default_rng(0).standard_normal(len(TEXTS))


def gradient(model: Transformer, log_p: Tensor, weight: Floats) -> Floats:
    """Of sum_y weight(y) log p(y), over all parameters."""
    (log_p * weight).sum().backward()
    grads = [p.grad for p in model.params.values()]
    found = np.concatenate([np.zeros(0) if g is None else g.ravel() for g in grads])
    for p in model.params.values():
        p.grad = None
    return found


def advantage(model: Transformer) -> Floats:
    """p(y) (r(y) - J)."""
    p = np.exp(-exact.any_order_nll(PROCESS, model, TEXTS))
    return np.asarray(p * (REWARD - p @ REWARD))


def sets_of(model: Transformer, x0: Ints) -> tuple[Floats, Bools]:
    """Cross-entropies of every set of masks, (n, 2^L), and the sets."""
    return exact.masked_cross_entropy(PROCESS, model, x0, 0.5)


def test_V8_the_way_a_text_was_written_has_the_exact_gradient() -> None:
    """grad J = E[r sum_t grad log p(y_t | y_<t)] along the orders in which texts came about, one token per step.

    TraceRL (Wang et al. 2025), eq. 3 without clipping. Along orders that are drawn anew it is the ELBO's gradient. By
    listing all orders; grad J against differences.
    """
    model = random_model(V, L, seed=1)
    p = exact.true_probabilities(PROCESS, model, TEXTS, exact.all_masks(L), 0.5)  # (n, 2^L, L)
    orders = list(itertools.permutations(range(L)))
    chance = np.ones((len(TEXTS), len(orders)))
    passes = np.zeros((len(orders), 2**L, L), bool)
    for j, order in enumerate(orders):
        state = 2**L - 1
        for i in order:
            chance[:, j] *= p[:, state, i]
            passes[j, state, i] = True
            state -= 1 << (L - 1 - i)
    posterior = chance / chance.sum(axis=1, keepdims=True)
    masks = exact.all_masks(L)

    def along(weights: Floats) -> Floats:
        """The gradient of sum_y advantage sum_order weight log p(y | order)."""
        edges = np.einsum("nj,jsi->nsi", weights, passes)  # (n, 2^L, L)
        total = policy.masked_log_p(PROCESS, model, TEXTS, masks) * edges
        return gradient(model, total.sum(axis=(1, 2)), advantage(model))

    true = gradient(model, exact.any_order_log_p(PROCESS, model, TEXTS), advantage(model))
    np.testing.assert_allclose(along(posterior), true, rtol=1e-9, atol=1e-14)
    found = gradient(model, stand_in("trace", PROCESS, model, TEXTS), advantage(model))
    np.testing.assert_allclose(found, true, rtol=1e-9, atol=1e-14)
    anew = along(np.full_like(chance, 1 / len(orders)))
    elbo = gradient(model, stand_in("elbo", PROCESS, model, TEXTS), advantage(model))
    np.testing.assert_allclose(anew, elbo, rtol=1e-9, atol=1e-14)
    assert np.linalg.norm(elbo - true) > 1e-3 * np.linalg.norm(true)

    weight, step, at = model.params["head.weight"], 1e-6, (3, 1)
    start = sum(w.data.size for name, w in itertools.takewhile(lambda x: x[0] != "head.weight", model.params.items()))
    sides = []
    for shift in (step, -2 * step):
        weight.data[at] += shift
        sides.append(float(np.exp(-exact.any_order_nll(PROCESS, model, TEXTS)) @ REWARD))
    np.testing.assert_allclose(true[start + 3 * weight.shape[1] + 1], (sides[0] - sides[1]) / 2 / step, rtol=1e-5)


@pytest.mark.parametrize("length", [2, 3])
def test_V9_the_sandwich_holds_from_beta_L_on(length: int) -> None:
    """ELBO <= log p <= EUBO_beta for beta >= L, and not for beta = 1 (SPG, Wang et al. 2025).

    sum_i (1/b) log E_{M with i}[p(x^i | rest)^b], by listing. Tight where the conditionals say one thing.
    """
    texts = exact.all_sequences(V, length)
    process, broken = MaskedDiffusion(V), 0
    for seed in range(20):
        model = random_model(V, length, seed=seed)
        model.params["head.weight"].data *= 20  # sure, and incoherent
        log_p = -exact.any_order_nll(process, model, texts)
        upper = {b: exact.eubo(process, model, texts, b).data for b in (1.0, length, length + 1.0)}
        elbo = stand_in("elbo", process, model, texts).data
        np.testing.assert_allclose(elbo, -exact.nelbo_by_count(process, model, texts), rtol=1e-9, atol=1e-12)
        assert (elbo <= log_p + 1e-9).all()
        assert (log_p <= upper[length] + 1e-9).all()
        assert (upper[length] <= upper[length + 1.0] + 1e-9).all()
        broken += int((log_p > upper[1.0] + 1e-9).sum())
        by_hand = np.zeros(len(texts))
        p = exact.true_probabilities(process, model, texts, exact.all_masks(length), 0.5)
        for i in range(length):
            mean = 0.0
            for state, hidden in enumerate(exact.all_masks(length)):
                if hidden[i]:
                    mean = mean + p[:, state, i] ** length / length / math.comb(length - 1, int(hidden.sum()) - 1)
            by_hand += np.log(mean) / length
        np.testing.assert_allclose(upper[length], by_hand, rtol=1e-9, atol=1e-12)
    assert broken > 0
    better = np.arange(len(texts)) % 2 == 0
    mixed = stand_in("sandwich", process, model, texts, better=better, beta=length).data
    np.testing.assert_allclose(mixed, np.where(better, elbo, upper[length]), rtol=1e-12)  # products of other shapes


def test_V9_at_beta_1_the_upper_bound_can_be_below_log_p() -> None:
    """L = 2: p(y1 | y2) = 1, p(y1 | nothing) = 0, p(y2 | y1) = 0, p(y2 | nothing) = 1. log p = log 1/2 > log 1/4.

    With 1e-9 in place of the zeros. SPG drops a constant that would be infinite.
    """
    e = 1e-9

    def model(x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        first = np.where(x[:, 1] == V, e, 1 - e)  # P(1) at the first place
        second = np.where(x[:, 0] == V, 1 - e, e)
        p = np.stack([first, second], axis=1)[..., None]
        return Tensor(np.log(np.concatenate([1 - p, p], axis=2)))

    text = np.array([[1, 1]])
    np.testing.assert_allclose(exact.any_order_log_p(PROCESS, model, text).data, math.log(0.5), atol=1e-6)
    np.testing.assert_allclose(exact.eubo(PROCESS, model, text, 1.0).data, math.log(0.25), atol=1e-6)
    np.testing.assert_allclose(exact.eubo(PROCESS, model, text, 2.0).data, math.log(0.5), atol=1e-6)


def test_V10_a_mean_over_masked_tokens_is_the_bound_over_L() -> None:
    """E_k[ce / k] = NELBO / L: UniGRPO (Yang et al. 2025) has the ELBO's direction, and its ratio to the power 1/L."""
    model = random_model(V, L, seed=3)
    ce, masks = sets_of(model, TEXTS)
    k = masks.sum(axis=1)
    mean = sum(ce[:, k == i].mean(axis=1) / i for i in range(1, L + 1)) / L
    nelbo = exact.nelbo_by_count(PROCESS, model, TEXTS)
    np.testing.assert_allclose(mean, nelbo / L, rtol=1e-12)
    np.testing.assert_allclose(stand_in("mean", PROCESS, model, TEXTS).data, -nelbo / L, rtol=1e-9)
    np.testing.assert_allclose(stand_in("one look", PROCESS, model, TEXTS).data, -ce[:, -1], rtol=1e-9)
    np.testing.assert_allclose(stand_in("coupled, unbiased", PROCESS, model, TEXTS).data, -nelbo, rtol=1e-9)
    pairs = np.zeros(len(TEXTS))  # as published: every set and its complement
    for state in range(1, 2**L - 1):
        both = L / k[state] * ce[:, state] + L / (L - k[state]) * ce[:, 2**L - 1 - state]
        pairs += (both + ce[:, -1]) / 2 / (L - 1) / math.comb(L, int(k[state]))
    np.testing.assert_allclose(stand_in("coupled", PROCESS, model, TEXTS).data, -pairs, rtol=1e-9)


def test_bad_input_says_what_is_wrong() -> None:
    model = random_model(V, L)
    with pytest.raises(ValueError, match="better has shape"):
        stand_in("sandwich", PROCESS, model, TEXTS)
    with pytest.raises(ValueError, match="beta is 0"):
        exact.eubo(PROCESS, model, TEXTS, 0.0)
    unknown: object = "reward"
    with pytest.raises(ValueError, match="kind is 'reward'; expected one of log p, elbo"):
        stand_in(unknown, PROCESS, model, TEXTS)
