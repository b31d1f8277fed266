"""Sampling: which positions a step fills, with what, and what a frame says about it."""

import copy
import dataclasses
import itertools
import pickle
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import (
    D3PM,
    Autoregressive,
    Bert,
    BlockDiffusion,
    FlowMatching,
    GaussianDiffusion,
    MaskedDiffusion,
    Refinement,
    ScoreEntropy,
    Tensor,
    Transformer,
    conditioned,
    decoders,
    exact,
)
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.data import laws
from tinydiff.decoders import quotas, remask
from tinydiff.decoders.orders import Order
from tinydiff.processes import Process
from tinydiff.processes.discrete import DiscreteDiffusion

V, L = 5, 12
PROCESS = MaskedDiffusion(V)
OTHERS = (decoders.LengthBeam, decoders.StaleBlocks, decoders.Gibbs)
OF_MASKS = [kind for kind in PROCESS.decoded_by if kind not in OTHERS]
"""But for one that needs a token that fills, and those that have another decoder inside."""
MASK = PROCESS.mask_id
ORDERS = [
    decoders.LowConfidence, decoders.MostLikely, decoders.Entropy, decoders.Margin, decoders.Random,
    decoders.LeftToRight,
]  # fmt: skip


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Sure:
    """A model whose confidence at position i is known: p(token 1) = confidence[i], the rest split evenly."""

    def __init__(self, confidence: Floats) -> None:
        self.confidence = confidence

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        p = np.repeat(((1 - self.confidence) / (V - 1))[:, None], V, axis=1)
        p[:, 1] = self.confidence
        logits = np.broadcast_to(np.log(p), (*x.shape, V))
        return Tensor(np.array(logits if select is None else logits[select]))


GREEDY = decoders.Draw(temperature=0)


def known(ids: Ints, blank: int = MASK) -> dict[str, Ints | Bools]:
    """What is known of ids (L,) or (B, L) with blanks: the options of `sample`."""
    return {"x0": np.asarray(ids), "given": np.asarray(ids) != blank}


# --- drawing tokens -------------------------------------------------------------------------------------------------


def frequencies(probabilities: list[float], draws: int = 200_000, **options) -> Floats:
    logits = np.log(np.tile(probabilities, (draws, 1)))
    tokens, _ = decoders.Draw(**options)(logits, rng())
    return np.bincount(tokens, minlength=len(probabilities)) / draws


def assert_frequencies(found: Floats, expected: list[float], draws: int = 200_000) -> None:
    """Two-sided at 4.5 standard errors (level 7e-6 each); exact where the probability is 0 or 1. Seed fixed."""
    p = np.array(expected)
    assert (np.abs(found - p) <= 4.5 * np.sqrt(p * (1 - p) / draws)).all(), found


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.5, 0.3, 0.15, 0.05]),
        ({"temperature": 0.5}, [0.25 / 0.365, 0.09 / 0.365, 0.0225 / 0.365, 0.0025 / 0.365]),
        ({"temperature": 0}, [1, 0, 0, 0]),
        ({"top_k": 2}, [5 / 8, 3 / 8, 0, 0]),
        ({"top_k": 9}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 0.5}, [1, 0, 0, 0]),
        ({"top_p": 0.51}, [5 / 8, 3 / 8, 0, 0]),
        ({"top_p": 0.9}, [0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0]),
        ({"top_p": 1.0}, [0.5, 0.3, 0.15, 0.05]),
        ({"top_p": 1e-9}, [1, 0, 0, 0]),
        ({"top_k": 3, "top_p": 0.8}, [5 / 8, 3 / 8, 0, 0]),  # of the 3 kept, 0.5/0.95 + 0.3/0.95 reach 0.8
    ],
)
def test_draw_has_the_law_it_names(options: dict, expected: list[float]) -> None:
    """Temperature, top-k and nucleus, the token that crosses p included."""
    assert_frequencies(frequencies([0.5, 0.3, 0.15, 0.05], **options), expected)


def test_a_nucleus_of_everything_is_everything() -> None:
    """With p = 1 the tail stays: 1 is reached by rounding before the last of many small probabilities."""
    logits = np.concatenate([[0.0], np.full(1000, -40.0)])[None]
    law = decoders.Draw(top_p=1.0).probabilities(logits)
    np.testing.assert_array_equal(law, decoders.Draw(top_k=1001).probabilities(logits))
    assert (law > 0).all()


def test_confidence_is_untempered() -> None:
    """Tempered confidence would rank positions by the temperature, not by what the model knows."""
    p = [0.6, 0.3, 0.1]
    for options in ({"temperature": 0}, {"temperature": 0.2}, {"top_k": 1}, {"top_p": 0.3}):
        tokens, confidence = decoders.Draw(**options)(np.log([p]), rng())
        assert confidence == pytest.approx([p[tokens[0]]])


def test_broken_logits_are_refused() -> None:
    """NaN would otherwise be the argmax and become text."""
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or inf"):
            decoders.Draw()(np.array([[0.0, value]]), rng())


# --- choosing positions ---------------------------------------------------------------------------------------------


def test_low_confidence_commits_the_surest_first() -> None:
    """The order of commits is the order of confidence, ties to the left."""
    confidence = np.array([0.3, 0.9, 0.5, 0.5, 0.8, 0.4])
    frames = list(PROCESS.sample(Sure(confidence), 6, decoder=decoders.LowConfidence(draw=GREEDY), rng=rng()))
    order = [int(np.flatnonzero(frame.committed[0])[0]) for frame in frames[1:]]
    assert order == [1, 4, 2, 3, 5, 0]
    np.testing.assert_allclose(frames[-1].confidence[0], confidence)


def test_random_ignores_confidence() -> None:
    """Every position is equally likely to come first: 4.5 standard errors, two-sided, seed fixed."""
    confidence = np.array([0.3, 0.9, 0.5, 0.4])
    frames = PROCESS.sample(Sure(confidence), 4, 20_000, decoder=decoders.Random(draw=GREEDY), rng=rng())
    next(frames)
    assert_frequencies(next(frames).committed.mean(axis=0), [0.25] * 4, 20_000)


