"""Instructions, rainbows, fine-tuning and asking: what a user sets reaches where it acts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import tinydiff as td
from tinydiff import Autoregressive, MaskedDiffusion, Options, Run, Transformer, data, decoders, learning, train
from tinydiff.cli import app
from tinydiff.data import RAINBOW, Characters, Pairs, instructions
from tinydiff.decoders import Draw, LowConfidence
from tinydiff.learning.finetuning import codec_for, widened
from tinydiff.measures import answers

PAIRS = tuple((f"{a}{b}?", b + a) for a in "abcd" for b in "abcd")


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def small(vocab: int, length: int = 12, **options: Any) -> Transformer:
    return Transformer(vocab, length, d_model=8, layers=1, heads=2, rng=rng(), **options)


def test_instructions_are_right_and_held_out() -> None:
    """Every answer is what the task says, 4,000 of each, no prompt twice; those held out are never trained on."""
    corpus = data.load("instructions")
    words = [(prompt.rstrip(">").split(" ", 1), answer) for prompt, answer in corpus.pairs]
    assert len({prompt for prompt, _ in corpus.pairs}) == len(words) == 5 * instructions.EACH
    for (task, rest), answer in words:
        if task in ("copy", "reverse", "sort"):
            assert answer == {"copy": rest, "reverse": rest[::-1], "sort": "".join(sorted(rest))}[task]
        elif task == "add":
            assert int(answer) == sum(map(int, rest.split()))
        else:
            key, _, listed = rest.partition(":")
            assert answer == dict(listed.split()[i] for i in range(len(listed.split())))[key]
    assert {t for (t, _), _ in words[18_000:]} == set(instructions.TASKS)
    assert corpus.pairs == data.load("instructions").pairs
    assert corpus.longest <= corpus.recipe["length"]


def test_a_rainbow_fills_up_behind_one_eos() -> None:
    """abc ¶ ① ② ① ..: K colours in turn; they count no characters of text, and evaluation uses that."""
    codec = Characters.of("".join(p + a for p, a in PAIRS) + RAINBOW[:2], eos=True)
    corpus = Pairs("p", PAIRS, codec, rainbow=2)
    batch = corpus.examples(9, 3, rng())
    for row, given in zip(batch.x0, batch.given, strict=True):
        assert codec.decode(row)[5:] == codec.eos + "①②①"
        assert given.tolist() == [True] * 3 + [False] * 6
    assert corpus.token_lengths[codec.encode("①②a")].tolist() == [0, 0, 1]
    held = td.evaluate(small(corpus.vocab_size, 9), MaskedDiffusion(corpus.vocab_size), corpus, windows=64)
    assert held.mean == pytest.approx(3 * held.per_token)  # 2 characters of 6 tokens
    with pytest.raises(ValueError, match="rainbow is 10; expected 0"):
        Pairs("p", PAIRS, codec, rainbow=10)
    with pytest.raises(ValueError, match="codec does not know ①②③"):
        Pairs("p", PAIRS, codec, rainbow=3)


def test_a_run_with_a_rainbow_resumes(tmp_path: Path) -> None:
    corpus = instructions.load(rainbow=3)
    run = Run(
        corpus, MaskedDiffusion(corpus.vocab_size), small(corpus.vocab_size, 24), Options(steps=2), tmp_path / "r"
    )
    assert Run.resume(tmp_path / "r").corpus.config == run.corpus.config
    assert Run.resume(tmp_path / "r").corpus.rainbow == 3


@pytest.mark.parametrize("kind", ["text", "pairs"])
def test_random_lengths_reach_the_network(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the batches is shorter, down to one token of text or what the longest pair takes; 0: none."""
    codec = Characters.of("abcd? ", eos=True)
    corpus: Any = data.Corpus("t", "abcd ?" * 50, codec) if kind == "text" else Pairs("p", PAIRS, codec)
    least, seen = (1 if kind == "text" else 6), []
    answer = Transformer.__call__
    monkeypatch.setattr(
        Transformer, "__call__", lambda self, x, *a, **o: (seen.append(x.shape[1]), answer(self, x, *a, **o))[1]
    )
    for share, lengths in ((0.0, {12}), (1.0, set(range(least, 13)))):
        seen.clear()
        options = Options(steps=80, batch=2, random_lengths=share, evaluate_every=80, evaluate_windows=1)
        frames = list(train(Run(corpus, MaskedDiffusion(codec.vocab_size), small(codec.vocab_size), options)))
        assert len(frames) == 80
        assert set(seen[:80]) == lengths
    with pytest.raises(ValueError, match="random_lengths is 2; expected a share"):
        Options(random_lengths=2)
    sums = data.load("sums")
    with pytest.raises(ValueError, match=r"random_lengths is 0\.5, but sums has texts of one length only"):
        Run(sums, MaskedDiffusion(sums.vocab_size), small(sums.vocab_size, 9), Options(random_lengths=0.5))


