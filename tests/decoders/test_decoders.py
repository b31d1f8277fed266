"""Sampling: which positions a step fills, with what, and what a frame says about it."""

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import Autoregressive, MaskedDiffusion, Tensor, decoders, exact
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.data import laws

V, L = 5, 12
PROCESS = MaskedDiffusion(V)
MASK = PROCESS.mask_id


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Sure:
    """A model whose confidence at position i is known: p(token 1) = confidence[i], the rest split evenly."""

    def __init__(self, confidence: Floats) -> None:
        self.confidence = confidence

    def __call__(
        self, x: Ints, t: Floats | None = None, *, causal: bool = False, select: Bools | None = None
    ) -> Tensor:
        p = np.repeat(((1 - self.confidence) / (V - 1))[:, None], V, axis=1)
        p[:, 1] = self.confidence
        logits = np.broadcast_to(np.log(p), (*x.shape, V))
        return Tensor(np.array(logits if select is None else logits[select]))


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
    frames = list(PROCESS.sample(Sure(confidence), 6, rng=rng(), steps=6, temperature=0))
    order = [int(np.flatnonzero(frame.committed[0])[0]) for frame in frames[1:]]
    assert order == [1, 4, 2, 3, 5, 0]
    np.testing.assert_allclose(frames[-1].confidence[0], confidence)


def test_random_ignores_confidence() -> None:
    """Every position is equally likely to come first: 4.5 standard errors, two-sided, seed fixed."""
    confidence = np.array([0.3, 0.9, 0.5, 0.4])
    frames = PROCESS.sample(Sure(confidence), 4, 20_000, rng=rng(), steps=4, remasking="random", temperature=0)
    next(frames)
    assert_frequencies(next(frames).committed.mean(axis=0), [0.25] * 4, 20_000)


def test_choice_temperature_blends_confidence_and_chance() -> None:
    """A little noise keeps the surest ahead most of the time, a lot makes the order nearly random."""
    confidence = np.array([0.3, 0.9, 0.5, 0.4])

    def first_is_surest(choice_temperature: float) -> float:
        frames = PROCESS.sample(
            Sure(confidence), 4, 4000, rng=rng(), steps=4, temperature=0, choice_temperature=choice_temperature
        )
        next(frames)
        return float(next(frames).committed[:, 1].mean())

    little, much = first_is_surest(0.3), first_is_surest(50.0)
    assert first_is_surest(0.0) == 1
    assert 0.5 < little < 1
    assert 0.2 < much < 0.35


@pytest.mark.parametrize("remasking", ["low_confidence", "entropy", "margin", "random"])
@pytest.mark.parametrize("steps", [1, 2, 5, 11, 12])
def test_every_step_takes_its_share_and_nothing_stays_masked(remasking: str, steps: int) -> None:
    """Off by one here leaves masks in the result, or fills everything in the first step."""
    frames = list(PROCESS.sample(random_model(V, L), L, 3, rng=rng(), steps=steps, remasking=remasking))
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
        *_, last = process.sample(random_model(V, L), L, 3, rng=rng(), steps=steps, remasking="ancestral")
        assert (last.state != MASK).all()


def test_rows_with_different_numbers_of_masks_keep_their_own_pace() -> None:
    """One quota for the whole batch would starve the fullest row or overrun the emptiest."""
    given = np.full((3, L), MASK)
    given[1, :7] = 2
    given[2] = 3
    frames = list(PROCESS.sample(random_model(V, L), L, 3, rng=rng(), steps=4, given=given))
    np.testing.assert_array_equal([f.committed.sum(axis=1) for f in frames[1:]], [[3, 1, 0]] * 3 + [[3, 2, 0]])


