"""Beam search, lengths side by side, refinement: the decoders of translation but for Mask-Predict (identities, N7)."""

import itertools
from typing import Any

import numpy as np
import pytest

from tests.identities.conftest import random_model
from tinydiff import Autoregressive, MaskedDiffusion, Refinement, Tensor, decoders, exact
from tinydiff.arrays import Bools, Floats, Ints
from tinydiff.data import Batch, phrasebook
from tinydiff.data.translation import Translations
from tinydiff.decoders.lengths import length_law

GREEDY = decoders.Draw(temperature=0)
V, L = 4, 4


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# --- beam search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    """The same tokens, the same confidences, a frame per token; with prompts of several lengths."""
    process, model = Autoregressive(V), random_model(V, L, seed=seed)
    for known in ({}, {"x0": np.tile([2, 1, 3, 0], (3, 1)), "given": np.arange(L) < np.array([[0], [1], [3]])}):
        beam, greedy = (
            list(process.sample(model, L, 3, decoder=decoder, rng=rng(), **known))
            for decoder in (decoders.Beam(1), decoders.NextToken(GREEDY))
        )
        assert len(beam) == len(greedy)
        for a, b in zip(beam, greedy, strict=True):
            np.testing.assert_array_equal(a.state, b.state)
            np.testing.assert_array_equal(a.committed, b.committed)
            np.testing.assert_allclose(a.confidence, b.confidence, rtol=1e-12)
            assert (a.step, a.steps, a.t) == (b.step, b.steps, b.t)


def test_a_beam_of_all_beginnings_finds_the_likeliest_text() -> None:
    """Of all 256 texts by their exact likelihood; narrow beams find less likely ones, never likelier."""
    process, narrower = Autoregressive(V), 0
    for seed in range(20):
        model = random_model(V, L, seed=seed)
        texts = exact.all_sequences(V, L)
        nll = process.bound(model, texts, rng())
        found = []
        for width in (1, 2, V ** (L - 1)):
            *_, last = process.sample(model, L, decoder=decoders.Beam(width), rng=rng())
            found.append(nll[exact.state_index(last.state, V)[0]])
            np.testing.assert_allclose(-np.log(last.confidence).sum(), found[-1], rtol=1e-9)
        assert found[-1] == nll.min()
        assert found[0] >= found[-1]
        narrower += found[0] > found[-1]
    assert narrower >= 3  # greedy is not enough


def test_a_beam_keeps_to_prompt_and_constraints() -> None:
    """The likeliest of the texts that have them, each row by its own."""
    process, model = Autoregressive(V), random_model(V, L, seed=1)
    x0, given = np.tile([2, 1, 3, 0], (3, 1)), np.arange(L) < np.array([[0], [1], [3]])
    allowed = np.ones((3, L, V), bool)
    allowed[:, 3, 1:3] = False
    *_, last = process.sample(
        model, L, 3, decoder=decoders.Beam(V**3), x0=x0, given=given, allowed=allowed, rng=rng()
    )  # fmt: skip
    texts = exact.all_sequences(V, L)
    for row in range(3):
        fit = texts[(texts[:, given[row]] == x0[row, given[row]]).all(axis=1)]
        # What is allowed at the last position is a condition, not a choice: its probabilities are made to sum to 1.
        before = process.bound(model, Batch(fit, given=np.tile(np.arange(L) < 3, (len(fit), 1))), rng())
        whole = process.bound(model, Batch(fit, given=np.tile(given[row], (len(fit), 1))), rng()) if row < 2 else before
        share = np.array(
            [np.exp(-before[(fit[:, :3] == x[:3]).all(axis=1) & np.isin(fit[:, 3], [0, 3])]).sum() for x in fit]
        )
        scores = np.where(np.isin(fit[:, 3], [0, 3]), whole + np.log(share), np.inf)
        np.testing.assert_array_equal(last.state[row], fit[scores.argmin()])


def test_a_beam_refuses_what_is_no_prompt() -> None:
    """As `NextToken` does."""
    with pytest.raises(ValueError, match="given is no prompt"):
        Autoregressive(V).sample(
            random_model(V, L), L, decoder=decoders.Beam(), x0=np.zeros(L, int), given=np.arange(L) == 2, rng=rng()
        )


# --- lengths side by side ---------------------------------------------------------------------------------------------

NUMBERS = phrasebook.numbers()


def beam_of(law: Translations, beams: int, decoder: decoders.Decoder | None = None) -> decoders.LengthBeam:
    """A beam for that law."""
    return decoders.LengthBeam(law.fill_id, tuple(law.count_ids.tolist()), beams, decoder or decoders.MaskPredict(1))