def test_experts_that_choose_tokens_do_not_go_left_to_right() -> None:
    corpus = data.Corpus("t", "abcd ?" * 50, Characters.of("abcd ?"))
    with pytest.raises(ValueError, match="routing is 'expert', but the process is autoregressive"):
        Run(corpus, Autoregressive(6), small(6, experts=2, routing="expert"))
    Run(corpus, MaskedDiffusion(6), small(6, experts=2, routing="expert"))


class Fixed:
    """Says the same at every position: (V,) logits."""

    def __init__(self, logits: np.ndarray, length: int = 12) -> None:
        self.logits, self.vocab_size, self.length = logits, len(logits), length

    def __call__(self, x: Any, t: Any = None, *, causal: int = 0, select: Any = None, **options: Any) -> td.Tensor:
        shape = (*x.shape, len(self.logits)) if select is None else (int(select.sum()), len(self.logits))
        return td.Tensor(np.broadcast_to(self.logits, shape).copy())


def test_eos_never_or_last() -> None:
    """Never: the answer fills its canvas. Last: what is not EOS is committed before it. Free: the likeliest wins."""
    codec = Characters("ab.", ".")
    model, process = Fixed(np.log([0.3, 0.1, 0.6])), MaskedDiffusion(3)
    for eos, wanted in (("free", ""), ("never", "aaaa"), ("last", "")):
        assert answers.answers(process, model, codec, ["b", "bab"], 4, eos=eos, rng=rng()) == [wanted] * 2
    canvas = {"x0": np.array([1, 0, 0]), "given": np.arange(3) < 1}
    for last in (None, 2):
        decoder = LowConfidence(draw=Draw(1.0), last=last)
        first = []
        for seed in range(60):
            _, one, *_ = process.sample(model, 3, decoder=decoder, rng=np.random.default_rng(seed), **canvas)
            first.append(int(one.state[0][one.committed[0]][0]))
        assert 2 in first
        assert (first.count(2) < 35) == (last == 2)
    with pytest.raises(ValueError, match="eos is 'last', but Random does not rank"):
        answers.answers(process, model, codec, ["a"], 4, decoder=decoders.Random(), eos="last", rng=rng())
    with pytest.raises(ValueError, match="eos is 'no'; expected one of free, never, last"):
        answers.answers(process, model, codec, ["a"], 4, eos="no", rng=rng())
    with pytest.raises(ValueError, match="canvas is 0; an answer needs"):
        answers.answers(process, model, codec, ["a"], 0, rng=rng())
    with pytest.raises(ValueError, match="prompt 'aaaaaaaaaaaa' has 12 characters, which leaves 0 of the 12"):
        answers.answers(process, model, codec, ["a" * 12], rng=rng())


