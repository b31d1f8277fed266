"""Block after block: which decoder fills them, how texts end, what is refused; certified commits and their edges."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import Runs
from tests.identities.conftest import random_model
from tinydiff import (
    Autoregressive,
    BlockDiffusion,
    MaskedDiffusion,
    Run,
    Tensor,
    Transformer,
    cli,
    data,
    decoders,
    learning,
    load,
)
from tinydiff.arrays import Bools, Ints
from tinydiff.data import SENTINELS, Batch, Middles, middle_last, middle_of
from tinydiff.measures.decoder_law import DecoderLaw

V, L, END = 5, 12, 4
GREEDY = decoders.Draw(0.0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Counting:
    """A model that notes how many positions every call computes."""

    def __init__(self, model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[int] = []
        answer = Transformer.__call__

        def listening(network: Transformer, x: Ints, *arguments: Any, **options: Any) -> Tensor:
            self.calls.append(x.shape[1])
            return answer(network, x, *arguments, **options)

        monkeypatch.setattr(Transformer, "__call__", listening)


def test_a_finished_block_is_read_with_the_next_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many calls as looks; the first at a block reads the one before too, the others the block alone."""
    model = random_model(V, L)
    counting = Counting(model, monkeypatch)
    frames = list(BlockDiffusion(V, 4).sample(model, L, decoder=decoders.Blocks(decoders.Entropy(2)), rng=rng()))
    assert counting.calls == [4, 4, 8, 4, 8, 4]
    assert [frame.step for frame in frames] == list(range(7))
    assert {frame.steps for frame in frames[1:]} >= {6} or frames[-1].steps == 6
    counting.calls.clear()
    decoder = decoders.Blocks(decoders.Entropy(2), cache=False)
    list(BlockDiffusion(V, 4).sample(model, L, decoder=decoder, rng=rng()))
    assert counting.calls == [4, 4, 8, 8, 12, 12]


@pytest.mark.parametrize("inside", [decoders.FirstHitting(), decoders.LowConfidence(2), decoders.Threshold(0.5),
                                    decoders.EntropyBounded(), decoders.RemaskCap(8, 0.5),
                                    decoders.AtOnce()], ids=lambda inside: type(inside).__name__)  # fmt: skip
def test_any_decoder_fills_blocks_left_to_right(inside: Any) -> None:
    """No position before all those of earlier blocks; no mask is left; a last block that is shorter too."""
    process, at = BlockDiffusion(V, 5), np.arange(L) // 5
    frames = list(process.sample(random_model(V, L), L, 3, decoder=decoders.Blocks(inside), rng=rng()))
    for frame in frames:
        masked = frame.state == V
        for row in range(3):
            first = at[masked[row].argmax()] if masked[row].any() else 3
            assert (frame.state[row, at > first] == V).all()
    assert (frames[-1].state < V).all()
    assert (frames[-1].confidence > 0).all()


def test_a_prompt_that_ends_within_a_block() -> None:
    """It stays, whatever its length, row by row; and is read before the first look."""
    process, model = BlockDiffusion(V, 4), random_model(V, L)
    x0 = rng(1).integers(0, V, (3, L))
    given = np.arange(L) < np.array([[2], [5], [8]])
    *_, last = process.sample(
        model, L, 3, decoder=decoders.Blocks(decoders.Entropy(4, GREEDY)), x0=x0, given=given, rng=rng()
    )
    assert (last.state[given] == x0[given]).all()
    for row in range(3):
        *_, alone = process.sample(
            model, L, decoder=decoders.Blocks(decoders.Entropy(4, GREEDY)), x0=x0[row], given=given[row], rng=rng()
        )
        np.testing.assert_array_equal(last.state[row], alone.state[0])