@pytest.mark.parametrize("beams", [1, 2])
def test_every_length_is_written_with_its_number_and_filling(beams: int) -> None:
    """Numbers: with the length told one pass is always right. One length is the likeliest; of two the surer is kept."""
    law = NUMBERS
    process, x0 = MaskedDiffusion(law.codec.vocab_size), np.zeros((len(law.sources), law.length), np.int64)
    x0[:, : law.begin] = law.sources
    *_, last = process.sample(
        exact.ListedDenoiser(law), law.length, len(x0), decoder=beam_of(law, beams), x0=x0, given=law.given, rng=rng()
    )
    at = law.places(last.state)
    assert (at >= 0).all()
    assert (law.lengths[at] == 2).all()  # 0.7; of equally sure ones the likelier, which is the first
    np.testing.assert_array_equal(last.given, np.tile(law.given, (len(x0), 1)))


class Unsure:
    """A model for which two words are likelier, and each of three is surer: 0.6 against 0.52, and less all three."""

    def __init__(self, law: Translations) -> None:
        self.law, self.vocab_size = law, law.codec.vocab_size

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        law = self.law
        p = np.full((*x.shape, self.vocab_size), 1e-6)
        p[..., law.fill_id] = 0.5
        p[:, law.begin, law.count_ids[1]], p[:, law.begin, law.count_ids[2]] = 0.6, 0.4
        place, (one, two) = law.begin + 1 + np.arange(3), law.encode("one two")
        sure = np.where(x[:, law.begin] == law.count_ids[2], 0.3, 0.26)[:, None]  # of three words, and of two
        p[:, place, one], p[:, place, two] = sure, 0.5 - sure
        return Tensor(np.log(p) if select is None else np.log(p)[select])


def test_the_surest_length_is_kept() -> None:
    """By the mean log probability of its words, in which nothing may fill up; and the law of the lengths."""
    law = NUMBERS
    process, model = MaskedDiffusion(law.codec.vocab_size), Unsure(law)
    x0, given = law.asked("2 1")
    for beams, words in ((1, 2), (2, 3)):
        *_, last = process.sample(model, law.length, decoder=beam_of(law, beams), x0=x0, given=given, rng=rng())
        assert law.target(last.state[0]) == " ".join(["one"] * words)
        assert last.state[0, law.begin] == law.count_ids[words - 1]
    canvas = decoders.Canvas.of(law.length, 1, process.mask_id, x0=x0, given=given)
    found = length_law(process, model, canvas, law.begin, law.count_ids)
    np.testing.assert_allclose(found, [[0, 0.6, 0.4]])


def test_a_beam_of_lengths_refuses_other_texts() -> None:
    """Constraints of one's own, and texts whose target begins elsewhere."""
    law = NUMBERS
    process, (x0, given) = MaskedDiffusion(law.codec.vocab_size), law.asked("2 1")
    for known, words in (
        ({"allowed": np.ones((law.length, law.codec.vocab_size), bool)}, "allowed is there, but a beam of lengths"),
        ({"given": np.arange(law.length) < 2}, "given is True elsewhere than at the first 3 of 7 positions"),
    ):
        options: dict[str, Any] = {"x0": x0, "given": given} | known
        with pytest.raises(ValueError, match=words):
            process.sample(exact.ListedDenoiser(law), law.length, decoder=beam_of(law, 1), rng=rng(), **options)


# --- refinement -------------------------------------------------------------------------------------------------------


class Table:
    """A model that makes one certain text of each text."""

    def __init__(self, table: dict[tuple[int, ...], tuple[int, ...]], vocab_size: int) -> None:
        self.table, self.vocab_size = table, vocab_size

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        after = np.array([self.table[tuple(row)] for row in x.tolist()])
        logits = 50.0 * np.eye(self.vocab_size)[after]
        return Tensor(logits if select is None else logits[select])


def test_refinement_stops_when_every_text_has_come_back() -> None:
    """A fixed point after two passes; a cycle of three after one; `orbit` tells them apart, and what has not ended."""
    table = {
        (9, 0): (1, 0), (1, 0): (2, 0), (2, 0): (2, 0), (9, 5): (3, 5), (3, 5): (4, 5), (4, 5): (6, 5), (6, 5): (3, 5),
    }  # fmt: skip
    process, model = Refinement(9), Table(table, 9)
    known = {"x0": np.array([[8, 0], [8, 5]]), "given": np.array([False, True])}
    frames = list(process.sample(model, 2, 2, decoder=decoders.Refine(10), rng=rng(), **known))
    states = [frame.state for frame in frames[1:]]
    assert [state[:, 0].tolist() for state in states] == [[1, 3], [2, 4], [2, 6], [2, 3]]
    passes, period = decoders.orbit(states)
    assert passes.tolist() == [2, 1]
    assert period.tolist() == [1, 3]
    passes, period = decoders.orbit(states[:3])
    assert (passes.tolist(), period.tolist()) == ([2, 3], [1, 0])
    assert [frame.committed[:, 0].tolist() for frame in frames[1:]] == [
        [True, True], [True, True], [False, True], [False, True],
    ]  # fmt: skip
    assert len(list(process.sample(model, 2, 2, decoder=decoders.Refine(2), rng=rng(), **known))) == 3