def test_exact_match_counts_letters() -> None:
    assert answers.exact_match(["ab", "b", ""], ["ab", "c", ""]) == (2 / 3, pytest.approx(np.sqrt(2 / 27)))
    with pytest.raises(ValueError, match="written has 1 answers and right 0"):
        answers.exact_match(["a"], [])


@pytest.mark.parametrize("kind", [MaskedDiffusion, Autoregressive])
def test_new_tokens_leave_the_old_ones_as_they_were(kind: Any) -> None:
    """Logits of the old tokens do not move; MASK (or START) keeps its row, the last; what is new is behind the old."""
    codec = Characters("abc ")
    grown = codec_for(codec, "ab?", 2)
    assert isinstance(grown, Characters)
    assert grown.alphabet[:4] == "abc "
    assert set(grown.alphabet[4:]) == {"?", "①", "②", grown.eos}
    model, process = small(4, experts=2), kind(4)
    wide, wider = widened(model, process, grown.vocab_size, rng())
    assert wider.config == kind(8).config
    x = rng().integers(0, 5, (3, 12))
    np.testing.assert_array_equal(wide(np.where(x == 4, 8, x)).data[..., :4], model(x).data)
    assert codec_for(replace(grown), "abc①", 2).alphabet == grown.alphabet
    with pytest.raises(ValueError, match="vocab_size is 3, but the model has 4; it can only grow"):
        widened(model, process, 3, rng())
    with pytest.raises(ValueError, match="only characters can be added to"):
        codec_for(data.Words((" a", " b")), "c")