def test_blocks_are_filled_left_to_right() -> None:
    """Semi-autoregressive order: no position of a block before the block to its left is done; the last may be short."""
    frames = list(PROCESS.sample(random_model(V, L), L, 2, rng=rng(), steps=L, block_length=5))
    for frame in frames[1:]:
        block = np.unique(np.nonzero(frame.committed)[1] // 5)
        left = frame.state[:, : block.max() * 5]
        assert len(block) == 1
        assert (left != MASK).all()
    assert (frames[-1].state != MASK).all()


@pytest.mark.parametrize("options", [{}, {"threshold": 0.5}, {"remask": "cap"}, {"remasking": "ancestral"}])
def test_nothing_to_fill(options: dict) -> None:
    """A text without masks comes back as it is, after at most one idle step."""
    given = np.arange(L) % V
    frames = list(PROCESS.sample(random_model(V, L), L, rng=rng(), given=given, **options))
    assert len(frames) <= 2
    np.testing.assert_array_equal(frames[-1].state[0], given)


class Fixed:
    """A model with a law of its own for every position, whatever is visible: (L, V) probabilities."""

    def __init__(self, p: Floats) -> None:
        self.p = np.array(p)

    def __call__(
        self, x: Ints, t: Floats | None = None, *, causal: bool = False, select: Bools | None = None
    ) -> Tensor:
        logits = np.broadcast_to(np.log(self.p), (*x.shape, self.p.shape[1]))
        return Tensor(np.array(logits if select is None else logits[select]))


def test_entropy_and_margin_judge_the_law_not_the_draw() -> None:
    """Three laws that the two orders rank differently, whatever is drawn from them."""
    peaked, two, flat = [0.7, 0.1, 0.1, 0.1], [0.6, 0.4 - 2e-9, 1e-9, 1e-9], [0.55, 0.15, 0.15, 0.15]
    process, model = MaskedDiffusion(4), Fixed([flat, two, peaked])  # entropies 1.18, 0.67, 0.94; margins .4, .2, .6
    for remasking, expected in (("entropy", [1, 2, 0]), ("margin", [2, 0, 1])):
        frames = list(process.sample(model, 3, 500, rng=rng(), steps=3, remasking=remasking))
        order = np.stack([frame.committed.argmax(axis=1) for frame in frames[1:]], axis=1)  # (B, 3)
        np.testing.assert_array_equal(order, np.tile(expected, (500, 1)))


def test_cosine_commits_few_at_first() -> None:
    """The share still masked after i of S steps is cos(pi i / 2 S), rounded up; no step is idle; short rows keep up."""
    frames = list(PROCESS.sample(random_model(V, 40), 40, rng=rng(), steps=5, commits="cosine"))
    left = [int((frame.state == MASK).sum()) for frame in frames]
    assert left == [40, 39, 33, 24, 13, 0]  # 40 cos(pi i / 10) = 38.04, 32.4, 23.5, 12.4
    given = np.full((2, L), MASK)
    given[1, 2:] = 0  # two masks for ten steps
    frames = list(PROCESS.sample(random_model(V, L), L, 2, rng=rng(), steps=10, commits="cosine", given=given))
    commits = np.array([frame.committed.sum(axis=1) for frame in frames[1:]])
    assert commits[:, 0].min() >= 1
    np.testing.assert_array_equal(commits.sum(axis=0), [L, 2])


def test_threshold_commits_all_that_is_sure_and_at_least_one() -> None:
    """Rows with different numbers of sure positions each take their own; the number of steps follows."""
    confidence = np.array([0.9, 0.3, 0.85, 0.5, 0.8, 0.4])
    given = np.array([[MASK] * 6, [MASK, 1, MASK, MASK, 1, 1], [1] * 6])
    frames = list(PROCESS.sample(Sure(confidence), 6, 3, rng=rng(), threshold=0.7, temperature=0, given=given))
    commits = [frame.committed.sum(axis=1).tolist() for frame in frames[1:]]
    assert commits == [[3, 2, 0], [1, 1, 0], [1, 0, 0], [1, 0, 0]]
    assert [frame.committed[0].nonzero()[0].tolist() for frame in frames[1:]] == [[0, 2, 4], [3], [5], [1]]
    assert [frame.steps for frame in frames] == [6, 4, 4, 4, 4]
    assert frames[-1].t == 0
    # A probability equal to the threshold is not above it.
    *_, last = PROCESS.sample(Sure(np.array([0.5, 0.5])), 2, rng=rng(), threshold=0.5, temperature=0)
    assert last.step == 2


def test_only_blocks_with_masks_take_steps() -> None:
    """A text that is mostly given, in blocks: steps go where the masks are, at least one to each block that has any."""
    given = np.ones((2, 12), np.int64)
    given[0, [2, 3, 8, 9, 10, 11]] = MASK
    given[1, 0] = MASK
    frames = list(PROCESS.sample(random_model(V, L), 12, 2, rng=rng(), block_length=4, given=given))
    assert [frame.committed.sum(axis=1).tolist() for frame in frames[1:]] == [[1, 0], [1, 1]] + [[1, 0]] * 4
    for steps, most in ((2, 4), (3, 2), (6, 1)):
        frames = list(PROCESS.sample(random_model(V, L), 12, 2, rng=rng(), block_length=4, given=given, steps=steps))
        assert len(frames) == steps + 1
        assert max(frame.committed.sum(axis=1).max() for frame in frames) == most
        assert not (frames[-1].state == MASK).any()
    with pytest.raises(ValueError, match="2 blocks of 4 need at least one step each"):
        PROCESS.sample(random_model(V, L), 12, 2, rng=rng(), block_length=4, given=given, steps=1)


def test_steps_are_never_more_than_announced() -> None:
    """With a threshold a bound of the steps is known: here of sequences that are masked in different blocks."""
    given = np.ones((2, 4), np.int64)
    given[0, :2], given[1, 2:] = MASK, MASK
    frames = list(PROCESS.sample(Sure(np.full(4, 0.5)), 4, 2, rng=rng(), threshold=0.9, block_length=2, given=given))
    assert [(frame.step, frame.steps) for frame in frames] == [(i, 4) for i in range(5)]


def test_first_hitting_ends_at_time_0() -> None:
    """Also where a sequence is done before the others."""
    given = np.array([[MASK] * 6, [MASK] + [1] * 5])
    frames = list(PROCESS.sample(random_model(V, L), 6, 2, rng=rng(), remasking="first_hitting", given=given))
    assert frames[-1].t == 0
    assert all(frame.t > 0 for frame in frames[:-1])


def test_threshold_keeps_to_blocks() -> None:
    """A sure position of a later block waits."""
    confidence = np.array([0.3, 0.9, 0.95, 0.95])
    frames = list(PROCESS.sample(Sure(confidence), 4, rng=rng(), threshold=0.7, block_length=2, temperature=0))
    assert [frame.committed[0].nonzero()[0].tolist() for frame in frames[1:]] == [[1], [0], [2, 3]]


# --- masking again --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("how", "eta"), [("cap", 0.3), ("rescale", 0.6), ("confidence", 1.0)])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_remasking_keeps_the_marginals(how: str, eta: float, schedule: str) -> None:
    """The share of masks at time s is 1 - alpha_s, as without remasking (ReMDM, eq. 4); "confidence" leaves more.

    At 4.5 standard errors (level 7e-6 each), two-sided, seed fixed.
    """
    process, steps, batch = MaskedDiffusion(V, schedule), 8, 4000
    frames = list(process.sample(random_model(V, L), L, batch, rng=rng(), steps=steps, remask=how, eta=eta))
    share = np.array([(frame.state == MASK).mean() for frame in frames])
    expected = 1 - process.schedule.grid(steps)[::-1]
    slack = 4.5 * np.sqrt(expected * (1 - expected) / (batch * L))
    if how == "confidence":
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


def test_strength_zero_is_ancestral_sampling() -> None:
    """Nothing is masked again, and the share of masks falls evenly, as by `ancestral` under the linear schedule."""
    for how in ("cap", "rescale", "confidence"):
        frames = list(PROCESS.sample(random_model(V, L), L, 50, rng=rng(), steps=6, remask=how, eta=0))
        assert not any(frame.remasked.any() for frame in frames)
        share = [(frame.state == MASK).mean() for frame in frames]
        np.testing.assert_allclose(share, np.linspace(1, 0, 7), atol=0.06)


def test_confidence_masks_the_least_sure_again() -> None:
    """Of two visible tokens, exp(-confidence) decides how often each is masked again."""
    visible = np.array([[True, True, False], [False, False, False]])
    p = decoders.remask.least_sure(visible, np.array([[0.9, 0.2, 0.0], [0.0, 0.0, 0.0]]))
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


def test_guidance_leaves_the_impossible_alone() -> None:
    """A model that rules tokens out: guided or not, only texts that it knows come out."""
    law = laws.Listed(("abc", "acb", "ddd"), np.full(3, 1 / 3))
    process, given = MaskedDiffusion(law.codec.vocab_size), np.array([0, 4, 4])
    *_, last = process.sample(exact.ListedDenoiser(law), 3, 50, rng=rng(), cfg_scale=1.0, given=given)
    assert {law.codec.decode(row) for row in last.state} == {"abc", "acb"}


def test_guidance_reaches_the_sampler() -> None:
    """`cfg_scale` changes the texts that the same seed gives: it is not forgotten on the way."""
    given = np.full(L, MASK)
    given[:3] = [0, 1, 2]
    texts = [
        list(PROCESS.sample(random_model(V, L), L, 200, rng=rng(), steps=2, cfg_scale=scale, given=given))[-1].state
        for scale in (0.0, 3.0)
    ]
    assert (texts[0] != texts[1]).any()


@pytest.mark.parametrize(
    "options", [{}, {"remasking": "random"}, {"remasking": "ancestral"}, {"remasking": "first_hitting"},
                {"remask": "rescale"}, {"threshold": 0.4}, {"temperature": 0}, {"top_k": 1}, {"top_p": 0.1}],
)  # fmt: skip
def test_constraints_hold(options: dict) -> None:
    """Every position holds one of its own tokens, whatever chooses it; alike for (L, V) and (B, L, V)."""
    allowed = rng(3).random((4, L, V)) < 0.4
    allowed[..., 0] |= ~allowed.any(axis=-1)
    *_, last = PROCESS.sample(random_model(V, L), L, 4, rng=rng(), allowed=allowed, **options)
    assert np.take_along_axis(allowed, last.state[..., None], axis=-1).all()
    *_, last = PROCESS.sample(random_model(V, L), L, 4, rng=rng(), allowed=allowed[0], **options)
    assert allowed[0][np.arange(L), last.state].all()


def test_a_constraint_is_a_condition() -> None:
    """Allowed tokens keep their ratio, and confidence is measured among them."""
    model = Fixed([[0.5, 0.3, 0.2]])
    *_, last = MaskedDiffusion(3).sample(model, 1, 200_000, rng=rng(), allowed=np.array([[False, True, True]]))
    assert_frequencies(np.bincount(last.state[:, 0], minlength=3) / 200_000, [0, 0.6, 0.4])
    np.testing.assert_allclose(last.confidence[:, 0], np.array([0, 0.6, 0.4])[last.state[:, 0]])


def test_frames_are_snapshots() -> None:
    """A frame kept for a film must not change when the sampler goes on."""
    frames, copies = [], []
    for frame in PROCESS.sample(random_model(V, L), L, 2, rng=rng(), steps=4):
        frames.append(frame)
        copies.append((frame.state.copy(), frame.confidence.copy(), frame.committed.copy()))
    for frame, (state, confidence, committed) in zip(frames, copies, strict=True):
        np.testing.assert_array_equal(frame.state, state)
        np.testing.assert_array_equal(frame.confidence, confidence)
        np.testing.assert_array_equal(frame.committed, committed)
        assert ((frame.confidence > 0) == (frame.state != MASK)).all()


@pytest.mark.parametrize("remasking", ["low_confidence", "entropy", "margin", "random", "ancestral"])
def test_same_seed_same_text(remasking: str) -> None:
    """The generator passed in is the only source of chance."""

    def text(seed: int) -> Ints:
        *_, last = PROCESS.sample(random_model(V, L), L, 2, rng=rng(seed), steps=4, remasking=remasking)
        return last.state

    np.testing.assert_array_equal(text(1), text(1))
    assert (text(1) != text(2)).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": L + 1}, f"steps is {L + 1}, but only {L} positions"),
        ({"steps": 0, "remasking": "ancestral"}, "steps is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"block_length": 0}, "block_length is 0"),
        ({"block_length": L + 1}, f"block_length is {L + 1}"),
        ({"block_length": 3, "steps": 2}, "4 blocks of 3"),
        ({"block_length": 3, "remasking": "ancestral"}, "block_length is 3, but in ancestral chance decides"),
        ({"steps": 3, "remasking": "first_hitting"}, "one step per masked position"),
        ({"choice_temperature": -1.0}, "choice_temperature is -1"),
        ({"remasking": "sideways"}, "'sideways'"),
        ({"given": np.zeros(3, int)}, r"given has shape \(3,\)"),
        ({"given": np.full(L, MASK + 1)}, "given contains ids outside"),
        ({"batch": 0}, "batch is 0"),
        ({"commits": "slowly"}, "commits is 'slowly'"),
        ({"threshold": 0.0}, "threshold is 0.0; expected 0 < threshold < 1"),
        ({"threshold": 1.0}, "threshold is 1.0; expected 0 < threshold < 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": 0.5, "steps": 3}, "steps is 3 and threshold is 0.5"),
        ({"threshold": 0.5, "commits": "cosine"}, "commits is 'cosine' and threshold is 0.5"),
        ({"threshold": 0.5, "remasking": "ancestral"}, "threshold is 0.5, but in ancestral chance decides"),
        ({"remask": "sometimes"}, "remask is 'sometimes'"),
        ({"remask": "cap", "eta": 1.5}, "eta is 1.5; expected 0 <= eta <= 1"),
        ({"remask": "cap", "remasking": "random"}, "leave one out"),
        ({"remask": "cap", "block_length": 4}, "block_length is 4, but in remask cap chance decides"),
        ({"eta": 0.5}, "eta is 0.5, but nothing is masked again"),
        ({"cfg_scale": 1.0}, "cfg_scale is 1.0, but nothing is given"),
        ({"cfg_scale": float("inf")}, "cfg_scale is inf"),
        ({"allowed": np.ones((L, V + 1), bool)}, r"allowed has shape \(12, 6\)"),
        ({"allowed": np.ones((L, V))}, "dtype float64"),
        ({"allowed": np.arange(L * V).reshape(L, V) >= V}, "no token for position 0 of sequence 0"),
        (
            {"allowed": np.arange(V) != np.full((L, 1), 3), "given": np.array([0, 3, *[MASK] * 10])},
            "token 3 is given at position 1 of sequence 0, but is not allowed",
        ),
    ],
)
def test_bad_input(options: dict, words: str) -> None:
    """Raised by the call itself, before any frame is asked for."""
    with pytest.raises(ValueError, match=words):
        PROCESS.sample(random_model(V, L), L, rng=rng(), **options)