def test_choice_temperature_blends_confidence_and_chance() -> None:
    """A little noise keeps the surest ahead most of the time, a lot makes the order nearly random."""
    confidence = np.array([0.3, 0.9, 0.5, 0.4])

    def first_is_surest(choice_temperature: float) -> float:
        decoder = decoders.LowConfidence(draw=GREEDY, choice_temperature=choice_temperature)
        frames = PROCESS.sample(Sure(confidence), 4, 4000, decoder=decoder, rng=rng())
        next(frames)
        return float(next(frames).committed[:, 1].mean())

    little, much = first_is_surest(0.3), first_is_surest(50.0)
    assert first_is_surest(0.0) == 1
    assert 0.5 < little < 1
    assert 0.2 < much < 0.35


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("steps", [1, 2, 5, 11, 12])
def test_every_step_takes_its_share_and_nothing_stays_masked(order: type[Order], steps: int) -> None:
    """Off by one here leaves masks in the result, or fills everything in the first step."""
    frames = list(PROCESS.sample(random_model(V, L), L, 3, decoder=order(steps), rng=rng()))
    assert [frame.step for frame in frames] == list(range(steps + 1))
    commits = np.array([frame.committed.sum(axis=1) for frame in frames[1:]])  # (steps, B)
    assert commits.min() >= L // steps
    assert commits.max() <= -(-L // steps)
    assert (frames[-1].state != MASK).all()
    assert frames[-1].t == 0


@pytest.mark.parametrize("steps", [1, 3, 40])
def test_ancestral_leaves_no_mask(steps: int) -> None:
    """The last reverse step reveals whatever is left, however few or many steps there are."""
    for schedule in ("linear", "geometric", "loglinear"):
        process = MaskedDiffusion(V, schedule)
        *_, last = process.sample(random_model(V, L), L, 3, decoder=decoders.Ancestral(steps), rng=rng())
        assert (last.state != MASK).all()


def test_rows_with_different_numbers_of_masks_keep_their_own_pace() -> None:
    """One quota for the whole batch would starve the fullest row or overrun the emptiest."""
    given = np.full((3, L), MASK)
    given[1, :7] = 2
    given[2, 1:] = 3
    model, decoder = random_model(V, L), decoders.LowConfidence(4)
    frames = list(PROCESS.sample(model, L, 3, decoder=decoder, rng=rng(), **known(given)))
    np.testing.assert_array_equal([f.committed.sum(axis=1) for f in frames[1:]], [[3, 1, 0]] * 3 + [[3, 2, 1]])


def test_blocks_are_filled_left_to_right() -> None:
    """Semi-autoregressive order: no position of a block before the block to its left is done; the last may be short."""
    decoder = decoders.LowConfidence(block_length=5)
    frames = list(PROCESS.sample(random_model(V, L), L, 2, decoder=decoder, rng=rng()))
    for frame in frames[1:]:
        block = np.unique(np.nonzero(frame.committed)[1] // 5)
        left = frame.state[:, : block.max() * 5]
        assert len(block) == 1
        assert (left != MASK).all()
    assert (frames[-1].state != MASK).all()


@pytest.mark.parametrize(
    "decoder",
    [
        decoders.LowConfidence(L - 4, block_length=3),
        decoders.Random(block_length=3),
        decoders.Threshold(0.5, block_length=3),
    ],
)
def test_blocks_begin_where_each_prompt_ends(decoder: decoders.Decoder) -> None:
    """Prompts of unequal length: blocks counted from position 0 would cut the first one of each row short."""
    given = np.full((3, L), MASK)
    given[0, :4], given[1, :2], given[1, 6] = 1, 1, 1  # 6 is no part of the prompt
    frames = list(PROCESS.sample(random_model(V, L), L, 3, decoder=decoder, rng=rng(), **known(given)))
    filled = np.full((3, L), -1)  # the step that filled each position
    for frame in frames:
        filled[frame.committed] = frame.step
    for row, prompt in enumerate((4, 2, 0)):
        ends = [filled[row, i : i + 3] for i in range(prompt, L, 3)]
        for before, after in itertools.pairwise(ends):
            assert before.max() < after[after > 0].min()
    assert (frames[-1].state != MASK).all()


@pytest.mark.parametrize("block_length", [None, *range(1, 8)])
def test_blocks_against_counting(block_length: int | None) -> None:
    """Every position of every row, by walking along it; prompts of every length."""
    given = np.tril(np.ones((7, 7), bool), -1)
    given[0, 5] = True  # after a blank: known, and no part of the prompt
    canvas = decoders.Canvas.of(7, 7, MASK, x0=np.zeros(7, int), given=given)
    expected = np.full((7, 7), -1)
    for row in range(7):
        for place, i in enumerate(range(row, 7)):
            expected[row, i] = 0 if block_length is None else place // block_length
    np.testing.assert_array_equal(quotas.blocks_of(canvas, block_length), expected)


def test_left_to_right_fills_the_leftmost() -> None:
    """Whatever the model is sure of, and around what is given."""
    given = np.array([MASK, MASK, 1, MASK, MASK, MASK])
    decoder = decoders.LeftToRight(3, draw=GREEDY)
    frames = list(PROCESS.sample(Sure(np.linspace(0.3, 0.9, 6)), 6, decoder=decoder, rng=rng(), **known(given)))
    assert [frame.committed[0].nonzero()[0].tolist() for frame in frames[1:]] == [[0], [1, 3], [4, 5]]


class Fixed:
    """A model with a law of its own for every position, whatever is visible: (L, V) probabilities."""

    def __init__(self, p: Floats) -> None:
        self.p = np.array(p)

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        logits = np.broadcast_to(np.log(self.p), (*x.shape, self.p.shape[1]))
        return Tensor(np.array(logits if select is None else logits[select]))


def test_orders_that_judge_the_law_not_the_draw() -> None:
    """Three laws that these orders rank differently, whatever is drawn from them."""
    peaked, two, flat = [0.7, 0.1, 0.1, 0.1], [0.6, 0.4 - 2e-9, 1e-9, 1e-9], [0.55, 0.15, 0.15, 0.15]
    process, model = MaskedDiffusion(4), Fixed([flat, two, peaked])  # entropies 1.18, 0.67, 0.94; margins .4, .2, .6
    for order, expected in (
        (decoders.Entropy, [1, 2, 0]), (decoders.Margin, [2, 0, 1]), (decoders.MostLikely, [2, 1, 0])
    ):  # fmt: skip
        frames = list(process.sample(model, 3, 500, decoder=order(), rng=rng()))
        order = np.stack([frame.committed.argmax(axis=1) for frame in frames[1:]], axis=1)  # (B, 3)
        np.testing.assert_array_equal(order, np.tile(expected, (500, 1)))


def test_most_likely_is_low_confidence_where_draws_are_greedy() -> None:
    """Then the token drawn is the most likely one; as it is, the orders part."""

    def text(kind: type[Order], draw: decoders.Draw) -> Ints:
        *_, last = PROCESS.sample(random_model(V, L), L, 8, decoder=kind(draw=draw), rng=rng())
        return last.state

    np.testing.assert_array_equal(text(decoders.MostLikely, GREEDY), text(decoders.LowConfidence, GREEDY))
    assert (text(decoders.MostLikely, decoders.Draw()) != text(decoders.LowConfidence, decoders.Draw())).any()


def test_cosine_commits_few_at_first() -> None:
    """The share still masked after i of S steps is cos(pi i / 2 S), rounded up; no step is idle; short rows keep up."""
    decoder = decoders.LowConfidence(5, commits="cosine")
    frames = list(PROCESS.sample(random_model(V, 40), 40, decoder=decoder, rng=rng()))
    left = [int((frame.state == MASK).sum()) for frame in frames]
    assert left == [40, 39, 33, 24, 13, 0]  # 40 cos(pi i / 10) = 38.04, 32.4, 23.5, 12.4
    given = np.full((2, L), MASK)
    given[1, 2:] = 0  # two masks for ten steps
    decoder = decoders.LowConfidence(10, commits="cosine")
    frames = list(PROCESS.sample(random_model(V, L), L, 2, decoder=decoder, rng=rng(), **known(given)))
    commits = np.array([frame.committed.sum(axis=1) for frame in frames[1:]])
    assert commits[:, 0].min() >= 1
    np.testing.assert_array_equal(commits.sum(axis=0), [L, 2])


def test_threshold_commits_all_that_is_sure_and_at_least_one() -> None:
    """Rows with different numbers of sure positions each take their own; the number of steps follows."""
    confidence = np.array([0.9, 0.3, 0.85, 0.5, 0.8, 0.4])
    given = np.array([[MASK] * 6, [MASK, 1, MASK, MASK, 1, 1], [1] * 5 + [MASK]])
    decoder = decoders.Threshold(0.7, draw=GREEDY)
    frames = list(PROCESS.sample(Sure(confidence), 6, 3, decoder=decoder, rng=rng(), **known(given)))
    commits = [frame.committed.sum(axis=1).tolist() for frame in frames[1:]]
    assert commits == [[3, 2, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert [frame.committed[0].nonzero()[0].tolist() for frame in frames[1:]] == [[0, 2, 4], [3], [5], [1]]
    assert [frame.steps for frame in frames] == [6, 4, 4, 4, 4]
    assert frames[-1].t == 0
    # A probability equal to the threshold is not above it.
    decoder = decoders.Threshold(0.5, draw=GREEDY)
    *_, last = PROCESS.sample(Sure(np.array([0.5, 0.5])), 2, decoder=decoder, rng=rng())
    assert last.step == 2


def test_only_blocks_with_masks_take_steps() -> None:
    """A text that is mostly given, in blocks: steps go where the masks are, at least one to each block that has any."""
    given = np.ones((2, 12), np.int64)
    given[0, [0, 3, 8, 9, 10, 11]] = MASK
    given[1, 0] = MASK

    def sample(steps: int | None) -> Iterator[decoders.Frame]:
        decoder = decoders.LowConfidence(steps, block_length=4)
        return PROCESS.sample(random_model(V, L), 12, 2, decoder=decoder, rng=rng(), **known(given))

    frames = list(sample(None))
    assert [frame.committed.sum(axis=1).tolist() for frame in frames[1:]] == [[1, 0], [1, 1]] + [[1, 0]] * 4
    for steps, most in ((2, 4), (3, 2), (6, 1)):
        frames = list(sample(steps))
        assert len(frames) == steps + 1
        assert max(frame.committed.sum(axis=1).max() for frame in frames) == most
        assert not (frames[-1].state == MASK).any()
    with pytest.raises(ValueError, match="steps is 1; the 2 blocks with masks need at least one step each"):
        sample(1)


def test_steps_are_never_more_than_announced() -> None:
    """With a threshold a bound of the steps is known: here of sequences that are masked in different blocks."""
    given = np.array([[MASK, MASK, 1, 1, 1], [MASK, 1, MASK, MASK, 1]])
    decoder = decoders.Threshold(block_length=2)
    frames = list(PROCESS.sample(Sure(np.full(5, 0.5)), 5, 2, decoder=decoder, rng=rng(), **known(given)))
    assert [(frame.step, frame.steps) for frame in frames] == [(i, 4) for i in range(5)]


def test_first_hitting_ends_at_time_0() -> None:
    """Also where a sequence is done before the others."""
    given = np.array([[MASK] * 6, [MASK] + [1] * 5])
    decoder = decoders.FirstHitting()
    frames = list(PROCESS.sample(random_model(V, L), 6, 2, decoder=decoder, rng=rng(), **known(given)))
    assert frames[-1].t == 0
    assert all(frame.t > 0 for frame in frames[:-1])


def test_threshold_keeps_to_blocks() -> None:
    """A sure position of a later block waits."""
    confidence = np.array([0.3, 0.9, 0.95, 0.95])
    decoder = decoders.Threshold(0.7, draw=GREEDY, block_length=2)
    frames = list(PROCESS.sample(Sure(confidence), 4, decoder=decoder, rng=rng()))
    assert [frame.committed[0].nonzero()[0].tolist() for frame in frames[1:]] == [[1], [0], [2, 3]]


# --- masking again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "decoder", [decoders.RemaskCap(8, 0.3), decoders.RemaskRescale(8, 0.6), decoders.RemaskConfidence(8, 1.0)]
)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_remasking_keeps_the_marginals(decoder: decoders.RemaskCap, schedule: str) -> None:
    """The share of masks at time s is 1 - alpha_s, as without remasking (ReMDM, eq. 4); by confidence, it is more.

    At 4.5 standard errors (level 7e-6 each), two-sided, seed fixed.
    """
    process, steps, batch = MaskedDiffusion(V, schedule), 8, 4000
    frames = list(process.sample(random_model(V, L), L, batch, decoder=decoder, rng=rng()))
    share = np.array([(frame.state == MASK).mean() for frame in frames])
    expected = 1 - process.schedule.grid(steps)[::-1]
    slack = 4.5 * np.sqrt(expected * (1 - expected) / (batch * L))
    if isinstance(decoder, decoders.RemaskConfidence):
        assert (share[2:-1] > expected[2:-1] + slack[2:-1]).all()
        assert share[-1] == 0
    else:
        assert (np.abs(share - expected) <= slack).all()
    for frame in frames:
        assert (frame.state[frame.remasked] == MASK).all()
        assert (frame.confidence[frame.remasked] == 0).all()
        assert not (frame.remasked & frame.committed).any()
    assert sum(frame.remasked.sum() for frame in frames) > 0.1 * frames[-1].state.size
    assert not frames[-1].remasked.any()


def test_rounds_hide_a_share_and_fill_it_again() -> None:
    """A frame that masks a third of what is free in each row, chosen by chance, then one for each position of it.

    What is given, and what a round does not hide, stays; frames count on, to a number of steps that they know.
    """
    given = np.array([np.arange(L) < 3, np.arange(L) < 0])
    x0 = rng(1).integers(0, V, (2, L))
    decoder = decoders.Gibbs(decoders.LowConfidence(6, decoders.Draw(0.5)), rounds=3, share=1 / 3)
    frames = list(PROCESS.sample(random_model(V, L), L, 2, decoder=decoder, x0=x0, given=given, rng=rng()))
    assert [frame.step for frame in frames] == list(range(1 + 6 + 3 * (1 + 4)))
    assert {frame.steps for frame in frames} == {6 + 3 * (1 + 4)}
    hidden = [frame.remasked for frame in frames if frame.remasked.any()]
    assert [part.sum(axis=1).tolist() for part in hidden] == [[3, 4]] * 3
    assert (hidden[0] != hidden[1]).any()
    for before, after in itertools.pairwise(frames):
        changed = before.state != after.state
        np.testing.assert_array_equal(changed, after.committed | after.remasked)
        assert (after.state[after.remasked] == MASK).all()
        assert ((after.confidence == 0) == (after.state == MASK)).all()
        assert (after.confidence[given] == 1).all()
        np.testing.assert_array_equal(after.confidence[~changed], before.confidence[~changed])
    assert (frames[-1].state != MASK).all()
    once = decoders.Gibbs(decoders.LowConfidence(6, decoders.Draw(0.5)), rounds=0)
    *_, first = PROCESS.sample(random_model(V, L), L, 2, decoder=once, x0=x0, given=given, rng=rng())
    np.testing.assert_array_equal(first.state, frames[6].state)


def test_strength_zero_is_ancestral_sampling() -> None:
    """Nothing is masked again, and the share of masks falls evenly, as by `ancestral` under the linear schedule."""
    for kind in (decoders.RemaskCap, decoders.RemaskRescale, decoders.RemaskConfidence):
        frames = list(PROCESS.sample(random_model(V, L), L, 50, decoder=kind(6, eta=0), rng=rng()))
        assert not any(frame.remasked.any() for frame in frames)
        share = [(frame.state == MASK).mean() for frame in frames]
        np.testing.assert_allclose(share, np.linspace(1, 0, 7), atol=0.06)


def test_confidence_masks_the_least_sure_again() -> None:
    """Of two visible tokens, exp(-confidence) decides how often each is masked again."""
    visible = np.array([[True, True, False], [False, False, False]])
    p = remask.least_sure(visible, np.array([[0.9, 0.2, 0.0], [0.0, 0.0, 0.0]]))
    e = np.exp([-0.9, -0.2])
    np.testing.assert_allclose(p, [[*(e / e.sum()), 0], [0, 0, 0]])


# --- guidance and constraints ---------------------------------------------------------------------------------------


def test_guidance_exaggerates_the_prompt() -> None:
    """log p + scale (log p - log p without the prompt), against the two answers computed apart; 0 changes nothing."""
    model = random_model(V, L)
    x = rng(1).integers(0, V, (3, L))
    prompt = np.zeros((3, L), bool)
    prompt[:, :4] = True
    x[:, 6:] = MASK
    t, select = np.full(3, 0.5), x == MASK
    told, untold = model(x, t, select=select).data, model(np.where(prompt, MASK, x), t, select=select).data
    for scale in (0.0, 0.7, -1.0):
        guided = decoders.prompted(model, prompt, MASK, scale)(x, t, select=select).data
        np.testing.assert_allclose(guided, told + scale * (told - untold), atol=1e-12)
    assert np.abs(told - untold).max() > 0.1


@pytest.mark.parametrize("wrapper", ["conditioned", "prompted", "constrained"])
def test_wrappers_of_a_model_pass_on_who_stands_where_and_sees_whom(wrapper: str) -> None:
    """Positions and masks, of all sequences or of each, and blocks: dropped, or given to half of a doubled batch."""
    network = Transformer(**(random_model(V, L).config | {"classes": 2}), rng=rng(3))
    network.params["embed"].data *= 50
    network.params["class"].data *= 50
    network.params["position"].data[...] = rng(4).normal(size=(L, 8))
    x, label, prompt, t = (
        rng(1).integers(0, V, (3, L)),
        np.array([0, 1, 1]),
        np.tile(np.arange(L) < 4, (3, 1)),
        np.ones(3),
    )
    orders = np.stack([rng(i).permutation(L) for i in range(3)])
    seen = rng(5).random((3, L, L)) < 0.5
    plain = None
    for options in (
        {}, {"positions": orders[0]}, {"positions": orders}, {"mask": seen[0]}, {"mask": seen}, {"causal": 3},
        {"positions": orders, "mask": seen, "causal": 3},
    ):  # fmt: skip
        answer = network(x, t, **options).data
        if wrapper == "conditioned":
            found = conditioned(network, label, 0.7)(x, t, **options).data
            told = network(x, t, label=label, **options).data
            wanted = told + 0.7 * (told - answer)
        elif wrapper == "prompted":
            found = decoders.prompted(network, prompt, MASK, 0.7)(x, t, **options).data
            wanted = answer + 0.7 * (answer - network(np.where(prompt, MASK, x), t, **options).data)
        else:
            allowed = np.tile(np.arange(V) != 2, (3, L, 1))
            found = decoders.constrained(network, allowed)(x, t, **options).data
            wanted = np.where(allowed, answer, -np.inf)
        np.testing.assert_allclose(found, wanted, atol=1e-12)
        plain = found if plain is None else plain
        known = np.isfinite(plain)
        assert not options or np.abs(found[known] - plain[known]).max() > 0.01


def test_guidance_leaves_the_impossible_alone() -> None:
    """A model that rules tokens out: guided or not, only texts that it knows come out."""
    law = laws.Listed(("abc", "acb", "ddd"), np.full(3, 1 / 3))
    process, given = MaskedDiffusion(law.codec.vocab_size), np.array([True, False, False])
    model = decoders.prompted(exact.ListedDenoiser(law), given, process.mask_id, 1.0)
    *_, last = process.sample(model, 3, 50, rng=rng(), x0=np.array([0, 0, 0]), given=given)
    assert {law.codec.decode(row) for row in last.state} == {"abc", "acb"}


@pytest.mark.parametrize(
    ("process", "decoder"),
    [
        *((PROCESS, kind()) for kind in OF_MASKS),
        (PROCESS, decoders.Speculate(3, "random")),
        (PROCESS, decoders.StaleBlocks(block_length=5)),
        (PROCESS, decoders.Gibbs()),
        (BlockDiffusion(V, 5), decoders.Blocks(decoders.EntropyBounded())),
        (PROCESS, decoders.LowConfidence(draw=GREEDY)),
        (PROCESS, decoders.LowConfidence(draw=decoders.Draw(top_k=1))),
        (PROCESS, decoders.LowConfidence(draw=decoders.Draw(top_p=0.1))),
        (Autoregressive(V), decoders.NextToken()),
        (Autoregressive(V), decoders.Beam()),
        (Refinement(V), decoders.Refine()),
        (Bert(V), decoders.Refill()),
        (D3PM(V, "absorbing", steps=8), decoders.Chain()),
        (D3PM(V, "uniform", steps=8), decoders.Chain()),
        (ScoreEntropy(V, "absorbing"), decoders.Tweedie()),
        (ScoreEntropy(V, "uniform"), decoders.Euler()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_constraints_hold(process: DiscreteDiffusion, decoder: decoders.Decoder) -> None:
    """Every position holds one of its own tokens, whatever chooses it; alike for (L, V) and (B, L, V)."""
    allowed = rng(3).random((4, L, V)) < 0.4
    allowed[..., 0] |= ~allowed.any(axis=-1)
    model = random_model(V, L, time=process.needs_time)
    *_, last = process.sample(model, L, 4, decoder=decoder, rng=rng(), allowed=allowed)
    assert np.take_along_axis(allowed, last.state[..., None], axis=-1).all()
    *_, last = process.sample(model, L, 4, decoder=decoder, rng=rng(), allowed=allowed[0])
    assert allowed[0][np.arange(L), last.state].all()


EVERY_DRAW: list[tuple[DiscreteDiffusion, type]] = [
    *((PROCESS, kind) for kind in OF_MASKS),
    (Autoregressive(V), decoders.NextToken),
    (Bert(V), decoders.Refill),
    (D3PM(V, "absorbing", steps=8), decoders.Chain),
    (D3PM(V, "uniform", steps=8), decoders.Chain),
    (ScoreEntropy(V, "absorbing"), decoders.Tweedie),
    (ScoreEntropy(V, "uniform"), decoders.Tweedie),
]


@pytest.mark.parametrize(("process", "kind"), EVERY_DRAW, ids=lambda x: getattr(x, "__name__", type(x).__name__))
def test_the_draw_reaches_every_decoder(process: DiscreteDiffusion, kind: type) -> None:
    """Greedily nothing but the likeliest token; as it is, others too."""
    model = Fixed([[0.1, 0.5, 0.2, 0.1, 0.1]])
    for draw, alone in ((GREEDY, True), (decoders.Draw(top_k=1), True), (decoders.Draw(), False)):
        *_, last = process.sample(model, L, 8, decoder=kind(draw=draw), rng=rng())
        assert (last.state == 1).all() == alone


@pytest.mark.parametrize(
    ("kinds", "options"),
    [
        (ORDERS, {"commits": "cosine"}),
        (ORDERS[:5], {"block_length": 4}),
        (ORDERS[:4], {"choice_temperature": 50.0}),
        ([decoders.RemaskCap, decoders.RemaskRescale, decoders.RemaskConfidence], {"eta": 0.9}),
        ([decoders.Threshold], {"threshold": 0.25}),
        ([decoders.Threshold], {"block_length": 4}),
        ([decoders.EntropyBounded], {"gamma": 2.5}),
        ([decoders.Frechet], {"factor": 2.5}),
        ([decoders.EntropyBounded, decoders.Frechet], {"block_length": 4}),
        ([decoders.Speculate], {"drafts": 2}),
        ([decoders.Speculate], {"order": "random"}),
        ([decoders.StaleBlocks], {"block_length": 3}),
    ],
)
def test_options_reach_every_decoder_that_has_them(kinds: list[type], options: dict) -> None:
    """Two values of an option, the same seed: other positions at other times."""
    for kind in kinds:
        fixed = {"steps": 6} if "steps" in {field.name for field in dataclasses.fields(kind)} else {}
        ways = []
        for more in ({}, options):
            frames = PROCESS.sample(random_model(V, L), L, 4, decoder=kind(**fixed, **more), rng=rng())
            ways.append([frame.committed for frame in frames])
        assert len(ways[0]) != len(ways[1]) or (np.array(ways[0]) != np.array(ways[1])).any(), kind


def test_a_constraint_is_a_condition() -> None:
    """Allowed tokens keep their ratio, and confidence is measured among them."""
    model = Fixed([[0.5, 0.3, 0.2]])
    *_, last = MaskedDiffusion(3).sample(model, 1, 200_000, rng=rng(), allowed=np.array([[False, True, True]]))
    assert_frequencies(np.bincount(last.state[:, 0], minlength=3) / 200_000, [0, 0.6, 0.4])
    np.testing.assert_allclose(last.confidence[:, 0], np.array([0, 0.6, 0.4])[last.state[:, 0]])


def test_frames_are_snapshots() -> None:
    """A frame kept for a film must not change when the sampler goes on."""
    frames, copies = [], []
    for frame in PROCESS.sample(random_model(V, L), L, 2, decoder=decoders.LowConfidence(4), rng=rng()):
        frames.append(frame)
        copies.append((frame.state.copy(), frame.confidence.copy(), frame.committed.copy()))
    for frame, (state, confidence, committed) in zip(frames, copies, strict=True):
        np.testing.assert_array_equal(frame.state, state)
        np.testing.assert_array_equal(frame.confidence, confidence)
        np.testing.assert_array_equal(frame.committed, committed)
        assert ((frame.confidence > 0) == (frame.state != MASK)).all()


@pytest.mark.parametrize("kind", [*ORDERS, decoders.Ancestral])
def test_same_seed_same_text(kind: type[Order]) -> None:
    """The generator passed in is the only source of chance."""

    def text(seed: int) -> Ints:
        *_, last = PROCESS.sample(random_model(V, L), L, 2, decoder=kind(4), rng=rng(seed))
        return last.state

    np.testing.assert_array_equal(text(1), text(1))
    assert (text(1) != text(2)).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *((lambda kind=kind: kind(0), "steps is 0; it must be at least 1") for kind in
          (*ORDERS, decoders.Ancestral, decoders.RemaskCap, decoders.Chain, decoders.Tweedie, decoders.Euler,
           decoders.Refill, decoders.DDIM, decoders.ODE, decoders.Langevin, decoders.MaskPredict, decoders.Refine)),
        (lambda: decoders.MaskPredict(confidence="stale"), "confidence is 'stale'; expected one of kept, fresh"),
        (lambda: decoders.Beam(0), "width is 0; it must be at least 1"),
        (lambda: decoders.LengthBeam(0, (1, -1, 2), 0), "beams is 0; there are 2 lengths, expected 1 <= beams <= 2"),
        (lambda: decoders.LengthBeam(0, (1, -1, 2), 3), "beams is 3; there are 2 lengths"),
        (lambda: decoders.Draw(-1.0), "temperature is -1"),
        (lambda: decoders.Draw(float("nan")), "temperature is nan"),
        (lambda: decoders.Draw(top_k=0), "top_k is 0"),
        (lambda: decoders.Draw(top_p=0.0), "top_p is 0"),
        (lambda: decoders.Draw(top_p=1.5), "top_p is 1.5"),
        (lambda: decoders.Random(block_length=0), "block_length is 0"),
        (lambda: decoders.Threshold(block_length=0), "block_length is 0"),
        (lambda: decoders.Margin(choice_temperature=-1.0), "choice_temperature is -1"),
        (lambda: decoders.LeftToRight(commits="slowly"), "commits is 'slowly'; expected one of linear, cosine"),
        (lambda: decoders.Threshold(0.0), "threshold is 0.0; expected 0 < threshold < 1"),
        (lambda: decoders.Threshold(1.0), "threshold is 1.0; expected 0 < threshold < 1"),
        (lambda: decoders.Threshold(float("nan")), "threshold is nan"),
        (lambda: decoders.RemaskCap(eta=1.5), "eta is 1.5; expected 0 <= eta <= 1"),
        (lambda: decoders.Gibbs(rounds=-1), "rounds is -1; it must be 0"),
        (lambda: decoders.Gibbs(share=0), "share is 0; expected 0 < share <= 1"),
        (lambda: decoders.Gibbs(share=1.5), "share is 1.5; expected"),
        (lambda: decoders.Gibbs(decoders.Speculate()), "inside is Speculate.*; expected a decoder that fills one"),
        (lambda: decoders.Gibbs(decoders.Gibbs()), "inside is Gibbs"),
        (lambda: decoders.RemaskConfidence(eta=-0.5), "eta is -0.5; expected 0 <= eta <= 1"),
        (lambda: decoders.DDIM(eta=1.1), "eta is 1.1; expected 0"),
        (lambda: decoders.Langevin(snr=0.0), "snr is 0.0"),
        (lambda: decoders.ODE(solver="rk5"), "solver is 'rk5'; expected one of euler, heun, rk4"),
    ],
)  # fmt: skip
def test_decoders_refuse_bad_options(make: Callable[[], object], words: str) -> None:
    """Raised when the value is made, wherever it is used."""
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize(
    ("process", "foreign", "words"),
    [
        (
            PROCESS,
            decoders.Chain(),
            r"decoder is Chain\(.*not made for MaskedDiffusion; expected one of LowConfidence\(\)",
        ),
        (PROCESS, "random", "decoder is 'random', which is not made for MaskedDiffusion"),
        (PROCESS, decoders.Random, "which is not made for MaskedDiffusion"),  # the class, not a value
        (Bert(V), decoders.Ancestral(), r"not made for Bert; expected one of Refill\(\)$"),
        (D3PM(V), decoders.Tweedie(), r"not made for D3PM; expected one of Chain\(\)$"),
        (ScoreEntropy(V), decoders.Chain(), r"not made for ScoreEntropy; expected one of Tweedie\(\), Euler\(\)$"),
        (
            Autoregressive(V),
            decoders.LeftToRight(),
            r"not made for Autoregressive; expected one of NextToken\(\), Beam\(\)$",
        ),
        (GaussianDiffusion(1), decoders.ODE(), r"not made for GaussianDiffusion; expected one of DDIM\(\)$"),
        (FlowMatching(1), decoders.DDIM(), r"not made for FlowMatching; expected one of ODE\(\)$"),
    ],
)
def test_a_decoder_of_another_process_is_refused(process: Process, foreign: object, words: str) -> None:
    """By name, with those that fit, before any frame is asked for."""
    with pytest.raises(ValueError, match=words):
        process.sample(random_model(V, L), L, decoder=foreign, rng=rng())


def test_every_decoder_pickles() -> None:
    """A value with a function in it does not; what comes back is equal."""
    for kind in (*OF_MASKS, decoders.NextToken, decoders.Beam, decoders.Refine, decoders.Chain, decoders.Tweedie,
                 decoders.Euler, decoders.Refill, decoders.DDIM, decoders.ODE):  # fmt: skip
        made = kind(draw=decoders.Draw(0.5)) if "draw" in {field.name for field in dataclasses.fields(kind)} else kind()
        assert pickle.loads(pickle.dumps(made)) == copy.deepcopy(made) == made


A_PROMPT = {"x0": np.arange(L) % V, "given": np.arange(L) < 2}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 0}, "batch is 0"),
        ({"given": np.zeros(L, bool)}, "given is there and x0 is missing"),
        ({"x0": np.zeros(L, int)}, "x0 is there and given is missing"),
        ({"x0": np.zeros(L, int), "given": np.zeros(3, bool)}, r"given has shape \(3,\) and dtype bool"),
        ({"x0": np.zeros(L, int), "given": np.zeros((2, L), bool)}, r"given has shape \(2, 12\)"),
        ({"x0": np.zeros(L, int), "given": np.zeros(L, int)}, "dtype int64; expected .* booleans, one per position"),
        ({"x0": np.zeros(3, int), "given": np.zeros(L, bool)}, r"x0 has shape \(3,\)"),
        ({"x0": np.zeros(L), "given": np.zeros(L, bool)}, "dtype float64; expected .* token ids"),
        ({"x0": np.zeros(L, int), "given": np.ones(L, bool)}, "given leaves nothing free in sequence 0"),
        (A_PROMPT | {"x0": np.full(L, MASK)}, f"x0 has {MASK} at the given position 0 of sequence 0; expected 0 <= id"),
        (A_PROMPT | {"x0": np.full(L, -1)}, "x0 has -1 at the given position 0"),
        ({"allowed": np.ones((L, V + 1), bool)}, r"allowed has shape \(12, 6\)"),
        ({"allowed": np.ones((L, V))}, "dtype float64"),
        ({"allowed": np.arange(L * V).reshape(L, V) >= V}, "no token for position 0 of sequence 0"),
        (
            {"allowed": np.arange(V) != np.full((L, 1), 1), **A_PROMPT},
            "token 1 is given at position 1 of sequence 0, but is not allowed",
        ),
    ],
)
@pytest.mark.parametrize("process", [PROCESS, Autoregressive(V), D3PM(V, steps=8)], ids=["masked", "left", "d3pm"])
def test_bad_input(process: DiscreteDiffusion, options: dict, words: str) -> None:
    """Raised by the call itself, before any frame is asked for; of the canvas, by every process alike."""
    with pytest.raises(ValueError, match=words):
        process.sample(random_model(V, L), L, rng=rng(), **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"decoder": decoders.LowConfidence(L + 1)}, f"steps is {L + 1}, but only {L} positions are masked"),
        ({"decoder": decoders.LowConfidence(L), **A_PROMPT}, f"steps is {L}, but only {L - 2} positions are masked"),
        ({"decoder": decoders.Random(block_length=L + 1)}, f"block_length is {L + 1}; expected 1 <= block_length"),
        ({"decoder": decoders.Threshold(block_length=L + 1)}, f"block_length is {L + 1}; expected 1 <= block_length"),
        ({"decoder": decoders.Entropy(2, block_length=3)}, "steps is 2; the 4 blocks with masks need"),
    ],
)
def test_decoders_that_do_not_suit_the_text(options: dict, words: str) -> None:
    """More steps than masks, fewer than blocks, blocks beyond the text: raised by the call itself."""
    with pytest.raises(ValueError, match=words):
        PROCESS.sample(random_model(V, L), L, rng=rng(), **options)


