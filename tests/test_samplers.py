"""Sampling: which positions a step fills, with what, and what a frame says about it."""

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import MaskedDiffusion, Tensor, samplers
from tinydiff.arrays import Bools, Floats, Ints

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
    tokens, _ = samplers.Draw(**options)(logits, rng())
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
        tokens, confidence = samplers.Draw(**options)(np.log([p]), rng())
        assert confidence == pytest.approx([p[tokens[0]]])


def test_broken_logits_are_refused() -> None:
    """NaN would otherwise be the argmax and become text."""
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="NaN or inf"):
            samplers.Draw()(np.array([[0.0, value]]), rng())


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


@pytest.mark.parametrize("remasking", ["low_confidence", "random"])
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


@pytest.mark.parametrize("remasking", ["low_confidence", "random", "ancestral", "first_hitting"])
def test_infilling_never_changes_what_is_given(remasking: str) -> None:
    """C6: given positions stay, in every frame."""
    given = np.where(rng(1).random((4, L)) < 0.5, rng(2).integers(0, V, (4, L)), MASK)
    kept = given != MASK
    for frame in PROCESS.sample(
        random_model(V, L),
        L,
        4,
        rng=rng(),
        steps=None if remasking == "first_hitting" else 2,
        remasking=remasking,
        given=given,
    ):
        assert (frame.state[kept] == given[kept]).all()
        assert not frame.committed[kept].any()
        assert (frame.confidence[kept] == 1).all()
    assert (frame.state != MASK).all()


def test_nothing_to_fill() -> None:
    """A text without masks comes back as it is, after one idle step."""
    given = np.arange(L) % V
    frames = list(PROCESS.sample(random_model(V, L), L, rng=rng(), given=given))
    assert len(frames) == 2
    np.testing.assert_array_equal(frames[-1].state[0], given)


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


@pytest.mark.parametrize("remasking", ["low_confidence", "random", "ancestral"])
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
        ({"block_length": 3, "remasking": "ancestral"}, "ancestral sampling has no blocks"),
        ({"steps": 3, "remasking": "first_hitting"}, "one step per masked position"),
        ({"choice_temperature": -1.0}, "choice_temperature is -1"),
        ({"remasking": "sideways"}, "'sideways'"),
        ({"given": np.zeros(3, int)}, r"given has shape \(3,\)"),
        ({"given": np.full(L, MASK + 1)}, "given contains ids outside"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_bad_input(options: dict, words: str) -> None:
    """Raised by the call itself, before any frame is asked for."""
    with pytest.raises(ValueError, match=words):
        PROCESS.sample(random_model(V, L), L, rng=rng(), **options)
