"""Preferences: options that reach the draws, training that does what it is for, and what is refused."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from tests.test_cli import fails
from tinydiff import MaskedDiffusion, Options, Tensor, Transformer, cli, data, exact, load, no_grad
from tinydiff.data import Characters, Preferences
from tinydiff.exact.preferences import Draws
from tinydiff.learning import preferences
from tinydiff.learning.preferences import Objective, elbo, judged, prefer
from tinydiff.practice.models import Asked, Table
from tinydiff.practice.problems.margin import Nudged, moments, vrpo_margin

if TYPE_CHECKING:
    from conftest import Runs

V, L = 2, 4
PROCESS = MaskedDiffusion(V)


def network(seed: int = 0, vocab_size: int = V, length: int = L) -> Transformer:
    model = Transformer(
        vocab_size, length, d_model=8, layers=1, heads=2, positions="learned", rng=np.random.default_rng(seed),
        dtype=np.float64,
    )  # fmt: skip
    model.params["embed"].data *= 50
    return model


def some_pairs(n: int = 12) -> Preferences:
    """The one with more ones is better."""
    texts = np.random.default_rng(0).integers(0, V, (4 * n, 2, L))
    texts = texts[texts[:, 0].sum(axis=1) > texts[:, 1].sum(axis=1)][:n]
    return Preferences(texts[:, 0], texts[:, 1])


@pytest.mark.parametrize("estimator", ["count", "stratified", "time", "complementary", "exact"])
def test_training_raises_the_margins(estimator: str) -> None:
    """Forty steps; the reference is as it was, and the exact expected number of ones has gone up."""
    model, texts = network(), exact.all_sequences(V, L)
    reference = copy.deepcopy(model)
    objective = Objective(0.5, 4, estimator=estimator)
    frames = list(prefer(PROCESS, model, some_pairs(), objective, Options(steps=40, batch=8, lr=1e-2, warmup=5)))
    assert [frame.step for frame in frames] == [*range(1, 41)]
    assert frames[0].loss == pytest.approx(math.log(2), rel=1e-12)
    assert frames[0].margin == frames[0].preferred == 0
    assert np.mean([frame.margin for frame in frames[-10:]]) > 0.5
    assert np.mean([frame.preferred for frame in frames[-10:]]) > 0.8
    ones = [float(np.exp(-exact.any_order_nll(PROCESS, m, texts)) @ texts.sum(axis=1)) for m in (reference, model)]
    assert ones[1] > ones[0] + 0.3
    assert (judged(PROCESS, model, reference, some_pairs()) > 0).mean() > 0.8


def test_rate_and_time_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The schedule of the options at every step, and to a network that is told it the time that hides so many."""
    asked, told = [], []

    def rate(*arguments: float) -> float:
        asked.append(arguments)
        return 1e-3

    def listening(xt: np.ndarray, t: np.ndarray) -> Tensor:
        told.append(t)
        return Tensor(np.zeros((*xt.shape, V)))

    monkeypatch.setattr(preferences, "learning_rate", rate)
    list(prefer(PROCESS, network(), some_pairs(), options=Options(steps=3, batch=2, lr=0.25, warmup=2)))
    assert asked == [(step, 3, 0.25, 2) for step in range(3)]
    hidden = np.tri(4, dtype=bool)[None, :3]  # one, two and three of four
    process = MaskedDiffusion(V, schedule="cosine")
    elbo(process, listening, np.zeros((1, L), np.int64), hidden, np.ones((1, 3)))
    np.testing.assert_allclose(told[0], process.schedule.inverse(np.array([0.75, 0.5, 0.25])), rtol=1e-12)