@pytest.mark.parametrize("scale", [float("inf"), float("nan")])
def test_bad_guidance(scale: float) -> None:
    """A scale that means nothing, and nothing to follow."""
    with pytest.raises(ValueError, match=f"cfg_scale is {scale}"):
        decoders.prompted(random_model(V, L), np.ones(L, bool), MASK, scale)
    with pytest.raises(ValueError, match=r"cfg_scale is 1\.0, but nothing is given"):
        decoders.prompted(random_model(V, L), np.zeros(L, bool), MASK, 1.0)


def test_only_given_positions_of_x0_are_read() -> None:
    """What x0 holds elsewhere, out of range even, changes nothing; (L,) is the same as (B, L)."""
    here = np.arange(L) % 3 == 0
    x0, other = np.where(here, 2, 0), np.where(here, 2, 10**6)
    texts = [
        list(PROCESS.sample(random_model(V, L), L, 2, rng=rng(), x0=ids, given=given))[-1].state
        for ids, given in ((x0, here), (other, here), (np.tile(x0, (2, 1)), np.tile(here, (2, 1))))
    ]
    np.testing.assert_array_equal(texts[0], texts[1])
    np.testing.assert_array_equal(texts[0], texts[2])
    assert (texts[0][:, here] == 2).all()


# --- how many at once -----------------------------------------------------------------------------------------------


