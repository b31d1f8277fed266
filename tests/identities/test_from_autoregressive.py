"""From an autoregressive network to a denoiser: what is kept, and what stays a bound."""

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import CART, D3PM, Autoregressive, MaskedDiffusion, Options, Run, data, exact, train
from tinydiff.learning.from_autoregressive import Shifted, annealed, in_blocks, shifted_from

V, L = 3, 4


def shifted(seed: int = 0) -> Shifted:
    return Shifted(random_model(V, L + 1, seed=seed))


def test_R1_the_shifted_reading_is_the_autoregressive_model() -> None:
    """p(x^i | x_t) = p_AR(x^i | x^{<i}) wherever the left is visible, whatever is hidden after it (Gong et al. 2025).

    Read without the shift, the same weights say something else.
    """
    model, x = shifted(), exact.all_sequences(V, L)
    start = np.concatenate([np.full((len(x), 1), V), x[:, :-1]], axis=1)
    left = model.network(start, causal=True).data  # (V^L, L, V)
    model.causal = 1
    off = 0.0
    for i in range(L):
        for masks in exact.all_masks(L):
            if masks[i] and not masks[:i].any():
                xt = np.where(masks, V, x)
                np.testing.assert_allclose(model(xt).data[:, i], left[:, i], rtol=1e-12, atol=1e-12)
                off = max(off, np.abs(model.network(xt, causal=True).data[:, i] - left[:, i]).max())
    assert off > 0.1


def test_R1_left_to_right_its_nll_is_the_autoregressive_one() -> None:
    """- sum_i log p(x^i | x^{<i}, MASK ..) = -log p_AR(x), and so the law of unmasking left to right is that of AR."""
    model, x, rng = shifted(), exact.all_sequences(V, L), np.random.default_rng(0)
    model.causal = 1
    nll = Autoregressive(V).bound(model.network, x, rng)
    law = exact.unmask_law(MaskedDiffusion(V), model, [1] * L, "left_to_right")
    np.testing.assert_allclose(-np.log(law), nll, rtol=1e-10)


def test_R1_select_asks_one_place_before() -> None:
    """The (n, V) answers of `select` are those of (B, L, V), and shorter windows are cut from the mask."""
    model, rng = shifted(), np.random.default_rng(0)
    x, where = rng.integers(0, V + 1, (5, L)), rng.random((5, L)) < 0.5
    model.mask = annealed(L, 0.5, rng)
    np.testing.assert_allclose(model(x, select=where).data, model(x).data[where], rtol=1e-12)
    assert model(x[:, :2]).shape == (5, 2, V)


def test_R1_time_and_opening_reach_the_network() -> None:
    """A network that is told the time is told it, and `causal` of a call opens what the reading leaves closed."""
    model, x = Shifted(random_model(V, L + 1, time=True)), exact.all_sequences(V, L)
    assert model.time
    read = np.concatenate([np.full((len(x), 1), V), x], axis=1)
    early, late = (np.full(len(x), t) for t in (0.1, 0.9))
    np.testing.assert_allclose(model(x, late).data, model.network(read, late).data[:, :-1], rtol=1e-12)
    assert np.abs(model(x, late).data - model(x, early).data).max() > 1e-3
    closed = model(x, late, causal=1).data
    np.testing.assert_allclose(closed, model.network(read, late, causal=1).data[:, :-1], rtol=1e-12)
    assert np.abs(closed - model(x, late).data).max() > 1e-3


def openings() -> list[tuple[str, Shifted]]:
    """Attention at once, causal, by chance, by blocks of two, and one that lets nobody see anything but himself."""
    rng, models = np.random.default_rng(1), []
    for name, causal, mask in (
        ("all", 0, None), ("causal", 1, None), ("annealed", 0, annealed(L, 0.4, rng)), ("blocks", 2, None),
        ("alone", 0, np.eye(L + 1, dtype=bool)),
    ):  # fmt: skip
        model = shifted()
        model.causal, model.mask = causal, mask
        models.append((name, model))
    return models


@pytest.mark.parametrize(("name", "model"), openings())
def test_R2_whatever_the_attention_the_bound_is_one(name: str, model: Shifted) -> None:
    """NELBO >= -log p and sum p = 1: targets are MASK in what is read, so that no attention lets them through."""
    check = exact.check_elbo(MaskedDiffusion(V), model, L)
    np.testing.assert_allclose(np.exp(-check.nll).sum(), 1, rtol=1e-10)


