"""Preferences through a bound, V1 to V7: what an estimated margin does, by listing its draws."""

import itertools
import math

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import MaskedDiffusion, Tensor, exact, no_grad
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.data import Preferences
from tinydiff.exact.preferences import Draws
from tinydiff.learning import preferences
from tinydiff.learning.preferences import Objective, dpo_loss, elbo

V, L = 2, 3
PROCESS = MaskedDiffusion(V)
MODEL, REFERENCE = random_model(V, L, seed=1), random_model(V, L, seed=2)
PAIR = Preferences(np.array([[0, 1, 1]]), np.array([[1, 0, 1]]))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def values_of(x0: Ints, seed: int = 1) -> tuple[Floats, Bools]:
    """Sums of log p over every set of masks, (2^L,), and the sets."""
    nll, masks = exact.masked_cross_entropy(MaskedDiffusion(V), random_model(V, len(x0), seed=seed), x0[None], 0.5)
    return -nll[0], masks


def one_draw(masks: Bools, values: Floats) -> list[tuple[float, int, float]]:
    """Every (k, S): its probability, k, and L / k times the sum over S."""
    size = masks.shape[1]
    return [
        (1 / size / math.comb(size, int(k)), int(k), size / k * value)
        for k, value in zip(masks.sum(axis=1), values, strict=True)
        if k
    ]


def variance(law: list[tuple[float, float]]) -> float:
    """Of a list of (probability, value)."""
    p, x = np.array(law).T
    np.testing.assert_allclose(p.sum(), 1, rtol=1e-12)
    return float(p @ x**2 - (p @ x) ** 2)