# --- the commands -----------------------------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command; errors of the user as `main` tells them: 2."""
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        assert isinstance(done.exception, ValueError | FileNotFoundError | learning.CheckpointError), done.exception
        return 2, done.stdout, str(done.exception)
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on text, one left to right, and their fine-tuned ones."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "book.txt").write_text("abcd dcba abdc " * 60)
    (folder / "p.jsonl").write_text("\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in PAIRS))
    for name, process in (("masked", "masked"), ("left", "autoregressive")):
        made = command(
            "train", "--text", str(folder / "book.txt"), "--process", process, "--steps", "4", "--length", "12",
            "--d-model", "8", "--layers", "1", "--heads", "2", "--optimiser", "muon", "--out", str(folder / name),
        )  # fmt: skip
        assert made[0] == 0, made
        done = command(
            "finetune", str(folder / name), "--pairs", str(folder / "p.jsonl"), "--rainbow", "2", "--steps", "3",
            "--batch", "4", "--out", str(folder / f"{name}_tuned"),
        )  # fmt: skip
        assert done[0] == 0, done
    return folder


@pytest.mark.parametrize("name", ["masked", "left"])
def test_finetune_keeps_what_was_learnt(runs: Path, name: str) -> None:
    """The new run begins with the weights of the old one, has its process and optimiser, and knows the pairs."""
    before, process, codec, config = learning.load(runs / name)
    after, tuned, grown, then = learning.load(runs / f"{name}_tuned")
    assert codec is not None
    assert grown is not None
    assert tuned.config["process"] == process.config["process"]
    assert grown.tokens[: codec.vocab_size] == codec.tokens
    assert grown.eos_id is not None
    assert then["data"]["rainbow"] == 2
    assert then["training"]["optimiser"] == "muon"
    assert then["training"]["lr"] == config["training"]["lr"] / 2
    near = np.abs(after.params["block0.up.weight"].data - before.params["block0.up.weight"].data).max()
    assert 0 < near < 0.2  # three small steps; other weights of the seed would be 0.7 away


@pytest.mark.parametrize("name", ["masked", "left"])
def test_ask_answers_and_scores(runs: Path, name: str) -> None:
    run = str(runs / f"{name}_tuned")
    code, out, err = command("ask", run, "ab?")
    assert (code, err) == (0, "")
    assert out.endswith("\n")
    code, out, err = command("ask", run, "ab?", "--answer", "ba")
    assert code == 0, err
    assert out.startswith("at most ") == (name == "masked")
    assert "bits" in out
    assert name == "masked" or "+- 0.000" in out  # left to right nothing is drawn
    for seed in ("0", "0"):
        assert (
            command("ask", run, "ab?", "--temperature", "1", "--seed", seed)[1]
            == command("ask", run, "ab?", "--temperature", "1", "--seed", "0")[1]
        )


def test_ask_options_reach_the_decoder(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def listening(*arguments: Any, **options: Any) -> list[str]:
        seen.update(options | {"canvas": arguments[4], "model": arguments[1]})
        return [""]

    monkeypatch.setattr(answers, "answers", listening)
    run = str(runs / "masked_tuned")
    assert command("ask", run, "ab?", "--eos", "last", "--block-length", "2", "--canvas", "6", "--steps", "3")[0] == 0
    assert (seen["eos"], seen["canvas"]) == ("last", 6)
    assert seen["decoder"] == LowConfidence(steps=3, draw=Draw(0.0), block_length=2)
    assert command("ask", run, "ab?", "--temperature", "0.5", "--remasking", "entropy", "--cfg-scale", "2")[0] == 0
    assert seen["decoder"] == decoders.Entropy(draw=Draw(0.5))
    assert not isinstance(seen["model"], Transformer)  # guided


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ask", "{masked}", "ab?"), "has not learnt to answer; teach it with: tinydiff finetune"),
        (("ask", "{masked_tuned}", "abababababab"), "prompt has 12 characters, and the model takes 12"),
        (("ask", "{masked_tuned}", "ab?", "--canvas", "10"), "--canvas is 10; behind this prompt there is room for 1"),
        (("ask", "{masked_tuned}", "", "--cfg-scale", "1"), "nothing is given to follow"),
        (("ask", "{masked_tuned}", "xyz"), "does not have"),
        (("ask", "{masked_tuned}", "ab?", "--eos", "last", "--remasking", "random"), "--eos is last, but Random"),
        (("ask", "{left_tuned}", "ab?", "--eos", "last"), "--eos is last, but NextToken"),
        (("ask", "{masked_tuned}", "ab?", "--answer", "abcdabcda"), "--answer has 9 characters and its end one more"),
        (("finetune", "{masked}", "--pairs", "{none.jsonl}", "--out", "{new}"), "none.jsonl"),
        (("finetune", "{masked}", "--pairs", "{p.jsonl}", "--out", "{new}", "--rainbow", "12"), "rainbow is 12; expe"),
        (("finetune", "{masked}", "--pairs", "{long.jsonl}", "--out", "{new}"), "length is 12, but 1 of 17 pairs"),
        (("finetune", "{masked}", "--pairs", "{empty.jsonl}", "--out", "{new}"), "empty answers"),
        (("train", "--data", "sums", "--rainbow", "3", "--out", "{new}"), "--rainbow is 3, but nothing here"),
        (("train", "--active", "2", "--out", "{new}"), "--active is 2, but there are no experts"),
        (("train", "--experts", "2", "--active", "3", "--out", "{new}"), "active is 3, of 2 experts"),
        (("train", "--experts", "2", "--active", "0", "--out", "{new}"), "active is 0, of 2 experts"),
        (("train", "--start-from", "{left}", "--d-model", "8", "--text", "x", "--out", "{new}"), "--text, --d-model"),
        (("train", "--start-from", "{none}", "--out", "{new}"), "there is no run in"),
        (("train", "--start-from", "{left}", "--process", "sedd_uniform", "--out", "{new}"), "the network of"),
        (
            ("train", "--start-from", "{left}", "--process", "block", "--block-length", "0", "--out", "{new}"),
            "block_length is 0",
        ),
    ],
)  # fmt: skip
def test_bad_input_says_what_to_do_and_writes_nothing(runs: Path, arguments: tuple[str, ...], message: str) -> None:
    lines = (runs / "p.jsonl").read_text()
    (runs / "long.jsonl").write_text(lines + '\n{"prompt": "abcdabcd", "answer": "abcd"}')
    (runs / "empty.jsonl").write_text("\n".join(json.dumps({"prompt": p, "answer": ""}) for p, _ in PAIRS))
    filled = [a if "{" not in a else str(runs / a.strip("{}")) for a in arguments]
    code, _, error = command(*filled)
    assert code == 2
    assert message in error
    assert not (runs / "new").exists()


