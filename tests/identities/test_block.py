"""Block diffusion, B1 to B6 and K7: one pass equals the loop, the bound and the likelihood are those of the blocks."""

import itertools
import math
from typing import Any

import numpy as np
import pytest

from tests.identities.conftest import random_law, random_model
from tests.identities.test_sampling import assert_drawn_from
from tinydiff import Autoregressive, BlockDiffusion, MaskedDiffusion, Tensor, Transformer, decoders, exact
from tinydiff.arrays import Floats, Ints
from tinydiff.data import Batch
from tinydiff.decoders.blocks import Reader
from tinydiff.processes import block as blocks
from tinydiff.tensor import no_grad

V, L = 3, 4
SEQUENCES = exact.all_sequences(V, L)


def model_of(length: int = L, vocab_size: int = V) -> Transformer:
    """A random network that knows places, so that positions which are wrong are seen."""
    model = random_model(vocab_size, length, layers=2)
    model.params["position"].data[...] = np.random.default_rng(5).standard_normal((length, model.d_model))
    return model


def left_to_right_nll(model: Transformer, x0: Ints) -> Floats:
    """-sum_i log p(x^i | x^{<i}) with MASK at i and nothing after it."""
    total = np.zeros(len(x0))
    for i in range(x0.shape[1]):
        state = np.concatenate([x0[:, :i], np.full((len(x0), 1), V)], axis=1)
        logits = model(state, causal=1).data[:, -1]
        total -= (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))[np.arange(len(x0)), x0[:, i]]
    return total


def test_B1_blocks_of_one_token_are_autoregression() -> None:
    """NELBO_1(x) = -sum_i log p(x^i | x^{<i}), as int_0^1 (1 / t) t dt = 1 (Arriola et al. 2025, section 3).

    Bound, exact likelihood, every draw of `bound`, and the loss where everything is masked.
    """
    process, model, rng = BlockDiffusion(V, 1), model_of(), np.random.default_rng(0)
    nll = left_to_right_nll(model, SEQUENCES)
    for found in (exact.block_nelbo(process, model, SEQUENCES), exact.block_nll(process, model, SEQUENCES),
                  process.bound(model, SEQUENCES, rng)):  # fmt: skip
        np.testing.assert_allclose(found, nll, rtol=1e-12)
    all_masked = BlockDiffusion(V, 1, clip=(1, 1))
    assert L * all_masked.loss(model, SEQUENCES, rng).item() == pytest.approx(nll.mean(), rel=1e-12)
    counted = BlockDiffusion(V, 1, estimator="count")
    assert L * counted.loss(model, SEQUENCES, rng).item() == pytest.approx(nll.mean(), rel=1e-12)