def cosine_of(step: int, steps: int) -> Decimal:
    """cos(pi step / 2 steps) to 40 digits, by its series."""
    with localcontext() as context:
        context.prec = 60
        pi = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
        x = pi * step / (2 * steps)
        term, total, n = Decimal(1), Decimal(1), 0
        while abs(term) > Decimal(10) ** -55:
            n += 2
            term *= -x * x / (n * (n - 1))
            total += term
        return total.quantize(Decimal(10) ** -40)


def test_cosine_commits_are_rounded_as_they_should_be() -> None:
    """floor(n (1 - cos)), with at least one per step, for all small numbers: one too few where the share is 1/2."""
    assert quotas.filled(np.array([64]), 8, 12, "cosine") == 32
    for steps in range(1, 41):
        for step in range(steps + 1):
            share = 1 - cosine_of(step, steps)
            totals = np.arange(steps, 130)
            expected = [n if step == steps else max(int(n * share), step) for n in totals.tolist()]
            np.testing.assert_array_equal(quotas.filled(totals, step, steps, "cosine"), expected)


@pytest.mark.parametrize("commits", ["linear", "cosine"])
def test_no_step_is_idle(commits: str) -> None:
    """As long as there are enough masks every step fills at least one, and the last fills them all."""
    totals = np.arange(90)
    for steps in range(1, 61):
        done = np.array([quotas.filled(totals, step, steps, commits) for step in range(steps + 1)])  # (steps + 1, 90)
        assert (done[0] == 0).all()
        assert (done[-1] == totals).all()
        assert (np.diff(done, axis=0) >= np.where(totals >= steps, 1, 0)).all()