class Script:
    """A model that is sure of a text for each row, whatever it sees."""

    vocab_size, length = V, None

    def __init__(self, texts: Ints) -> None:
        self.texts = texts

    def __call__(self, x: Ints, t: Any = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        logits = 50.0 * np.eye(V)[self.texts[:, : x.shape[1]]]
        return Tensor(logits if select is None else logits[select])


def test_texts_end_at_their_first_end() -> None:
    """What follows an END becomes END, row by row, nothing before it does, and no block is made when all have ended."""
    texts = rng(2).integers(0, END, (3, L))
    texts[0, [1, 3]], texts[1, 6], texts[2, 5] = END, END, END
    expected = texts.copy()
    expected[0, 1:], expected[1, 6:], expected[2, 5:] = END, END, END
    decoder = decoders.Blocks(decoders.Entropy(2, GREEDY), eos_id=END)
    frames = list(BlockDiffusion(V, 4).sample(Script(texts), L, 3, decoder=decoder, rng=rng()))
    np.testing.assert_array_equal(frames[-1].state, expected)
    assert len(frames) == 1 + 2 * 2  # the third block is not made
    assert frames[-1].steps == frames[-1].step
    committed = np.sum([frame.committed for frame in frames], axis=0)
    assert (committed >= 1).all()
    assert [frames[-1].confidence[row, at:].tolist() for row, at in ((0, 2), (1, 7), (2, 6))] == [
        [1.0] * 10,
        [1.0] * 5,
        [1.0] * 6,
    ]  # there is nothing to be unsure of behind an end


def test_an_end_in_the_prompt_ends_nothing() -> None:
    """Only what is generated ends a text."""
    texts = np.zeros((1, L), np.int64)
    x0, given = np.full(L, END), np.arange(L) < 2
    decoder = decoders.Blocks(decoders.Entropy(draw=GREEDY), eos_id=END)
    *_, last = BlockDiffusion(V, 4).sample(Script(texts), L, decoder=decoder, x0=x0, given=given, rng=rng())
    assert (last.state[0] == [END, END, *[0] * (L - 2)]).all()


def test_longer_than_the_model() -> None:
    """Any length; blocks that do not fit a model are refused."""
    model = random_model(V, 8)
    *_, last = BlockDiffusion(V, 4).sample(model, 50, 2, rng=rng())
    assert last.state.shape == (2, 50)
    assert (last.state < V).all()
    with pytest.raises(ValueError, match="block_length is 9, but this model takes at most 8"):
        list(BlockDiffusion(V, 9).sample(model, 20, rng=rng()))


UNSEEN = Batch(np.zeros((1, L), np.int64), given=np.arange(L)[None] == 6)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (lambda: BlockDiffusion(V, 0), "block_length is 0; it must be at least 1"),
        (lambda: BlockDiffusion(V, 4, mixture=(2, 0)), "mixture is 0; it must be at least 1"),
        (lambda: BlockDiffusion(V, 4, clip=(0, 1)), r"clip is \(0, 1\); expected two times"),
        (lambda: BlockDiffusion(V, 4, clip=(0.5, 0.4)), "clip is"),
        (lambda: decoders.EntropyBounded(gamma=-0.1), "gamma is -0.1; it must be 0"),
        (lambda: decoders.Frechet(factor=-1), "factor is -1; it must be 0"),
        (lambda: decoders.Speculate(0), "drafts is 0; it must be at least 1"),
        (lambda: decoders.Speculate(order="best"), "order is 'best'; expected one of left_to_right, random"),
        (lambda: decoders.StaleBlocks(kept="all"), "kept is 'all'; expected one of nothing, prefix, both"),
        (lambda: decoders.Blocks(decoders.Entropy(block_length=2)), "which has blocks of its own"),
        (lambda: decoders.Blocks(decoders.Blocks()), "which has blocks of its own"),
        (lambda: decoders.Blocks(decoders.Speculate()), "asks for several canvases at once"),
        (
            lambda: BlockDiffusion(V, 4).sample(random_model(V, L), L, decoder=decoders.Blocks(eos_id=V), rng=rng()),
            "eos_id is 5; expected a token, 0 <= id < 5",
        ),
        (
            lambda: MaskedDiffusion(V).sample(random_model(V, L), L, decoder=decoders.Blocks(), rng=rng()),
            "not made for MaskedDiffusion",
        ),
        (lambda: BlockDiffusion(V, 4).loss(random_model(V, L), UNSEEN, rng()), "given is True at position 6 .* block"),
        (lambda: BlockDiffusion(V, 4).bound(random_model(V, L), np.zeros((1, L), int), rng(), estimator="no"), "estim"),
        (lambda: Middles(data.load("python_docs"), 1.5), "share is 1.5"),
        (lambda: Middles(data.load("python_docs")).check_length(5), "length is 5"),
        (lambda: middle_last(np.arange(4), 3, 6, V), "start is 3 and stop is 6"),
    ],
)  # fmt: skip
def test_what_is_refused(asked: Any, words: str) -> None:
    """By name, with value and remedy."""
    with pytest.raises(ValueError, match=words):
        asked()


