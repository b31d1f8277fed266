"""Data and models of one's own: what docs/own_data.md shows, and what is said of those that lack something."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinydiff as td
from tests.conftest import Runs
from tests.test_cli import tinydiff

PAGE = Path(__file__).parents[1] / "docs" / "own_data.md"


def sums(path: Path, pairs: int = 40) -> Path:
    """A file of pairs."""
    rows = [{"prompt": f"{a}+{b}=", "answer": str(a + b)} for a in range(8) for b in range(8)][:pairs]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks of the page leave behind, run one after the other."""
    here = tmp_path_factory.mktemp("page")
    (here / "book.txt").write_text("It is a truth universally acknowledged. " + td.data.python_docs()[:60_000])
    sums(here / "sums.jsonl", 64)
    names: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S):
            exec(compile(block, str(PAGE), "exec"), names)
    return names


def test_the_page_runs(page: dict[str, Any]) -> None:
    """And what it ends with are figures."""
    assert np.isfinite(page["frame"].held_out.mean)
    assert page["again"].step == 3


def test_pairs_are_canvases(tmp_path: Path) -> None:
    """Prompt given, answer and EOS free; the last tenth held out; each as often as any other."""
    pairs = td.data.load_pairs(sums(tmp_path / "sums.jsonl"))
    rng, end = np.random.default_rng(0), pairs.codec.eos_id
    seen: list[set[str]] = []
    for held_out in (False, True):
        batch = pairs.examples(9, 500, rng, held_out=held_out)
        texts = set()
        for x0, given in zip(batch.x0, batch.given, strict=True):
            prompt, rest = pairs.codec.decode(x0[given]), x0[~given]
            assert re.fullmatch(r"\d\+\d=", prompt)
            assert given[: len(prompt)].all()
            first = int(np.argmax(rest == end))
            assert (rest[first:] == end).all()
            assert eval(prompt[:-1]) == int(pairs.codec.decode(rest[:first]))
            texts.add(prompt)
        seen.append(texts)
    assert (len(seen[0]), len(seen[1])) == (36, 4)
    assert not seen[0] & seen[1]


def test_pairs_are_scored_per_character_of_the_answer(tmp_path: Path) -> None:
    """EOS is no character but counts as a token: a bound of 1 nat per free token."""
    pairs = td.data.load_pairs(sums(tmp_path / "sums.jsonl"))

    class Flat(td.MaskedDiffusion):
        def bound(self, model: Any, batch: Any, rng: Any, **options: Any) -> Any:
            return (~batch.given).sum(axis=1).astype(float)

    model = td.Transformer(pairs.vocab_size, 8, d_model=8, layers=1, heads=2, rng=np.random.default_rng(0))
    held_out = td.evaluate(model, Flat(pairs.vocab_size), pairs, windows=64)
    assert held_out.per_token == pytest.approx(1 / np.log(2))
    assert held_out.per_token_error < 1e-9
    digits = [len(answer) for _, answer in pairs.pairs[36:]]
    assert held_out.mean == pytest.approx(4 / np.log(2) / np.mean(digits), rel=0.3)


@pytest.mark.parametrize("process", ["masked", "autoregressive", "sedd_uniform"])
def test_the_command_trains_on_pairs(process: str, tmp_path: Path) -> None:
    """And evaluates, answers, and goes on with their file elsewhere."""
    file, out = sums(tmp_path / "sums.jsonl"), tmp_path / "run"
    small = ["--d-model=8", "--layers=1", "--heads=2", "--batch=4", "--steps=4"]
    done = tinydiff("train", "--pairs", file, "--out", out, "--process", process, *small)
    assert done.returncode == 0, done.stderr
    assert "40 pairs of up to 7 characters" in done.stderr
    assert "bits per character" in tinydiff("evaluate", out, "--windows=64").stdout
    option = "--temperature=1" if process == "autoregressive" else "--steps=2"
    assert tinydiff("sample", out, "--prompt", "2+3=", "--delay=0", option).stdout.startswith("2+3=")
    moved = file.rename(tmp_path / "moved.jsonl")
    lost = tinydiff("train", "--resume", out, "--steps=6")
    assert lost.returncode == 2
    assert "is not there; say where it is with --text or --pairs" in lost.stderr
    assert tinydiff("train", "--resume", out, "--steps=6", "--pairs", moved).returncode == 0
    assert tinydiff("evaluate", out, "--windows=64", "--pairs", moved).returncode == 0


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        ('{"prompt": "a", "answer": "b"}\nnot json', [], "line 2 of"),
        ('{"prompt": "a"}', [], 'expected {"prompt": "Who?", "answer": "Me."}'),
        ("[1, 2]", [], "line 1 of"),
        ("[" * 100_000, [], "line 1 of"),
        ('{"prompt": "a", "answer": ""}\n' * 12, [], "has only empty answers from pair 11 on, which are held out"),
        ('{"prompt": "a", "answer": "b"}', [], "has 1 pair; expected at least 2"),
        ('{"prompt": "a", "answer": "b"}\n' * 3 + '{"prompt": "aa", "answer": "bb"}\n' * 2, ["--length=4"],
         "length is 4, but 2 of 5 pairs of"),
        ('{"prompt": "a", "answer": "b"}\n' * 3, ["--text=x"], "--text and --pairs are both given"),
        ('{"prompt": "a", "answer": "b"}\n' * 3, ["--tokens=words", "--vocab=2"], "vocab is 2, but the characters"),
    ],
)  # fmt: skip
def test_pairs_that_are_none(lines: str, options: list[str], words: str, tmp_path: Path) -> None:
    """Exit 2, the reason, and nothing written."""
    file = tmp_path / "pairs.jsonl"
    file.write_text(lines)
    done = tinydiff("train", "--pairs", file, "--out", tmp_path / "run", *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    assert not (tmp_path / "run").exists()


def test_other_pairs_are_all_evaluated(tmp_path: Path) -> None:
    """But for those that the model cannot be asked; those of the run itself from their last tenth on."""
    file, out = sums(tmp_path / "sums.jsonl"), tmp_path / "run"
    small = ["--d-model=8", "--layers=1", "--heads=2", "--batch=4", "--steps=2"]
    assert tinydiff("train", "--pairs", file, "--out", out, *small).returncode == 0
    rows = [("2+3=", "5"), ("2+3=", "x"), ("1+1+1=", "33"), ("4+4=", "8")]
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"prompt": p, "answer": a}) for p, a in rows))
    done = tinydiff("evaluate", out, "--pairs", other, "--windows=64")
    assert done.returncode == 0, done.stderr
    assert "1 pairs have something that the model does not know and 1 take more than its 8 characters" in done.stderr
    own = tinydiff("evaluate", out, "--pairs", file, "--windows=64")
    assert (own.stderr, own.stdout) == ("", tinydiff("evaluate", out, "--windows=64").stdout)
    other.write_text('{"prompt": "x", "answer": "y"}')
    assert "has no pairs that can be evaluated: 1 have something" in tinydiff("evaluate", out, "--pairs", other).stderr
    _, _, codec, _ = td.load(out)
    assert codec is not None
    unseen = td.data.UnseenPairs.of("other", tuple(rows), codec, 8)
    seen = {codec.decode(x[g]) for b in [unseen.examples(8, 50, np.random.default_rng(0), held_out=True)]
            for x, g in zip(b.x0, b.given, strict=True)}  # fmt: skip
    assert seen == {"2+3=", "4+4="}
    assert (unseen.unknown, unseen.over) == (1, 1)