def test_shares_of_the_steps() -> None:
    """Every block with masks gets a step, none more than it has masks, and together they are all."""
    for in_blocks in itertools.product(range(5), repeat=3):
        blocks = np.array(in_blocks)
        for steps in range(max(int((blocks > 0).sum()), 1), int(blocks.sum()) + 1):
            shared = quotas.shares(blocks, steps)
            assert shared.sum() == steps
            assert ((shared >= (blocks > 0)) & (shared <= blocks)).all()


# --- left to right --------------------------------------------------------------------------------------------------

LEFT_TO_RIGHT = Autoregressive(V)
START = LEFT_TO_RIGHT.start_id


def test_cache_or_not_the_same_text() -> None:
    """Keys and values kept in the wrong place, or of the wrong sequence: the same seed would give another text."""
    given = np.array([[1, 2, 3, *[START] * 9], [4, *[START] * 11]])
    cached, uncached = (
        list(
            LEFT_TO_RIGHT.sample(
                random_model(V, L), L, 2, decoder=decoders.NextToken(cache=cache), rng=rng(), **known(given)
            )
        )
        for cache in (True, False)
    )
    for kept, read_again in zip(cached, uncached, strict=True):
        np.testing.assert_array_equal(kept.state, read_again.state)
        np.testing.assert_allclose(kept.confidence, read_again.confidence, atol=1e-12)