# --- left to right --------------------------------------------------------------------------------------------------

LEFT_TO_RIGHT = Autoregressive(V)
START = LEFT_TO_RIGHT.start_id


def test_cache_or_not_the_same_text() -> None:
    """Keys and values kept in the wrong place, or of the wrong sequence: the same seed would give another text."""
    given = np.array([[1, 2, 3, *[START] * 9], [4, *[START] * 11]])
    cached, uncached = (
        list(LEFT_TO_RIGHT.sample(random_model(V, L), L, 2, rng=rng(), given=given, cache=cache))
        for cache in (True, False)
    )
    for kept, read_again in zip(cached, uncached, strict=True):
        np.testing.assert_array_equal(kept.state, read_again.state)
        np.testing.assert_allclose(kept.confidence, read_again.confidence, atol=1e-12)


def test_a_prompt_is_continued() -> None:
    """Prompts of different lengths stay as they are, and each text goes on from its own end with the model's law."""
    given = np.array([[1, 2, 3, *[START] * 3], [4, *[START] * 5], [0, 1, 2, 3, 4, 0]])
    frames = list(LEFT_TO_RIGHT.sample(random_model(V, L), 6, 3, rng=rng(), given=given))
    assert [frame.step for frame in frames] == list(range(6))
    kept = given != START
    for frame in frames:
        np.testing.assert_array_equal(frame.state[kept], given[kept])
        assert not frame.committed[kept].any()
        assert (frame.confidence[kept] == 1).all()
    np.testing.assert_array_equal(sum(frame.committed.sum(axis=1) for frame in frames), [3, 5, 0])
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"given": np.array([1, START, 2, *[START] * 9])}, f"special token {START} at position 1, inside the prompt"),
        ({"given": np.array([1, 2])}, r"given has shape \(2,\)"),
        ({"given": np.full(L, START + 1)}, "given contains ids outside"),
        ({"top_k": 0}, "top_k is 0"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"allowed": np.zeros((L, V), bool)}, "no token for position 0"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_bad_input_left_to_right(options: dict, words: str) -> None:
    """Raised by the call itself, before any frame is asked for."""
    with pytest.raises(ValueError, match=words):
        LEFT_TO_RIGHT.sample(random_model(V, L), L, rng=rng(), **options)


def test_a_finished_prompt_comes_back() -> None:
    """Nothing to generate: the text as it is, and no call of the model."""
    frames = list(LEFT_TO_RIGHT.sample(random_model(V, L), L, rng=rng(), given=np.arange(L) % V))
    assert len(frames) == 1
    np.testing.assert_array_equal(frames[0].state[0], np.arange(L) % V)