def test_refinement_draws_in_its_first_pass_only() -> None:
    """Different first texts from a draw; every later pass is a function of the one before."""
    process, model = Refinement(V), random_model(V, L)
    frames = list(process.sample(model, L, 500, decoder=decoders.Refine(3, decoders.Draw()), rng=rng()))
    first, second = frames[1].state, frames[2].state
    assert len(np.unique(first, axis=0)) > 50
    for text in np.unique(first, axis=0):
        assert len(np.unique(second[(first == text).all(axis=1)], axis=0)) == 1
    np.testing.assert_array_equal(second, model(first).data.argmax(axis=-1))


def test_the_noise_of_refinement() -> None:
    """Of "abc" at one position: repeat, replace or swap, a third each; the last can only be replaced. By frequencies.

    60,000 draws, each text within 5 standard errors of its probability, listed by hand from the definition.
    """
    process, n = Refinement(4), 60_000
    x0, given = np.tile([3, 0, 1, 2], (n, 1)), np.tile([True, False, False, False], (n, 1))
    found = process.corrupt(x0, np.full(n, 0.3), rng(), given)  # floor(0.9) = 0, so one position
    assert (found[:, 0] == 3).all()
    law: dict[tuple[int, ...], float] = {}

    def add(text: tuple[int, ...], p: float) -> None:
        law[text] = law.get(text, 0) + p

    for v in range(4):
        add((v, 1, 2), 1 / 36), add((0, v, 2), 1 / 36), add((0, 1, v), 1 / 12)
    add((0, 0, 2), 1 / 9), add((0, 1, 1), 1 / 9), add((1, 0, 2), 1 / 9), add((0, 2, 1), 1 / 9)
    assert abs(sum(law.values()) - 1) < 1e-12
    for text in itertools.product(range(4), repeat=3):
        p, f = law.get(text, 0.0), float((found[:, 1:] == text).all(axis=1).mean())
        assert abs(f - p) <= 5 * np.sqrt(p * (1 - p) / n), text
    half = process.corrupt(x0, np.full(n, 0.7), rng(), given)  # two positions: seldom only one word differs
    assert (found != x0).sum(axis=1).mean() < (half != x0).sum(axis=1).mean()


def test_the_bound_of_refinement_is_one() -> None:
    """-log p(y) of T passes, by summing over every text between, is below; and in one pass equal. V = 3, L = 3."""
    model, texts = random_model(3, 3), exact.all_sequences(3, 3)
    with np.errstate(divide="ignore"):
        one = exact.product_law(exact.token_probabilities(model, np.full((1, 3), 3), 0.0))[0]
    step = exact.product_law(exact.token_probabilities(model, texts, 0.0))  # (27, 27)
    law = one
    for passes in (1, 2, 3):
        bound = Refinement(3, passes).bound(model, texts, rng())
        if passes == 1:
            np.testing.assert_allclose(bound, -np.log(law), rtol=1e-9)
        else:
            law = law @ step
            assert (bound >= -np.log(law) - 1e-9).all()
            # Only one way is counted: the likeliest words, pass by pass.
            way = one.argmax()
            nll = -np.log(one[way])
            for _ in range(passes - 2):
                nll, way = nll - np.log(step[way].max()), step[way].argmax()
            np.testing.assert_allclose(bound, nll - np.log(step[way]), rtol=1e-9)


def test_what_is_given_is_not_scored() -> None:
    """Loss and bound of refinement: words that are given count nothing, and are seen as they are."""
    process, model = Refinement(V), random_model(V, L)
    x0, given = np.tile([2, 1, 3, 0], (500, 1)), np.tile([True, True, False, False], (500, 1))
    bound = Refinement(V, 1).bound(model, Batch(x0[:1], given=given[:1]), rng())
    p = exact.token_probabilities(model, np.array([[2, 1, V, V]]), 0.0)[0]
    np.testing.assert_allclose(bound, [-np.log(p[2, 3]) - np.log(p[3, 0])], rtol=1e-9)
    own = np.array([2, 1, *p[2:].argmax(axis=1)])
    noised = process.corrupt(x0, rng(1).random(500), rng(1), given)
    assert (noised[:, :2] == [2, 1]).all()
    loss = np.mean([process.loss(model, Batch(x0, given=given), rng(seed)).item() for seed in range(8)])

    def nll(x: Ints) -> Floats:
        q = exact.token_probabilities(model, x, 0.0)
        return -(np.log(q[:, 2, 3]) + np.log(q[:, 3, 0])) / 2

    expected = (bound[0] / 2 + (nll(own[None])[0] + nll(noised).mean()) / 2) / 2
    assert abs(loss - expected) < 0.05 * expected