def test_B1_always_masked_blocks_of_one_learn_what_is_learnt_left_to_right() -> None:
    """One loss and one gradient, sum_i d(-log p(x^i | x^{<i})), without chance, of whatever network says p.

    The autoregressive process, told of the network through what it says of a MASK behind x^{<i}. Asked its own way, the
    token before in place of the MASK, the same weights are another function: equal objectives, not equal runs.
    """
    model, start = model_of(), np.full((len(SEQUENCES), L), V)

    def behind(x: Ints, t: Any = None, *, causal: int = 0, select: Any = None) -> Tensor:
        assert causal == 1
        before = np.roll(x, -1, axis=1)  # x^0 .. x^{L-2}, and START, which nobody sees
        return blocks.together(model, before, start, 1, start == V).reshape(*x.shape, V)

    found = []
    for process, network in ((Autoregressive(V), behind), (BlockDiffusion(V, 1, clip=(1, 1)), model),
                             (Autoregressive(V), model)):  # fmt: skip
        for p in model.params.values():
            p.grad = None
        loss = process.loss(network, SEQUENCES, np.random.default_rng(len(found)))
        loss.backward()
        found.append([loss.data, *(p.grad for p in model.params.values())])
    for one, other in zip(found[0], found[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-10, atol=1e-13)
    assert abs(found[2][0] - found[0][0]) > 0.01


@pytest.mark.parametrize("length", [L, L + 3])
def test_B1_one_block_is_masked_diffusion(length: int) -> None:
    """NELBO_L is the NELBO of masked diffusion, and so is the likelihood; a block may be longer than the text."""
    process, masked, model = BlockDiffusion(V, length), MaskedDiffusion(V), model_of()
    np.testing.assert_allclose(
        exact.block_nelbo(process, model, SEQUENCES), exact.nelbo_by_count(masked, model, SEQUENCES), rtol=1e-12
    )
    np.testing.assert_allclose(
        exact.block_nll(process, model, SEQUENCES), exact.any_order_nll(masked, model, SEQUENCES), rtol=1e-12
    )


@pytest.mark.parametrize("b", [1, 2, 3, 4, 5])
def test_B2_one_pass_is_the_loop_over_blocks(b: int) -> None:
    """Logits of the pass over x_t and x_0 = those of a pass for each block, for every text, all masks (3 x 16 shown).

    A block length that does not divide the length leaves a shorter last block.
    """
    model, masks = model_of(), exact.all_masks(L)
    x0 = np.tile(SEQUENCES[::27], (len(masks), 1))
    xt = np.where(np.repeat(masks, 3, axis=0), V, x0)
    everywhere = np.ones(x0.shape, bool)
    found = blocks.together(model, x0, xt, b, everywhere).data.reshape(*x0.shape, V)
    np.testing.assert_allclose(found, blocks.one_by_one(model, x0, xt, b), rtol=1e-12, atol=1e-12)


def test_B2_seeing_the_own_clean_block_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said at a masked position must not move with its own token; with >= in place of > it does.

    Nor with any other token of its block that is masked. The leak would only lower the loss.
    """
    model, b = model_of(), 2
    x0 = np.array([[0, 1, 2, 0]])
    xt, masked = np.full((1, L), V), np.ones((1, L), bool)
    other = x0.copy()
    other[0, 1] = 2  # in the first block

    def moved() -> Floats:
        one, two = (blocks.together(model, x, xt, b, masked).data for x in (x0, other))
        return np.abs(one - two).max(axis=1)

    assert (moved()[:2] == 0).all()
    assert (moved()[2:] > 1e-3).all()  # the later block sees it
    right = blocks.seen_together

    def leaking(length: int, block_length: int) -> Any:
        mask = right(length, block_length)
        at = blocks.block_of(length, block_length)
        clean = at[: len(mask) - length]
        mask[:length, length:] = at[:, None] >= clean
        return mask

    monkeypatch.setattr(blocks, "seen_together", leaking)
    assert (moved()[:2] > 0.01).all()


def test_B2_both_halves_stand_at_the_same_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbering the clean half on from L, as rows of one sequence, gives other logits."""
    model, b = model_of(2 * L), 2
    x0 = SEQUENCES[[5, 50]]
    xt, everywhere = np.full(x0.shape, V), np.ones(x0.shape, bool)
    expected = blocks.one_by_one(model, x0, xt, b).reshape(-1, V)
    np.testing.assert_allclose(blocks.together(model, x0, xt, b, everywhere).data, expected, rtol=1e-12, atol=1e-12)
    answer = Transformer.__call__

    def numbered_on(self: Transformer, x: Ints, t: None, *, positions: Ints, **options: Any) -> Tensor:
        return answer(self, x, positions=np.arange(len(positions)), **options)

    monkeypatch.setattr(Transformer, "__call__", numbered_on)
    assert np.abs(blocks.together(model, x0, xt, b, everywhere).data - expected).max() > 0.1


@pytest.mark.parametrize("length", [7, 19])
def test_B3_the_cache_changes_nothing(length: int) -> None:
    """Logits of every look at every block with kept keys and values = those of reading all that came before again.

    Blocks of 2, the last one shorter; looks at masks, at half-filled and at full blocks; and a text longer than the
    model was built for, where the window moves.
    """
    model, rng, b = model_of(8), np.random.default_rng(0), 2
    text = rng.integers(0, V, (3, length))
    kept, fresh = Reader(model, b), Reader(model, b, cache=False)
    for start in range(0, length, b):
        size = min(b, length - start)
        with_cache, without = (reader.block(text, start, start + size) for reader in (kept, fresh))
        for masks in range(size, -1, -1):
            x = np.where(np.arange(size) < masks, V, text[:, start : start + size])
            np.testing.assert_allclose(with_cache(x).data, without(x).data, rtol=1e-11, atol=1e-12)
    assert kept.kept is not None
    assert kept.first == fresh.first
    assert (kept.first > 0) == (length > 8)


def test_B3_sampling_is_the_same_with_and_without() -> None:
    """The same draws, and texts of the law that the blocks have (G-test, level 0.2 %, seed fixed)."""
    process, model, rng = BlockDiffusion(2, 2), model_of(3, 2), np.random.default_rng(0)
    law = np.exp(-exact.block_nll(process, model, exact.all_sequences(2, 3)))
    assert law.sum() == pytest.approx(1, rel=1e-12)
    states = []
    for cache in (True, False):
        rng = np.random.default_rng(1)
        *_, last = process.sample(model, 3, 20_000, decoder=decoders.Blocks(cache=cache), rng=rng)
        states.append(last.state)
    np.testing.assert_array_equal(*states)
    assert_drawn_from(states[0], law, rng)


@pytest.mark.parametrize("b", [2, 3])
def test_B4_the_bound_is_the_mean_over_orders_within_blocks(b: int) -> None:
    """NELBO_b = mean over the orders that finish blocks left to right of the NLL; p = mean of the probabilities.

    By enumerating all orders of two texts; the likelihoods of all texts sum to one; and `bound` draws the bound with
    either estimator: 20,000 draws, two-sided at 4.5 standard errors, seed fixed.
    """
    process, model, x0 = BlockDiffusion(V, b), model_of(), SEQUENCES[[7, 61]]
    at = blocks.block_of(L, b)
    orders = [order for order in itertools.permutations(range(L)) if (np.diff(at[list(order)]) >= 0).all()]
    assert len(orders) == {2: 4, 3: 6}[b]
    by_order = np.zeros((len(orders), len(x0)))
    for row, order in enumerate(orders):
        state = np.full(x0.shape, V)
        for i in order:
            logits = model(state, causal=b).data[:, i]
            p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
            by_order[row] -= np.log(p[np.arange(len(x0)), x0[:, i]])
            state[:, i] = x0[:, i]
    nelbo, nll = by_order.mean(axis=0), -np.log(np.exp(-by_order).mean(axis=0))
    np.testing.assert_allclose(exact.block_nelbo(process, model, x0), nelbo, rtol=1e-12)
    np.testing.assert_allclose(exact.block_nll(process, model, x0), nll, rtol=1e-12)
    all_nll = exact.block_nll(process, model, SEQUENCES)
    assert np.exp(-all_nll).sum() == pytest.approx(1, rel=1e-12)
    assert (exact.block_nelbo(process, model, SEQUENCES) >= all_nll - 1e-12).all()
    n, rng = 20_000, np.random.default_rng(0)
    for estimator in ("count", "time"):
        drawn = process.bound(model, np.repeat(x0[:1], n, axis=0), rng, estimator=estimator)
        assert abs(drawn.mean() - nelbo[0]) < 4.5 * drawn.std() / math.sqrt(n)
    losses = L * np.array([process.loss(model, np.repeat(x0[:1], 4_000, axis=0), rng).item() for _ in range(8)])
    assert abs(losses.mean() - nelbo[0]) < 4.5 * losses.std(ddof=1) / math.sqrt(8) + 2e-3 * nelbo[0]  # T_MIN


@pytest.mark.parametrize("estimator", ["count", "time"])
def test_B4_the_loss_is_the_bound_per_token(estimator: Any) -> None:
    """Counted or timed, E[loss] = NELBO / L (Arriola et al. 2025, eq. 3), and counting varies less.

    6,000 draws of one text at 4.5 standard errors, seed fixed; times from all of (0, 1] but a thousandth.
    """
    model, x0, rng = model_of(), SEQUENCES[-2:-1], np.random.default_rng(0)
    process = BlockDiffusion(V, 2, estimator=estimator)
    wanted = exact.block_nelbo(process, model, x0)[0] / L
    (other,) = {"count", "time"} - {estimator}
    with no_grad():
        drawn = np.array([process.loss(model, x0, rng).item() for _ in range(6000)])
        others = [BlockDiffusion(V, 2, estimator=other).loss(model, x0, rng).item() for _ in range(2000)]
    assert abs(drawn.mean() - wanted) < 4.5 * drawn.std() / math.sqrt(len(drawn)) + 0.002 * wanted
    assert (drawn.std() < np.std(others)) == (estimator == "count")


def test_B4_a_prompt_is_given_and_not_scored() -> None:
    """-log p(free | given) <= bound: of a prompt that ends within a block, the mean over orders of the rest."""
    process, model, x0 = BlockDiffusion(V, 2), model_of(), SEQUENCES[[7]]
    given = np.arange(L) < 1
    expected = 0.0
    for order in ([1, 2, 3], [1, 3, 2]):
        state = np.where(given, x0, V)
        for i in order:
            logits = model(state, causal=2).data[0, i]
            expected -= (logits[x0[0, i]] - np.log(np.exp(logits).sum())) / 2
            state[0, i] = x0[0, i]
    n, rng = 10_000, np.random.default_rng(0)
    batch = Batch(np.repeat(x0, n, axis=0), given=np.tile(given, (n, 1)))
    drawn = process.bound(model, batch, rng)
    assert abs(drawn.mean() - expected) < 4.5 * drawn.std() / math.sqrt(n)
    loss = process.loss(model, batch, rng).item() * 3
    assert abs(loss - expected) < 0.02 * expected


def test_B5_with_the_true_conditionals_all_block_lengths_tie() -> None:
    """Sum_x p(x) NELBO_b(x) = H for every b in continuous time: the published order is about what networks learn."""
    law = random_law(V**L)
    bayes = exact.BayesDenoiser(law, V, L)
    entropy = -(law * np.log(law)).sum()
    for b in range(1, L + 1):
        assert law @ exact.block_nelbo(BlockDiffusion(V, b), bayes, SEQUENCES) == pytest.approx(entropy, rel=1e-12)


def test_B5_with_one_step_per_block_splitting_never_hurts() -> None:
    """E[-log p_b(x)] with all of a block from one look falls, or stays, when blocks are split: 4, 2, 1; and 4, 3, 1.

    Splitting A|B lowers it by sum over B of H(x_i | c) - H(x_i | c, A) >= 0. By enumeration over 20 random laws.
    """
    at_once = decoders.Blocks(decoders.AtOnce(decoders.Draw()))
    for seed in range(20):
        law = np.random.default_rng(seed).dirichlet(np.full(2**L, 0.3))
        texts, bayes = exact.all_sequences(2, L), Padded(exact.BayesDenoiser(law, 2, L), L)
        nll = {b: law @ decoders.replay(BlockDiffusion(2, b), bayes, at_once, texts) for b in (1, 2, 3, 4)}
        assert nll[4] >= nll[2] >= nll[1] - 1e-12
        assert nll[4] >= nll[3] >= nll[1] - 1e-12
        assert nll[1] == pytest.approx(-(law * np.log(np.maximum(law, 1e-300))).sum(), rel=1e-9)
        assert nll[4] > nll[1] + 0.01


class Padded:
    """A model of whole texts, asked about their beginning."""

    def __init__(self, model: Any, length: int) -> None:
        self.model, self.wanted = model, length

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Any = None) -> Tensor:
        whole = np.full((len(x), self.wanted), self.model.vocab_size)
        whole[:, : x.shape[1]] = x
        logits = self.model(whole).data[:, : x.shape[1]]
        return Tensor(logits if select is None else logits[select])