def test_a_prompt_is_continued() -> None:
    """Prompts of different lengths stay as they are, and each text goes on from its own end with the model's law."""
    given = np.array([[1, 2, 3, *[START] * 3], [4, *[START] * 5], [0, 1, 2, 3, 4, START]])
    frames = list(LEFT_TO_RIGHT.sample(random_model(V, L), 6, 3, rng=rng(), **known(given)))
    assert [frame.step for frame in frames] == list(range(6))
    kept = given != START
    for frame in frames:
        np.testing.assert_array_equal(frame.state[kept], given[kept])
        assert not frame.committed[kept].any()
        assert (frame.confidence[kept] == 1).all()
    np.testing.assert_array_equal(sum(frame.committed.sum(axis=1) for frame in frames), [3, 5, 1])
    # What each token was given: against one pass over the finished text.
    text = frames[-1].state
    before = np.concatenate([np.full((3, 1), START), text[:, :-1]], axis=1)
    logits = random_model(V, L)(before, causal=True).data
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    p = np.take_along_axis(p, text[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(frames[-1].confidence[~kept], p[~kept], atol=1e-12)


def test_left_to_right_has_the_law_of_the_likelihood() -> None:
    """Draws of all 4 sequences of two tokens against exp(-nll): 4.5 standard errors, seed fixed; constraints too."""
    process, model, draws = Autoregressive(2), random_model(2, 2), 20_000
    sequences = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    law = np.exp(-process.bound(model, sequences, rng()))
    *_, last = process.sample(model, 2, draws, rng=rng())
    assert_frequencies(np.bincount(last.state @ [2, 1], minlength=4) / draws, list(law), draws)
    *_, last = process.sample(model, 2, draws, rng=rng(), allowed=np.array([[True, True], [False, True]]))
    assert (last.state[:, 1] == 1).all()


def test_what_is_given_after_a_blank_is_refused() -> None:
    """A model that goes left to right would generate as if it were not there."""
    given = known(np.array([[1, *[START] * 11], [1, START, START, 2, *[START] * 8]]))
    with pytest.raises(ValueError, match=r"in sequence 1 position 2 is free and the next one is given.*masked model"):
        LEFT_TO_RIGHT.sample(random_model(V, L), L, 2, rng=rng(), **given)