def test_options_reach_the_draws() -> None:
    """times, masks, estimator: how many sets there are, of which sizes, and what they weigh."""
    free = np.array([[False, True, True, True, True]] * 3)
    rng = np.random.default_rng(0)
    hidden, weight = Objective(times=3, masks=2, estimator="count").draws(free, rng)
    assert hidden.shape == (3, 6, 5)
    assert not hidden[..., 0].any()
    k = hidden.sum(axis=2)
    np.testing.assert_array_equal(k[:, ::2], k[:, 1::2])  # two sets at each level
    np.testing.assert_allclose(weight, 4 / k / 6)
    hidden, weight = Objective(times=4).draws(free, rng)
    np.testing.assert_array_equal(hidden.sum(axis=2), [[1, 2, 3, 4]] * 3)
    hidden, weight = Objective(times=5, estimator="complementary").draws(free, rng)
    assert hidden.shape == (3, 15, 5)
    np.testing.assert_array_equal(hidden[:, :5] ^ hidden[:, 5:10], hidden[:, 10:])
    hidden, weight = Objective(times=2000, estimator="time").draws(free, rng)
    assert abs(hidden[:, :, 1:].mean() - 0.5) < 0.02
    assert weight.max() * 2000 > 100
    one = np.eye(1, 5, dtype=bool)  # one free position: all there is to hide
    hidden, weight = Objective(times=2, estimator="complementary").draws(one, rng)
    np.testing.assert_allclose((hidden[..., 0] * weight).sum(), 1)


def test_sft_holds_the_chosen_answers() -> None:
    """Its gradient is that of -B(w) / A; it leaves the margins alone."""
    pairs, model, reference = some_pairs(3), network(1), network(2)
    losses = [
        Objective(0.5, 2, sft=sft).loss(PROCESS, model, reference, pairs, np.random.default_rng(0))[0].item()
        for sft in (0.0, 1.0, 2.0)
    ]
    drawn = Objective(0.5, 2).draws(pairs.free, np.random.default_rng(0))
    bound = preferences.elbo(PROCESS, model, pairs.chosen, *drawn).data
    np.testing.assert_allclose(np.diff(losses), [-bound.mean() / L] * 2, rtol=1e-10)