class Undecided:
    """A model for which every token is equally likely, so that a loss is its weight times log V."""

    vocab_size = V

    def __call__(self, x: Ints, t: Any = None, *, select: Any, **options: Any) -> Tensor:
        return Tensor(np.zeros((int(select.sum()), V)))


def test_B6_the_gap_at_block_length_one_is_variance() -> None:
    """W = [masked] / t with t uniform on (eps, 1) has E[W] = 1 and E[W^2] = ln(1 / eps) / (1 - eps); with t = 1, W = 1.

    Arriola et al. 2025, section 4: 25.6 against 22.9 perplexity. The formula by quadrature, 6.91 at 0.001; and the
    weight of the loss itself: 4,000 draws at 4.5 standard errors, seed fixed.
    """
    points, weights = np.polynomial.legendre.leggauss(200)
    for eps in (0.001, 0.1):
        log_t = np.log(eps) * (1 - points) / 2  # t = exp(log_t), dt = t dlog_t
        integral = (weights * np.exp(-2 * log_t) * np.exp(log_t) * np.exp(log_t)).sum() * -np.log(eps) / 2
        assert integral / (1 - eps) == pytest.approx(math.log(1 / eps) / (1 - eps), rel=1e-12)
    assert math.log(1000) / 0.999 == pytest.approx(6.915, abs=1e-3)
    rng, x0, n, eps = np.random.default_rng(0), np.zeros((1, 1), np.int64), 4_000, 0.1

    def weights_of(process: BlockDiffusion) -> Floats:
        return np.array([process.loss(Undecided(), x0, rng).item() for _ in range(n)]) / math.log(V)

    drawn = weights_of(BlockDiffusion(V, 1, clip=(eps, 1)))
    for power, expected in ((1, 1.0), (2, math.log(1 / eps) / (1 - eps))):
        moment = drawn**power
        assert abs(moment.mean() - expected) < 4.5 * moment.std() / math.sqrt(n)
    np.testing.assert_allclose(weights_of(BlockDiffusion(V, 1, clip=(1, 1)))[:50], 1, rtol=1e-12)


