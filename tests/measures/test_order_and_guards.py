"""Order, use of context, guards and facts: wiring and what is refused."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from tests.test_cli import fails
from tinydiff import MaskedDiffusion, cli, decoders, exact
from tinydiff.data import laws, reversal
from tinydiff.data.laws import Listed
from tinydiff.measures import guards, order
from tinydiff.processes import SuffixMasks, from_config

LAW = Listed(("ab", "ba", "zz", "az"), np.array([0.4, 0.3, 0.1, 0.2]))


def zz(text: str) -> bool:
    return "zz" in text


def test_ar_ness_by_hand() -> None:
    """Order 2, 0, 1: no step is local but the last; the first is not the leftmost, the others are."""
    local, far = order.ar_ness(np.array([[2, 0, 1], [0, 1, 2]]))
    np.testing.assert_allclose(local, [1 / 3, 2 / 3])
    np.testing.assert_allclose(far, [2 / 3, 1])
    with pytest.raises(ValueError, match="k is 4; expected 1 <= k <= 3"):
        order.ar_ness(np.array([[0, 1, 2]]), 4)
    with pytest.raises(ValueError, match="k is 0"):
        order.random_ar_ness(3, 0)


def test_commit_order_counts_the_last_commit() -> None:
    """Several in a step go left to right; given positions are left out; frames that differ in them are refused."""
    process, model = MaskedDiffusion(LAW.codec.vocab_size), exact.ListedDenoiser(LAW)
    rng = np.random.default_rng(0)
    x0, given = np.zeros(2, np.int64), np.array([True, False])
    frames = process.sample(model, 2, 3, x0=x0, given=given, rng=rng)
    np.testing.assert_array_equal(order.commit_order(frames), [[1]] * 3)
    frames = process.sample(model, 2, 3, decoder=decoders.Random(steps=1), rng=rng)
    np.testing.assert_array_equal(order.commit_order(frames), [[0, 1]] * 3)
    uneven = np.array([[True, False], [False, False]])
    with pytest.raises(ValueError, match="different numbers of free positions"):
        order.commit_order(process.sample(model, 2, 2, x0=x0, given=uneven, rng=rng))
    with pytest.raises(ValueError, match="frames is empty"):
        order.commit_order([])


def test_gain_of_a_listed_law_is_that_of_its_denoiser() -> None:
    """Both ways to the same figure, texts in their shares."""
    texts = np.repeat(LAW.ids, np.round(LAW.p * 10).astype(int), axis=0)
    total, _ = order.gain_of_law(LAW, texts)
    mine = order.right_gain(MaskedDiffusion(LAW.codec.vocab_size), exact.ListedDenoiser(LAW), texts)
    np.testing.assert_allclose(total, mine.sum(axis=1).mean(), rtol=1e-10)
    assert total > 0.1


def test_ablate(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a run on text without a law, and of one with: there it says the share. The order is the one asked for."""
    cli.app(["ablate", str(trained), "--texts", "20", "--remasking", "left_to_right"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"gain from the right: -?\d\.\d+ \+- \d\.\d+ nats per character \(20 held-out texts\)", lines[0]
    )
    local, far = (f"{x:.3f}" for x in order.random_ar_ness(16))
    assert lines[1] == (
        f"AR-ness of left_to_right: local 0.938 (by chance {local}), global 1.000 (by chance {far}); left to right "
        "0.938 and 1"
    )
    run = tmp_path / "chain"
    cli.app(["train", "--data", "chain", "--d-model", "8", "--layers", "1", "--heads", "2", "--steps", "2", "--out",
             str(run)], standalone_mode=False)  # fmt: skip
    capsys.readouterr()
    cli.app(["ablate", str(run), "--texts", "4"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"the true law gains 0\.3\d+ \+- 0\.\d+: -?\d+% used", lines[1])
    assert len(lines) == 3


def test_ablate_refuses(
    trained: Path, autoregressive: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for run, arguments, words in (
        (autoregressive, [], "only masked diffusion has a bound"),
        (trained, ["--texts", 1], "--texts is 1; it must be at least 2"),
        (trained, ["--seed", -1], "--seed is -1"),
    ):
        code, err = fails(capsys, monkeypatch, "ablate", run, *arguments)
        assert code == 2
        assert words in err


def test_suffix_masks() -> None:
    """They come back from their config; a share of them is a share of the texts."""
    process = SuffixMasks(2, 0.3)
    again = from_config(process.config)
    assert isinstance(again, SuffixMasks)
    assert again.suffixes == 0.3
    for share in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"suffixes is {share}; expected 0 <= suffixes <= 1"):
            SuffixMasks(2, share)
    seen = []

    class Spy:
        vocab_size = 2

        def __call__(self, x: np.ndarray, t: object, select: np.ndarray) -> object:
            seen.append(x)
            return exact.BayesDenoiser(np.full(16, 1 / 16), 2, 4)(x, select=select)

    process.loss(Spy(), np.zeros((4000, 4), np.int64), np.random.default_rng(0))
    two = seen[0][(seen[0] == 2).sum(axis=1) == 2] == 2
    last = (two == [False, False, True, True]).all(axis=1).mean()
    assert abs(last - (0.3 + 0.7 / 6)) < 4.5 * np.sqrt(0.42 * 0.58 / 1000)


def test_danger() -> None:
    """h of a state, of one that fits nothing; which finished texts are forbidden; what is left without them."""
    danger = guards.Danger(LAW, zz)
    mask, z = LAW.codec.vocab_size, int(LAW.codec.encode("z")[0])
    np.testing.assert_allclose(danger(np.array([[mask, mask], [mask, z], [z, mask], [z, 0]])), [0.1, 1 / 3, 1, 0])
    p = np.random.default_rng(0).dirichlet(np.ones(81))
    fine = guards.Danger(Listed(tuple("".join(x) for x in itertools.product("abz", repeat=4)), p), zz)
    ends = np.array([[mask] * 4] * 9)
    ends[:, :2] = z  # zz is there: 1, and not a little more or less
    ends[1:, 2] = [0, 1, 2, 0, 1, 2, 0, 1]
    assert (fine(ends) == 1).all()
    assert danger.found(LAW.codec.encode("zzaz").reshape(2, 2)).tolist() == [True, False]
    np.testing.assert_allclose(danger.harmless.p, np.array([4, 3, 2]) / 9)
    with pytest.raises(ValueError, match="forbidden holds of every text of the law"):
        guards.Danger(LAW, lambda text: True)
    with pytest.raises(ValueError, match="forbidden holds of no text of the law"):
        guards.Danger(LAW, lambda text: "aa" in text)


@pytest.mark.parametrize("tau", [0.0, 1.0, -1.0, float("nan")])
def test_thresholds_are_probabilities(tau: float) -> None:
    with pytest.raises(ValueError, match=f"tau is {tau}; expected 0 < tau < 1"):
        guards.watched([], guards.Danger(LAW, zz), tau)
    process, model = MaskedDiffusion(LAW.codec.vocab_size), exact.ListedDenoiser(LAW)
    with pytest.raises(ValueError, match=f"tau is {tau}; expected 0 < tau < 1"):
        exact.guarded_fate(process, model, guards.Danger(LAW, zz), LAW.ids[0], tau)


def test_watched_stops_where_it_says() -> None:
    """A text is left as it was when h reached tau, and the step is told; a template may be refused unwritten."""
    process, danger = MaskedDiffusion(LAW.codec.vocab_size), guards.Danger(LAW, zz)
    model, mask = exact.ListedDenoiser(LAW), LAW.codec.vocab_size
    frames = list(process.sample(model, 2, 500, decoder=decoders.LeftToRight(), rng=np.random.default_rng(0)))
    seen = guards.watched(frames, danger, 0.9)
    z = LAW.codec.encode("z")[0]
    began = frames[-1].state[:, 0] == z
    np.testing.assert_array_equal(seen.refused, began)
    assert (seen.ids[began] == [z, mask]).all()
    assert (seen.step == np.where(began, 1, 2)).all()
    assert seen.danger.shape == (3, 500)
    assert guards.watched(frames, danger, 0.05).step.max() == 0
    assert guards.watched(frames, danger, float(danger(frames[0].state)[0])).step.max() == 0, "reached, not passed"
    with pytest.raises(ValueError, match="frames is empty"):
        guards.watched([], danger, 0.5)


def test_refusals() -> None:
    """The refused share is taken from what is asked for."""
    law = guards.with_refusal(LAW, "--", 0.5, zz)
    np.testing.assert_allclose(law.p, [0.4, 0.3, 0.05, 0.2, 0.05])
    for refusal, share, words in (("zz", 0.5, "no text of the law"), ("---", 0.5, "expected 2 characters"),
                                  ("--", 1.0, "share is 1.0"), ("--", 0.0, "share is 0.0")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            guards.with_refusal(LAW, refusal, share)


def test_facts() -> None:
    """Two layouts, half the facts in both, nothing twice, and questions that give one side."""
    facts = reversal.facts(10, 3, seed=1)
    texts = [facts.codec.decode(x) for x in facts.texts]
    assert len(set(texts)) == len(texts) == 15
    assert all(re.fullmatch("[a-h]{3}=[q-x]{3}", text) for text in texts[:10])
    assert [text[4:] + "=" + text[:3] for text in texts[10:]] == texts[:5]
    x, given, which = facts.asked("other")
    assert [facts.codec.decode(row) for row in x] == [text[4:] + ":" + text[:3] for text in texts[5:10]]
    assert given.tolist() == [True] * 4 + [False] * 3
    assert which.tolist() == [False] * 5 + [True] * 5
    assert facts.asked("backward")[1].tolist() == [False] * 3 + [True] * 4
    both = reversal.Facts(facts.names, facts.descriptions, facts.told, reversed=True)
    assert len(both.texts) == 30
    assert facts.codec.decode(both.texts[15]) == texts[0][::-1]
    batch = facts.examples(7, 50, np.random.default_rng(0))
    assert {row.tobytes() for row in batch.x0} <= {row.tobytes() for row in facts.texts}
    for options, words in (({"count": 0}, "count is 0"), ({"count": 9, "letters": 1}, "count is 9"),
                           ({"told": 2.0}, "told is 2.0")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            reversal.facts(**options)
    with pytest.raises(ValueError, match="question is 'why'"):
        facts.asked("why")
    with pytest.raises(ValueError, match="length is 8, but the facts are texts of 7"):
        facts.check_length(8)


def test_stories_have_a_gain() -> None:
    """`gain_of_law` needs nothing of a law but log p and the entropy."""
    law = laws.LAWS["stories"]()
    total, error = order.gain_of_law(law, law.draw(2, np.random.default_rng(0)))
    assert 0 < total < law.entropy
    assert error > 0