@pytest.mark.parametrize(("n_t", "n_y"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_V1_variance_of_the_estimate(n_t: int, n_y: int) -> None:
    """Var B^ = Var_t / n_t + E_t[Var_y] / (n_t n_y), against a list of every outcome; so n_y = 1 is best at one price.

    LLaDA 1.5 (Zhu et al. 2025), lemma 5 and proposition 1.
    """
    values, masks = values_of(np.array([0, 1]))
    draws = one_draw(masks, values)
    outcomes = []
    for counts in itertools.product((1, 2), repeat=n_t):
        sets = [[(p * 2, x) for p, k, x in draws if k == count] for count in counts]  # given the count
        for chosen in itertools.product(*(itertools.product(s, repeat=n_y) for s in sets)):
            flat = [draw for group in chosen for draw in group]
            outcomes.append((0.5**n_t * math.prod(p for p, _ in flat), sum(x for _, x in flat) / n_t / n_y))
    mean, of_times, of_masks = exact.spread(values, masks)
    formula = of_times / n_t + of_masks / n_t / n_y
    np.testing.assert_allclose(variance(outcomes), formula, rtol=1e-12)
    np.testing.assert_allclose(exact.estimate_moments(values, masks, Draws(n_t, n_y)), (mean, formula), rtol=1e-12)
    nelbo = exact.nelbo_by_count(PROCESS, random_model(V, 2, seed=1), np.array([[0, 1]]))
    np.testing.assert_allclose(mean, -nelbo[0], rtol=1e-12)
    one_each = exact.estimate_moments(values, masks, Draws(n_t * n_y, 1))[1]  # at the same price
    assert one_each < formula if n_y > 1 else one_each == formula


@pytest.mark.parametrize(
    "objective",
    [Objective(estimator="count", times=4), Objective(estimator="count", times=1, masks=4), Objective(times=6),
     Objective(times=2, masks=2), Objective(estimator="time", times=3), Objective(estimator="complementary", times=2)],
    ids=lambda o: f"{o.estimator}-{o.times}x{o.masks}",
)  # fmt: skip
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "apart"])
def test_V1_V2_what_is_drawn_has_these_moments(
    objective: Objective, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Monte Carlo: 4,000 margins have the mean and the variance of the list, within 4.5 standard errors, fixed seed.

    Times from 0.1 on: below, a variance is made of draws that hardly ever come (V6).
    """
    monkeypatch.setattr(preferences, "T_MIN", 0.1)
    objective = Objective(0.2, objective.times, objective.masks, objective.estimator, shared)
    many = Preferences(np.repeat(PAIR.chosen, 4000, axis=0), np.repeat(PAIR.rejected, 4000, axis=0))
    with no_grad():
        s = objective.margins(PROCESS, MODEL, REFERENCE, many, rng(3)).data
    draws = Draws(objective.times, objective.masks, objective.estimator, shared, 0.1)
    mean, var = exact.margin_moments(PROCESS, MODEL, REFERENCE, PAIR.chosen[0], PAIR.rejected[0], draws)
    off = (s - mean) ** 2
    assert abs(s.mean() - mean) < 4.5 * math.sqrt(var / len(s))
    assert abs(off.mean() - var) < 4.5 * off.std() / math.sqrt(len(s))


def test_V2_sharing_takes_twice_the_covariance_away() -> None:
    """Var(a - b) = Var a + Var b - 2 Cov(a, b), with the same mean: LLaDA 1.5, proposition 2."""
    total = 0.0
    for x0 in (PAIR.chosen[0], PAIR.rejected[0]):
        (ours, masks), (theirs, _) = values_of(x0, 1), values_of(x0, 2)
        p, a = np.array([(p, x) for p, _, x in one_draw(masks, ours)]).T
        b = np.array([x for _, _, x in one_draw(masks, theirs)])
        covariance = p @ (a * b) - (p @ a) * (p @ b)
        total += 2 * covariance
    moments = [
        exact.margin_moments(PROCESS, MODEL, REFERENCE, PAIR.chosen[0], PAIR.rejected[0], Draws(shared=shared))
        for shared in (True, False)
    ]
    np.testing.assert_allclose(moments[0][0], moments[1][0], rtol=1e-12)
    np.testing.assert_allclose(moments[1][1] - moments[0][1], total, rtol=1e-10)
    nelbo = [[exact.nelbo_by_count(PROCESS, m, x)[0] for x in (PAIR.chosen, PAIR.rejected)] for m in (MODEL, REFERENCE)]
    np.testing.assert_allclose(moments[0][0], nelbo[1][0] - nelbo[0][0] - nelbo[1][1] + nelbo[0][1], rtol=1e-12)


def test_V3_the_exact_loss_and_what_the_bound_adds() -> None:
    """s_B - s = -[(g(w) - g_ref(w)) - (g(l) - g_ref(l))], g = log p - B >= 0; and the gradient of -log sigma(beta s).

    Rafailov et al. 2023, eq. 7 and appendix A.4; Zhu et al. 2025, eq. 7. The gradient is against differences.
    """
    model, beta = random_model(V, L, seed=1), 0.3
    objective = Objective(beta, estimator="exact")

    every, given = exact.all_sequences(V, L), np.arange(L) == 1
    for known in (None, given):
        log_p = exact.any_order_log_p(PROCESS, model, every, known).data
        np.testing.assert_allclose(log_p, -exact.any_order_nll(PROCESS, model, every, known), rtol=1e-12)

    def nll(m: object, x0: Ints) -> float:
        return float(exact.any_order_nll(PROCESS, m, x0)[0])

    exact_margin = sum(
        sign * (nll(REFERENCE, x) - nll(model, x)) for sign, x in ((1, PAIR.chosen), (-1, PAIR.rejected))
    )
    loss, margins = objective.loss(PROCESS, model, REFERENCE, PAIR, rng())
    np.testing.assert_allclose(margins[0], exact_margin, rtol=1e-12)
    np.testing.assert_allclose(loss.item(), math.log1p(math.exp(-beta * exact_margin)), rtol=1e-12)
    of_bound, _ = exact.margin_moments(PROCESS, model, REFERENCE, PAIR.chosen[0], PAIR.rejected[0], Draws())
    gaps = [
        exact.nelbo_by_count(PROCESS, m, x)[0] - nll(m, x)
        for x in (PAIR.chosen, PAIR.rejected)
        for m in (model, REFERENCE)
    ]
    assert min(gaps) > 0
    np.testing.assert_allclose(of_bound - exact_margin, -(gaps[0] - gaps[1] - gaps[2] + gaps[3]), rtol=1e-9)

    loss.backward()
    weight = model.params["head.weight"]
    found, step = weight.grad, 1e-6
    assert found is not None
    pulled = {}
    for name, x in (("w", PAIR.chosen), ("l", PAIR.rejected)):
        for p in model.params.values():
            p.grad = None
        exact.any_order_log_p(PROCESS, model, x).sum().backward()
        assert weight.grad is not None
        pulled[name] = weight.grad
    sigma = 1 / (1 + math.exp(beta * exact_margin))
    np.testing.assert_allclose(found, -beta * sigma * (pulled["w"] - pulled["l"]), rtol=1e-9, atol=1e-14)
    for at in ((0, 0), (3, 1)):
        sides = []
        for shift in (step, -2 * step):
            weight.data[at] += shift
            sides.append(objective.loss(PROCESS, model, REFERENCE, PAIR, rng())[0].item())
        weight.data[at] += step
        np.testing.assert_allclose(found[at], (sides[0] - sides[1]) / 2 / step, rtol=1e-5)


@pytest.mark.parametrize("estimator", ["count", "stratified", "time", "complementary", "exact"])
def test_V4_at_the_reference_the_loss_is_log_2(estimator: str) -> None:
    """theta = reference, shared draws: s^ = 0, loss = log 2 to the bit, gradient -beta/2 (grad B_w - grad B_l)."""
    model, beta = random_model(V, L, seed=1), 0.7
    objective = Objective(beta, 3, estimator=estimator)
    loss, margins = objective.loss(PROCESS, model, random_model(V, L, seed=1), PAIR, rng(5))
    assert margins.tolist() == [0.0]
    assert loss.item() == math.log(2)
    loss.backward()
    found = {name: p.grad for name, p in model.params.items()}
    again, other = rng(5), random_model(V, L, seed=1)
    if estimator == "exact":
        bounds = [exact.any_order_log_p(PROCESS, other, x) for x in (PAIR.chosen, PAIR.rejected)]
    else:
        bounds = [elbo(PROCESS, other, x, *objective.draws(PAIR.free, again)) for x in (PAIR.chosen, PAIR.rejected)]
    (bounds[0] - bounds[1]).sum().backward()
    for name, p in other.params.items():
        assert p.grad is not None
        np.testing.assert_allclose(found[name], -beta / 2 * p.grad, rtol=1e-9, atol=1e-14)
    if estimator != "exact":
        apart = Objective(beta, 3, estimator=estimator, shared=False)
        assert abs(apart.margins(PROCESS, model, random_model(V, L, seed=1), PAIR, rng(5)).data[0]) > 1e-6


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("shared", [True, False])
def test_V5_the_loss_of_a_noisy_margin(beta: float, shared: bool) -> None:
    """Var[loss] <= Var[margin] and 0 <= E[loss] - loss <= min(V / 8, sqrt(V) / 2), V that of beta s^; by listing.

    -log sigma falls with a slope of at most 1 and a curvature of at most 1/4.
    """
    sides = []
    for sign, x0 in ((1, PAIR.chosen[0]), (-1, PAIR.rejected[0])):
        (ours, masks), (theirs, _) = values_of(x0, 1), values_of(x0, 2)
        a, b = one_draw(masks, ours), one_draw(masks, theirs)
        if shared:
            sides.append([(p, sign * beta * (x - y)) for (p, _, x), (_, _, y) in zip(a, b, strict=True)])
        else:
            sides.append([(p * q, sign * beta * (x - y)) for (p, _, x), (q, _, y) in itertools.product(a, b)])
    law = [(p * q, x + y) for (p, x), (q, y) in itertools.product(*sides)]
    p, s = np.array(law).T
    losses = dpo_loss(Tensor(s), 1.0).data
    np.testing.assert_allclose(losses, np.logaddexp(0, -s), rtol=1e-12, atol=1e-14)
    mean, v = p @ s, variance(law)
    bias = p @ losses - np.logaddexp(0, -mean)
    assert 1e-6 < bias <= min(v / 8, math.sqrt(v) / 2)
    assert 0 < p @ losses**2 - (p @ losses) ** 2 <= v


def test_V6_one_drawn_time_has_no_second_moment() -> None:
    """Constant loss c, one t uniform above eps: Var = c^2 L (log(1/eps) / (1 - eps) - 1), infinite at 0; counts have 0.

    Each count once, n = L, leaves the variance of the masks alone.
    """
    c, length = math.log(3), 4
    masks = exact.all_masks(length)
    constant = -c * masks.sum(axis=1)
    found = []
    for eps in (0.3, 1e-2, 1e-3, 1e-6):
        mean, of_times, of_masks = exact.spread(constant, masks, "time", eps)
        np.testing.assert_allclose(mean, -c * length, rtol=1e-10)
        found.append(of_times + of_masks)
        np.testing.assert_allclose(found[-1], c**2 * length * (math.log(1 / eps) / (1 - eps) - 1), rtol=1e-8)
    assert found == sorted(found)
    for estimator in ("count", "stratified"):
        np.testing.assert_allclose(exact.estimate_moments(constant, masks, Draws(3, 1, estimator))[1], 0, atol=1e-12)
    values, masks = values_of(np.array([0, 1, 1]))
    _, _, of_masks = exact.spread(values, masks)
    np.testing.assert_allclose(exact.estimate_moments(values, masks, Draws(3, 1, "stratified"))[1], of_masks / 3)


@pytest.mark.parametrize("length", [2, 3, 4])
def test_V7_complementary_masks_can_be_unbiased(length: int) -> None:
    """E[(L - 1) / 2 (ce(M) / k + ce(~M) / (L - k))] + ce(all) / L = NELBO, k uniform on 1 .. L - 1.

    Coupled sampling (DiffuCoder, Gong et al. 2025) with weights that make it so. The library's draws are listed by
    their weights: all sets of a size are equally likely.
    """
    x0 = rng(length).integers(0, V, length)
    model = random_model(V, length, seed=1)
    values, masks = values_of(x0)
    nelbo = exact.nelbo_by_count(PROCESS, model, x0[None])[0]
    ce = {tuple(m): -v for m, v in zip(masks.tolist(), values, strict=True)}
    total = 0.0
    for m in itertools.product((False, True), repeat=length):
        if 0 < (k := sum(m)) < length:
            both = ce[m] / k + ce[tuple(not i for i in m)] / (length - k)
            total += (length - 1) / 2 * both / (length - 1) / math.comb(length, k)
    np.testing.assert_allclose(total + ce[(True,) * length] / length, nelbo, rtol=1e-12)
    np.testing.assert_allclose(exact.estimate_moments(values, masks, Draws(1, 1, "complementary"))[0], -nelbo)
    hidden, weight = Objective(times=400, estimator="complementary").draws(np.ones((1, length), bool), rng())
    found = elbo(PROCESS, model, x0[None], hidden, weight).data[0]
    _, var = exact.estimate_moments(values, masks, Draws(400, 1, "complementary"))
    assert abs(found + nelbo) < 4.5 * math.sqrt(var) + 1e-12