def test_R2_openings_end_open() -> None:
    """Shares grow to all: masks are causal at 0 and none at 1; blocks double from 1 and end as none."""
    rng = np.random.default_rng(0)
    closed = annealed(L, 0.0, rng)
    assert closed is not None
    assert (closed == np.tri(L + 1, dtype=bool)).all()
    assert annealed(L, 1.0, rng) is None
    half = np.mean([annealed(20, 0.3, rng)[np.triu_indices(21, 1)] for _ in range(50)])
    assert abs(half - 0.3) < 4.5 * np.sqrt(0.21 / (50 * 210))
    blocks = [in_blocks(L, share) for share in np.linspace(0, 1, 13)]
    assert blocks[0] == 1
    assert blocks[-1] == 0
    assert sorted(set(blocks[:-1])) == [1, 2, 4]
    assert blocks[:-1] == sorted(blocks[:-1])


def test_R3_cart_is_no_bound() -> None:
    """w_i = 1/2 sum over visible j of p (1-p)^(|i-j|-1): written out; 0 where all is MASK, where 1/t has weight 1.

    Mean weight of a masked position, L = 5, by number of masks, against 1/t's L/k. And the expected loss is below
    -log p: of a model that is sure of nothing but wrong at the first look, enumerated.
    """
    process, masks, p = CART(V), exact.all_masks(5), 0.3
    weights = process.weights(masks)
    for row, hidden in zip(weights, masks, strict=True):
        for i in range(5):
            near = sum(p * (1 - p) ** (abs(i - j) - 1) for j in range(5) if j != i and not hidden[j])
            np.testing.assert_allclose(row[i], near / 2 if hidden[i] else 0, rtol=1e-12)
    assert not process.weights(np.ones((1, 5), bool)).any()
    means = [weights[masks.sum(axis=1) == k].sum() / masks[masks.sum(axis=1) == k].sum() for k in range(1, 6)]
    np.testing.assert_allclose(means, [0.445, 0.334, 0.223, 0.111, 0], atol=6e-4)
    model, x0 = random_model(V, L), exact.all_sequences(V, L)
    hidden = exact.all_masks(L)
    nll = -np.log(exact.true_probabilities(process, model, x0, hidden, 0.5))  # (n, 2^L, L)
    t, w = np.polynomial.legendre.leggauss(32)
    q = sum(wi / 2 * exact.masks_probability(hidden, 1 - (ti + 1) / 2) for ti, wi in zip(t, w, strict=True))
    expected = (nll * process.weights(hidden)).sum(axis=-1) @ q
    assert (expected < exact.any_order_nll(process, model, x0)).all()
    drawn = [process.loss(model, np.tile(x0[5], (4000, 1)), np.random.default_rng(s)).item() * L for s in range(4)]
    assert abs(np.mean(drawn) - expected[5]) < 4.5 * np.std(drawn, ddof=1) / 2 + 2e-3 * expected[5]
    bounds = process.bound(model, np.tile(x0[5], (4000, 1)), np.random.default_rng(0))
    assert abs(bounds.mean() - exact.nelbo(process, model, x0[5:6])[0]) < 4.5 * bounds.std() / np.sqrt(4000)


def test_a_run_trains_the_weights_of_the_network() -> None:
    """In memory, with Muon, and the mask as it is set between steps; no copy is trained instead."""
    corpus = data.Corpus("abc", "abcab " * 60, data.Characters.of("abcab "))
    network = random_model(4, 9)
    network.dtype = np.dtype(np.float64)
    model = shifted_from(network, Autoregressive(4), 4, 8)
    before = network.params["block0.up.weight"].data.copy()
    run = Run(corpus, MaskedDiffusion(4), model, Options(steps=3, batch=4, optimiser="muon", evaluate_windows=64))
    for frame in train(run):
        model.causal = in_blocks(8, frame.step / 3)
    assert (network.params["block0.up.weight"].data != before).any()
    assert run.averaged().network is not network


@pytest.mark.parametrize("case", ["process", "alphabet", "length", "short", "folder"])
def test_runs_that_do_not_fit(case: str, tmp_path) -> None:
    """Another process, alphabet or length; what has no START; a folder, where only a Transformer can be written."""
    network, left = random_model(V, L + 1), Autoregressive(V)
    if case == "process":
        with pytest.raises(ValueError, match="process is D3PM; expected Autoregressive"):
            shifted_from(network, D3PM(V, "absorbing", steps=2), V, L)
    elif case == "alphabet":
        with pytest.raises(ValueError, match=f"network has {V} tokens and the data {V + 1}"):
            shifted_from(network, left, V + 1, L)
    elif case == "length":
        with pytest.raises(ValueError, match="train the autoregressive one with length=6, or use windows of 4"):
            shifted_from(network, left, V, L + 1)
    elif case == "short":
        with pytest.raises(ValueError, match="network has length 1"):
            Shifted(random_model(V, 1))
    elif case == "folder":
        corpus = data.Corpus("abc", "abcab " * 60, data.Characters.of("abcab "))
        with pytest.raises(ValueError, match="only a Transformer can be written"):
            Run(corpus, MaskedDiffusion(4), Shifted(random_model(4, 9)), Options(steps=1), tmp_path)