@pytest.mark.parametrize(
    ("decoder", "words"),
    [
        (decoders.LowConfidence(), "looks at the tokens that were drawn"),
        (decoders.Threshold(), "looks at the tokens that were drawn"),
        (decoders.Random(), "chooses positions by chance"),
        (decoders.Entropy(choice_temperature=1), "chooses positions by chance"),
        (decoders.FirstHitting(), "in many ways"),
        (decoders.RemaskCap(), "in many ways"),
        (decoders.Entropy(draw=GREEDY), "not the law of the model"),
    ],
)
def test_a_decoder_without_a_law_says_why(decoder: Any, words: str) -> None:
    """Asked for its likelihood, alone or inside blocks."""
    with pytest.raises(ValueError, match=words):
        DecoderLaw(MaskedDiffusion(V), decoder)
    with pytest.raises(ValueError, match=words):
        DecoderLaw(BlockDiffusion(V, 4), decoders.Blocks(decoder))
    with pytest.raises(ValueError, match="leave eos_id out"):
        DecoderLaw(BlockDiffusion(V, 4), decoders.Blocks(decoders.Entropy(), eos_id=1))


def test_a_mixture_trains_every_block_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them for each batch; bound and decoder keep to `block_length`."""
    from tinydiff.processes import block

    seen, together = [], block.together

    def listening(model: Any, x0: Ints, xt: Ints, b: int, select: Bools) -> Tensor:
        seen.append(b)
        return together(model, x0, xt, b, select)

    monkeypatch.setattr(block, "together", listening)
    process, model, source = BlockDiffusion(V, 3, mixture=(1, 4)), random_model(V, L), rng()
    for _ in range(20):
        process.loss(model, np.zeros((2, L), int), source)
    assert set(seen) == {1, 4}
    process.bound(model, np.zeros((2, L), int), source)
    assert seen[-1] == 3


def test_a_masked_run_goes_on_in_blocks() -> None:
    """The same network, the same ids: with one block the two processes are one, so weights carry over as they are."""
    model, x0 = random_model(V, L), rng(1).integers(0, V, (4, L))
    losses = [process.bound(model, x0, rng()) for process in (MaskedDiffusion(V), BlockDiffusion(V, L))]
    assert all(np.isfinite(loss).all() for loss in losses)
    many = np.repeat(x0[:1], 4000, axis=0)
    a, b = (process.bound(model, many, rng()) for process in (MaskedDiffusion(V), BlockDiffusion(V, L)))
    assert abs(a.mean() - b.mean()) < 4.5 * np.hypot(a.std(), b.std()) / np.sqrt(4000)


def test_a_block_longer_than_the_text_is_one_block() -> None:
    """What was trained so can be sampled so; a longer text has no place for it."""
    model, process = random_model(V, L), BlockDiffusion(V, 2 * L)
    *_, last = process.sample(model, L, decoder=decoders.Blocks(), rng=rng())
    assert (last.state < V).all()
    with pytest.raises(ValueError, match=f"block_length is {2 * L}, but this model takes at most {L} positions"):
        list(process.sample(model, L + 1, decoder=decoders.Blocks(), rng=rng()))


def test_zero_budget_commits_one_at_a_time() -> None:
    """Gamma and factor of 0; a large one commits everything."""
    model, process = random_model(V, L), MaskedDiffusion(V)
    for kind, name in ((decoders.EntropyBounded, "gamma"), (decoders.Frechet, "factor")):
        for value, steps in ((0.0, L), (1e9, 1)):
            frames = list(process.sample(model, L, 3, decoder=kind(**{name: value}), rng=rng()))
            assert len(frames) == steps + 1


def test_middles_come_last_and_are_found_again() -> None:
    """Prefix, suffix and middle are all there once; a text that never ends has no middle."""
    ids = np.arange(5)
    moved = middle_last(ids, 1, 3, 10)
    assert moved.tolist() == [10, 0, 11, 3, 4, 12, 1, 2, 13]
    assert middle_of(moved, 10).tolist() == [1, 2]
    assert middle_of(moved[:-1], 10) is None
    assert middle_of(np.array([10, 0, 12, 11, 13]), 10) is None
    corpus = Middles(data.load("python_docs"), share=1.0)
    x0 = corpus.examples(40, 8, rng()).x0
    assert x0.shape == (8, 40)
    assert len({int((row == corpus.vocab_size - 1).argmax()) for row in x0}) > 2  # no place says where a middle ends
    assert (x0.max(axis=1) == corpus.vocab_size - 1).all()
    assert Middles(corpus.corpus, share=0.0).examples(40, 8, rng()).x0.max() < corpus.corpus.vocab_size
    model = Transformer(corpus.vocab_size, 40, d_model=8, layers=1, heads=2, rng=rng())
    assert np.isfinite(Autoregressive(corpus.vocab_size).loss(model, Batch(x0), rng()).item())


def test_experts_that_choose_among_all_tokens_are_refused() -> None:
    """In the pass over both halves, clean tokens would decide who works on masked ones: a leak."""
    corpus = data.load("python_docs")
    model = Transformer(corpus.vocab_size, L, d_model=8, layers=1, heads=2, experts=2, routing="expert", rng=rng())
    with pytest.raises(ValueError, match="routing is 'expert', but the process is of blocks"):
        Run(corpus, BlockDiffusion(corpus.vocab_size, 4), model)


def test_answers_end_with_the_block_that_holds_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run on pairs knows its end; the command tells the decoder, and a run on text has none."""
    pairs = tmp_path / "sums.jsonl"
    pairs.write_text("\n".join(f'{{"prompt": "{a}+{b}=", "answer": "{a + b}"}}' for a in range(9) for b in range(9)))
    folder = tmp_path / "run"
    options = ["--steps", "5", "--batch", "4", "--length", "12", "--d-model", "8", "--layers", "1", "--heads", "2"]
    options += ["--process", "block", "--block-length", "2", "--out", str(folder)]
    cli.app(["train", "--pairs", str(pairs), *options], standalone_mode=False)
    made: list[Any] = []
    sample = BlockDiffusion.sample

    def listening(*arguments: Any, decoder: Any, **options: Any) -> Any:
        made.append(decoder)
        return sample(*arguments, decoder=decoder, **options)

    monkeypatch.setattr(BlockDiffusion, "sample", listening)
    cli.app(["sample", str(folder), "--prompt", "1+2="], standalone_mode=False)
    _, _, codec, _ = load(folder)
    assert codec is not None
    assert made[0].eos_id == codec.eos_id is not None


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in blocks of 4, made by the command."""
    folder = tmp_path_factory.mktemp("blocks") / "run"
    options = ["--steps", "20", "--batch", "4", "--length", "16", "--d-model", "8", "--layers", "1", "--heads", "2"]
    cli.app(
        [
            "train",
            "--text",
            str(runs.text),
            "--process",
            "block",
            "--block-length",
            "4",
            "--out",
            str(folder),
            *options,
        ],
        standalone_mode=False,
    )
    return folder


def test_the_block_length_reaches_the_run(run: Path) -> None:
    """And comes back from the disk."""
    _, process, _, config = load(run)
    assert isinstance(process, BlockDiffusion)
    assert (process.block_length, process.mixture, process.clip) == (4, (), (0.001, 1.0))
    assert config["process"]["block_length"] == 4


def test_sample_in_blocks(run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Options make the decoder inside; the text may be longer than the model; a cache can be left out."""
    made: list[Any] = []
    sample = BlockDiffusion.sample

    def listening(*arguments: Any, decoder: Any, **options: Any) -> Any:
        made.append(decoder)
        return sample(*arguments, decoder=decoder, **options)

    monkeypatch.setattr(BlockDiffusion, "sample", listening)
    cli.app(["sample", str(run), "--gamma", "0.5", "--no-cache", "--length", "40"], standalone_mode=False)
    assert made[0] == decoders.Blocks(decoders.EntropyBounded(decoders.Draw(0.7), gamma=0.5), cache=False)
    assert len(capsys.readouterr().out.rstrip("\n")) <= 41
    cli.app(["sample", str(run), "--steps", "2", "--remasking", "margin", "--prompt", "the c"], standalone_mode=False)
    assert made[1].inside.steps == 2
    assert isinstance(made[1].inside, decoders.Margin)
    assert capsys.readouterr().out.startswith("the c")
    with pytest.raises(ValueError, match=r"--block-length is 2, but .* was trained for blocks of 4"):
        cli.app(["sample", str(run), "--block-length", "2"], standalone_mode=False)