def test_agrees_with_the_coding_problem() -> None:
    """`vrpo_margin` of tinydiff.practice and the count estimator: the same mean and variance, by its own list."""
    rng = np.random.default_rng(0)
    reference = Table(V, 3, rng, strength=1.5, tilt=0.7)
    model = Nudged(reference, rng, 0.25)
    win, lose = np.array([0, 1, 0]), np.array([1, 0, 1])
    sides = [moments(Asked(model, log=True), Asked(reference, log=True), x, V) for x in (win, lose)]
    listed = exact.margin_moments(PROCESS, model, reference, win, lose, Draws(4))
    np.testing.assert_allclose(listed, (sides[0][0] - sides[1][0], (sides[0][1] + sides[1][1]) / 4), rtol=1e-10)
    many = Preferences(np.tile(win, (2000, 1)), np.tile(lose, (2000, 1)))
    with no_grad():
        s = Objective(times=4, estimator="count").margins(PROCESS, model, reference, many, rng).data
    theirs = [
        vrpo_margin(Asked(model, log=True), Asked(reference, log=True), win, lose, V, 4, rng) for _ in range(2000)
    ]
    for found in (s, np.array(theirs)):
        assert abs(found.mean() - listed[0]) < 4.5 * math.sqrt(listed[1] / 2000)
        assert abs(found.var() / listed[1] - 1) < 0.3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"beta": 0.0}, "beta is 0.0; it must be above 0"),
        ({"beta": -1.0}, "beta is -1.0"),
        ({"beta": math.nan}, "beta is nan"),
        ({"times": 0}, "times is 0; it must be at least 1"),
        ({"masks": 0}, "masks is 0; it must be at least 1"),
        ({"estimator": "best"}, "estimator is 'best'; expected one of count, stratified, time"),
        ({"sft": -0.1}, "sft is -0.1; it must be 0 or more"),
    ],
)
def test_bad_objectives(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Objective(**options)


def test_bad_pairs() -> None:
    """Equal answers, other prompts, other tokens, other lengths."""
    a, b = np.array([[0, 1, 1, 0]]), np.array([[0, 1, 1, 1]])
    with pytest.raises(ValueError, match="pair 1 has two equal answers"):
        Preferences(a, a)
    with pytest.raises(ValueError, match="pair 1 has two prompts"):
        Preferences(a, b, np.array([[False, False, True, True]]))
    with pytest.raises(ValueError, match=r"expected \(N, L\) for both"):
        Preferences(a, b[:, :2])
    with pytest.raises(ValueError, match=r"given has shape \(4,\)"):
        Preferences(a, b, np.ones(4, bool))
    with pytest.raises(ValueError, match="vocab_size is 3 for the model and 2 for the process"):
        prefer(PROCESS, network(), Preferences(a, b), reference=network(vocab_size=3))
    with pytest.raises(ValueError, match="pairs are 4 tokens long, the model 4 and the reference 5"):
        prefer(PROCESS, network(), Preferences(a, b), reference=network(length=5))
    apart = Preferences(np.concatenate([a, a]), np.concatenate([b, b]), np.eye(2, 4, dtype=bool))
    with pytest.raises(ValueError, match="given differs from pair to pair"):
        next(iter(prefer(PROCESS, network(), apart, Objective(estimator="exact"))))


LINES = '{"prompt": "a", "chosen": "b", "rejected": "aa"}\n\n{"prompt": "", "chosen": "ab", "rejected": ""}\n'


def test_read_with_an_end() -> None:
    """EOS fills the canvas and is free; without one prompt and answer fill it themselves."""
    codec = data.new_codec("ab", eos=True)
    pairs = data.preferences_of("file", LINES, codec, 4)
    eos = codec.eos_id
    np.testing.assert_array_equal(pairs.chosen, [[0, 1, eos, eos], [0, 1, eos, eos]])
    np.testing.assert_array_equal(pairs.rejected, [[0, 0, 0, eos], [eos] * 4])
    np.testing.assert_array_equal(pairs.given, [[True, False, False, False], [False] * 4])
    exactly = data.preferences_of("f", '{"prompt": "a", "chosen": "b", "rejected": "a"}', Characters("ab"), 2)
    np.testing.assert_array_equal(exactly.rejected, [[0, 0]])


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('{"prompt": "a", "chosen": "b", "rejected": "b"}', "line 1 of f has two equal answers, 'b'; leave it out"),
        ('{"prompt": "a", "chosen": "b"}', "line 1 of f is .*; expected .*rejected"),
        ("no", "line 1 of f is not JSON"),
        ("", "f has no preferences; expected lines of"),
        ('{"prompt": "c", "chosen": "b", "rejected": "a"}', "prompt of line 1 of f has 'c', which the model does not"),
        ('{"prompt": "a", "chosen": "bbb", "rejected": "a"}', "prompt and chosen are 4 tokens and their end, but .* 4"),
    ],
)
def test_bad_lines(lines: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        data.preferences_of("f", lines, data.new_codec("ab", eos=True), 4)


def test_answers_that_do_not_fill_a_text_without_end() -> None:
    with pytest.raises(ValueError, match="prompt and rejected are 3 tokens, but the texts of this run are 4 long"):
        data.preferences_of("f", '{"prompt": "a", "chosen": "bbb", "rejected": "ab"}', Characters("ab"), 4)


@pytest.fixture
def liked(tmp_path: Path) -> Path:
    """Preferences for a run on the cats, whose texts are 16 characters long."""
    path = tmp_path / "liked.jsonl"
    row = {"prompt": "the cat ", "chosen": "sat on a", "rejected": "mat. the"}
    path.write_text("\n".join([json.dumps(row)] * 4))
    return path


def test_prefer_writes_a_run(trained: Path, liked: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that loads, with other weights; the first is as it was; the margin is printed; one seed, one result."""
    out, before = tmp_path / "out", (trained / "state.safetensors").read_bytes()
    options = ["--pairs", str(liked), "--steps", "20", "--lr", "1e-2"]
    cli.app(["prefer", str(trained), *options, "--out", str(out)], standalone_mode=False)
    said = capsys.readouterr()
    assert "3 pairs to train on, 1 held out" in said.err
    assert said.out.startswith("held-out margin ")
    assert "100.0% of 1 pairs" in said.out
    assert (trained / "state.safetensors").read_bytes() == before
    tuned, _, codec, config = load(out)
    old, _, _, _ = load(trained)
    assert config == load(trained)[3]
    assert codec is not None
    assert any((p.data != old.params[name].data).any() for name, p in tuned.params.items())
    cli.app(["prefer", str(trained), *options, "--out", str(tmp_path / "again")], standalone_mode=False)
    assert capsys.readouterr().out == said.out
    cli.app(["evaluate", str(out), "--windows", "64"], standalone_mode=False)
    assert "bits per character" in capsys.readouterr().out
    cli.app(["prefer", str(trained), *options, "--out", str(tmp_path / "more"), "--reference", str(out)],
            standalone_mode=False)  # fmt: skip
    assert capsys.readouterr().out != said.out


def test_prefer_passes_its_options_on(
    trained: Path, liked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each at a value that is no default."""
    seen: dict[str, Any] = {}

    def recorded(process: Any, model: Any, pairs: Any, objective: Any, options: Any, *, reference: Any) -> Any:
        seen.update(objective=objective, options=options)
        return iter(())

    monkeypatch.setattr(preferences, "prefer", recorded)
    cli.app(
        ["prefer", str(trained), "--pairs", str(liked), "--out", str(tmp_path / "o"), "--beta", "0.7", "--steps", "7",
         "--batch", "3", "--lr", "0.5", "--estimator", "time", "--times", "2", "--masks", "5", "--apart", "--sft",
         "0.3", "--seed", "9"], standalone_mode=False,
    )  # fmt: skip
    assert seen["objective"] == Objective(0.7, 2, 5, "time", False, 0.3)
    assert seen["options"] == Options(steps=7, batch=3, lr=0.5, warmup=7, seed=9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--beta", 0], "--beta is 0.0; it must be above 0"),
        (["--times", 0], "--times is 0; it must be at least 1"),
        (["--steps", 0], "--steps is 0; it must be at least 1"),
        (["--seed", -1], "--seed is -1"),
    ],
)
def test_prefer_refuses(
    arguments: list[object], words: str, trained: Path, liked: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """One line, exit code 2, nothing written."""
    out = tmp_path / "out"
    code, err = fails(capsys, monkeypatch, "prefer", trained, "--pairs", liked, "--out", out, *arguments)
    assert code == 2
    assert words in err
    assert not out.exists()


def test_prefer_refuses_other_runs(
    runs: Runs, trained: Path, autoregressive: Path, liked: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Another process, a reference of other tokens, a folder that is taken, one pair, answers that do not fit."""
    given = ["--pairs", liked, "--out", tmp_path / "out"]
    code, err = fails(capsys, monkeypatch, "prefer", autoregressive, *given)
    assert code == 2
    assert "is a run of autoregressive; only masked diffusion has a bound over all masks" in err
    other = tmp_path / "other"
    cli.app(["train", "--data", "chain", "--d-model", "8", "--layers", "1", "--heads", "2", "--steps", "1", "--out",
             str(other)], standalone_mode=False)  # fmt: skip
    capsys.readouterr()
    code, err = fails(capsys, monkeypatch, "prefer", trained, *given, "--reference", other)
    assert code == 2
    assert "whose tokens are others than those of" in err
    code, err = fails(capsys, monkeypatch, "prefer", trained, "--pairs", liked, "--out", trained)
    assert code == 1
    assert "already holds a run" in err
    for row, words in (
        ({"prompt": "the ", "chosen": "cat ", "rejected": "mat."}, "are 8 tokens, but the texts of this run are 16"),
        ({"prompt": "the cat ", "chosen": "sat on a", "rejected": "mat. the"}, "has 1 preference; expected at least 2"),
    ):
        liked.write_text(json.dumps(row))
        code, err = fails(capsys, monkeypatch, "prefer", trained, *given)
        assert code == 2
        assert words in err
    assert not (tmp_path / "out").exists()