def test_K7_finished_blocks_cannot_be_changed_by_what_comes_later() -> None:
    """Block-causal attention: other later tokens move the logits of earlier blocks by 0; full attention does."""
    model, x = model_of(), np.array([[0, 1, 2, 0]])
    later = np.array([[0, 1, V, 1]])
    assert (model(x, causal=2).data[:, :2] == model(later, causal=2).data[:, :2]).all()
    assert np.abs(model(x).data[:, :2] - model(later).data[:, :2]).max() > 0.01


def test_B6_the_least_varying_interval_comes_first() -> None:
    """The search over intervals of times (Arriola et al. 2025, section 5.2): for blocks of one, always masked, 0.

    Which it is can be said beforehand where W = [masked] / t alone varies: the later the times, the less.
    """
    x0, rng = np.zeros((2, 4), np.int64), np.random.default_rng(0)
    clips = ((0.05, 0.55), (1.0, 1.0), (0.5, 1.0), (0.25, 0.75))
    found = blocks.least_varying(BlockDiffusion(V, 1), Undecided(), x0, rng, clips=clips, draws=200)
    assert [clip for _, clip in found] == [(1.0, 1.0), (0.5, 1.0), (0.25, 0.75), (0.05, 0.55)]
    assert found[0][0] == pytest.approx(0, abs=1e-12)
    assert all(0 < low < high <= 1 and high - low > 0.49 for low, high in blocks.CLIPS)
    assert len(set(blocks.CLIPS)) == len(blocks.CLIPS) == 11 + 9 + 7 + 5 + 3 - 5
    with pytest.raises(ValueError, match="draws is 1"):
        blocks.least_varying(BlockDiffusion(V, 1), Undecided(), x0, rng, draws=1)


def test_B4_times_of_a_batch_are_stratified_over_all_its_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """One time in each of n = B x blocks equal parts of (0, 1], for the loss within `clip`, and in no order.

    Independent times have the same mean, and a wider spread of the mean over a batch (Kingma et al. 2021, appendix I).
    """
    process, model, times = BlockDiffusion(V, 2), model_of(), []
    masked_at = BlockDiffusion._masked_at

    def listen(self: BlockDiffusion, x0: Ints, t: Floats, *rest: Any) -> Ints:
        times.append(t[:, ::2])
        return masked_at(self, x0, t, *rest)

    monkeypatch.setattr(BlockDiffusion, "_masked_at", listen)
    x0 = SEQUENCES[:32]
    process.loss(model, x0, np.random.default_rng(0))
    process.bound(model, x0, np.random.default_rng(0), estimator="time")
    low, high = process.clip
    for t in ((times[0] - low) / (high - low), 1 - times[1]):
        assert sorted(np.floor(t.ravel() * t.size).astype(int)) == list(range(t.size))
        assert (np.diff(t, axis=1) > 0).any()
        assert (np.diff(t, axis=1) < 0).any()