def test_gaps_for_a_model_that_goes_left_to_right(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--middles reaches the data of the run; infill fills a gap, as long as it likes; sample makes text."""
    folder = tmp_path / "middles"
    small = ["--steps", "3", "--batch", "4", "--length", "24", "--d-model", "8", "--layers", "1", "--heads", "2"]
    text = ["--text", str(runs.text), "--out", str(folder)]
    cli.app(["train", *text, "--process", "autoregressive", "--middles", "0.75", *small], standalone_mode=False)
    model, _, codec, config = load(folder)
    assert codec is not None
    assert model.vocab_size == codec.vocab_size + SENTINELS
    assert config["data"]["middles"] == 0.75
    resumed = learning.Run.resume(folder)
    assert isinstance(resumed.corpus, Middles)
    assert (resumed.corpus.share, resumed.corpus.vocab_size) == (0.75, model.vocab_size)
    cli.app(["evaluate", str(folder), "--windows", "64"], standalone_mode=False)
    capsys.readouterr()
    cli.app(["sample", str(folder), "--temperature", "5", "--seed", "1"], standalone_mode=False)
    assert len(capsys.readouterr().out.rstrip("\n")) <= 24

    def answers(x: Any, t: Any = None, *, select: Any, **_: Any) -> Tensor:
        """An a, and then the end of the middle."""
        logits = np.zeros((int(select.sum()), codec.vocab_size + SENTINELS))
        logits[:, codec.encode("a")[0] if x[0, -1] == codec.vocab_size + 2 else codec.vocab_size + 3] = 50
        return Tensor(logits)

    monkeypatch.setattr(Transformer, "__call__", lambda self, *x, **options: answers(*x, **options))
    cli.app(["infill", str(folder), "the c___ sat"], standalone_mode=False)
    assert capsys.readouterr().out == "the ca sat\n"
    for arguments, words in (
        (["the _at _at"], "more than one gap"), (["the c_t " * 5], "more than one gap"),
        (["the cat sat the cat s_"], "this model takes at most 19"), (["c_t", "--allow", "a"], "leave --allow out"),
        (["c_t", "--gamma", "1"], "leave --gamma out"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            cli.app(["infill", str(folder), *arguments], standalone_mode=False)
    with pytest.raises(ValueError, match=r"--middles is 0.5, which is for --process autoregressive on a text"):
        cli.app(["train", *text[:2], "--out", str(tmp_path / "no"), "--middles", "0.5"], standalone_mode=False)
    assert not (tmp_path / "no").exists()


def test_drafts_reach_the_decoder(
    trained: Path, run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--drafts 3 guesses three at once, in `sample` and in `infill`; blocks refuse it."""
    made: list[Any] = []
    sample = MaskedDiffusion.sample

    def listening(*arguments: Any, decoder: Any, **options: Any) -> Any:
        made.append(decoder)
        return sample(*arguments, decoder=decoder, **options)

    monkeypatch.setattr(MaskedDiffusion, "sample", listening)
    cli.app(["sample", str(trained), "--drafts", "3"], standalone_mode=False)
    cli.app(["infill", str(trained), "the c__ sat", "--drafts", "2", "--temperature", "1"], standalone_mode=False)
    assert made == [decoders.Speculate(3, draw=decoders.Draw(0.7)), decoders.Speculate(2, draw=decoders.Draw(1.0))]
    with pytest.raises(ValueError, match=r"--drafts is 3, but .* is a block model"):
        cli.app(["sample", str(run), "--drafts", "3"], standalone_mode=False)
    with pytest.raises(ValueError, match=r"--gamma is 1.0 and --drafts is 3, but each of them"):
        cli.app(["sample", str(trained), "--drafts", "3", "--gamma", "1"], standalone_mode=False)


def test_evaluate_the_law_of_a_decoder(trained: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Other figures for other steps and rules, of what the library says; a decoder without a law is refused."""
    figures = []
    for folder, options in (
        (trained, ["--decoder", "entropy"]), (trained, ["--decoder", "entropy", "--steps", "4"]),
        (trained, ["--gamma", "4"]), (trained, ["--factor", "1"]), (run, ["--decoder", "left_to_right"]),
    ):  # fmt: skip
        cli.app(["evaluate", str(folder), "--windows", "64", *options], standalone_mode=False)
        out = capsys.readouterr().out
        assert (
            f"(exact, of what the decoder writes: {options[1] if options[0] == '--decoder' else options[0][2:]}" in out
        )
        figures.append(float(re.match(r"[\d.]+", out)[0]))
    assert len(set(figures)) == 5
    model, process, _, config = load(trained)
    from tinydiff import evaluate, learning

    law = DecoderLaw(process, decoders.Entropy(4))
    mean = evaluate(model, law, learning.corpus_of(trained, config), windows=64).mean
    assert figures[1] == pytest.approx(mean, abs=1e-4)
    for options, words in (
        (["--decoder", "low_confidence"], "looks at the tokens"), (["--steps", "4"], "--steps is 4, but no --decoder"),
        (["--decoder", "entropy", "--gamma", "1"], "each of them chooses the decoder"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            cli.app(["evaluate", str(trained), *options], standalone_mode=False)


@pytest.mark.parametrize("decoder", [decoders.EntropyBounded(gamma=0.0), decoders.Frechet(factor=0.0)])
def test_what_nobody_can_afford_is_committed_one_by_one_from_the_left(decoder: Any) -> None:
    """The cheapest of each row, of equal ones the leftmost, and a row that is full gets nothing."""
    hidden = np.array([[False, True, True, True], [True, True, False, False], [False] * 4])
    p = np.array([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0.6, 0.4], [0.9, 0.1]])
    expected = np.array([[False, True, False, False], [False, True, False, False], [False] * 4])
    np.testing.assert_array_equal(decoder.chosen(hidden, p), expected)