def test_pairs_that_say_the_same_count_once(tmp_path: Path) -> None:
    """Two pairs a hundred times over are two pieces of the data, for the error of a figure."""
    codec = td.data.Characters.of("ab", eos=True)
    pairs = td.data.Pairs("two", (("a", "b"), ("b", "a")) * 100, codec)
    for held_out in (False, True):
        cluster = pairs.examples(4, 200, np.random.default_rng(0), held_out=held_out).cluster
        assert len(np.unique(cluster)) == 2


def test_a_draw_of_empty_answers_has_no_figure() -> None:
    """Bits of EOS alone, over no characters: not a number, without a warning."""
    codec = td.data.Characters.of("ab", eos=True)
    pairs = td.data.Pairs("rare", (("a", "b"),) * 9 + (("b", ""),) * 9_999 + (("a", "b"),), codec)
    model = td.Transformer(pairs.vocab_size, 4, d_model=8, layers=1, heads=2, rng=np.random.default_rng(0))
    held_out = td.evaluate(model, td.MaskedDiffusion(pairs.vocab_size), pairs, windows=64)
    assert np.isnan([held_out.mean, held_out.error]).all()
    assert held_out.per_token > 0


def test_a_run_on_text_has_no_answers(runs: Runs, tmp_path: Path) -> None:
    """Its tokens have no end."""
    out = tmp_path / "run"
    runs.new(out)
    file = sums(tmp_path / "sums.jsonl")
    for command in (("evaluate", out), ("train", "--steps=99", "--resume", out)):
        done = tinydiff(*command, "--pairs", file)
        assert done.returncode == 2
        assert "was trained on text, whose tokens have no end of an answer" in done.stderr


def test_resuming_with_other_data(runs: Runs, tmp_path: Path) -> None:
    """Another text under a name of one's own, or the same text in other tokens."""
    runs.train(runs.new(tmp_path / "run"), until=2)
    corpus = td.data.load(str(runs.text))
    other = td.data.Corpus("other", corpus.text + "a", corpus.codec)
    with pytest.raises(td.learning.CheckpointError, match="the text of other is not the one"):
        td.Run.resume(tmp_path / "run", corpus=other)
    with pytest.raises(td.learning.CheckpointError, match="is cut into other tokens"):
        td.Run.resume(tmp_path / "run", corpus=td.data.load(str(runs.text), tokens="words"))
    assert td.Run.resume(str(tmp_path / "run"), corpus=td.data.Corpus("elsewhere", corpus.text, corpus.codec)).step == 2


class Wrong:
    """A model that answers in a shape of its own."""

    vocab_size, length, params = 6, 12, {"a": td.Tensor(np.zeros(1), requires_grad=True)}

    def __call__(self, x: Any, t: Any = None, *, causal: int = 0, select: Any = None) -> td.Tensor:
        return td.Tensor(np.zeros((*x.shape, 7)) if select is None else np.zeros((int(select.sum()), 6)))


def test_what_is_missing_is_named(page: dict[str, Any]) -> None:
    """Before the first step, and with its name."""
    dice, process, rng = page["dice"], td.MaskedDiffusion(6), np.random.default_rng(0)
    model = page["Neighbours"](6, 12, rng)
    for parts, words in (
        (
            (object(), process, model),
            "corpus is of type object, which has no name, unit, config, check_length, examples",
        ),
        ((dice, object(), model), "process is of type object, which has no needs_time, config, loss, bound"),
        ((dice, process, object()), "model is of type object, which has no params, length"),
        ((dice, process, Wrong()), r"model returns shape \(2, 12, 7\) for x \(2, 12\) and no select; expected"),
        ((dice, td.MaskedDiffusion(5), model), "vocab_size is 6 for the corpus, 5 for the process"),
    ):
        with pytest.raises(ValueError, match=words):
            td.Run(*parts)
    with pytest.raises(ValueError, match="only a Transformer can be written"):
        td.Run(dice, process, model, folder="runs/none")