def test_train_options_reach_the_run(tmp_path: Path) -> None:
    """--random-lengths, --experts, --active, --routing and --data instructions --rainbow are in what is trained."""
    code, _, error = command(
        "train", "--data", "instructions", "--rainbow", "7", "--experts", "4", "--active", "2", "--routing", "expert",
        "--random-lengths", "0.25", "--steps", "1", "--batch", "2", "--d-model", "8", "--heads", "2", "--layers", "1",
        "--out", str(tmp_path / "r"),
    )  # fmt: skip
    assert code == 0, error
    model, _, _, config = learning.load(tmp_path / "r")
    assert (model.experts, model.active, model.routing) == (4, 2, "expert")
    assert config["training"]["random_lengths"] == 0.25
    assert (config["data"]["name"], config["data"]["rainbow"]) == ("instructions", 7)
    assert Run.resume(tmp_path / "r").step == 1


@pytest.mark.parametrize(("process", "options"), [("masked", []), ("cart", []), ("block", ["--block-length", "4"])])
def test_start_from_begins_with_the_network_and_the_data_of_a_run(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, process: str, options: list[str]
) -> None:
    """Its averaged weights, to the bit, for another process; and other options are those of a new run."""
    seen: list[Run] = []
    monkeypatch.setattr("tinydiff.cli.train.follow", lambda run, ranks: seen.append(run))
    code, _, error = command(
        "train", "--start-from", str(runs / "left"), "--process", process, *options, "--steps", "5", "--lr", "0.01",
        "--out", str(tmp_path / "r"),
    )  # fmt: skip
    assert code == 0, error
    model, _, _, config = learning.load(runs / "left")
    [run] = seen
    assert run.process.config["process"] == process
    assert run.process.config.get("block_length", 4) == 4
    assert (run.corpus.config, run.model.length) == (config["data"], model.length)
    assert (run.step, run.options.steps, run.options.lr) == (0, 5, 0.01)
    for name, p in model.params.items():
        np.testing.assert_array_equal(run.model.params[name].data, p.data)
    again = Run.resume(tmp_path / "r")
    for _ in train(again):
        pass
    assert learning.load(tmp_path / "r")[1].config == run.process.config


def test_the_page_says_that_it_does_not_know_experts(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("abcd dcba abdc " * 60)
    code, _, error = command(
        "train", "--text", str(tmp_path / "book.txt"), "--experts", "2", "--steps", "1", "--length", "8",
        "--d-model", "8", "--heads", "2", "--layers", "1", "--out", str(tmp_path / "r"),
    )  # fmt: skip
    assert code == 0, error
    code, _, error = command("page", str(tmp_path / "r"), "--out", str(tmp_path / "p.html"))
    assert code == 2
    assert "is 2, which the page's network does not know; train without it, or show the model with" in error
    assert not (tmp_path / "p.html").exists()


def test_cart_is_a_process_of_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("abcd dcba abdc " * 60)
    code, _, error = command(
        "train", "--text", str(tmp_path / "book.txt"), "--process", "cart", "--steps", "2", "--length", "8",
        "--d-model", "8", "--heads", "2", "--layers", "1", "--out", str(tmp_path / "r"),
    )  # fmt: skip
    assert code == 0, error
    assert isinstance(learning.load(tmp_path / "r")[1], td.CART)
    with pytest.raises(ValueError, match="p is 1; expected 0 < p < 1"):
        td.CART(3, p=1)
