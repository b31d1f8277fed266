"""Corpora: every character comes back, bad files are named precisely, and held-out text stays held out."""

from __future__ import annotations

import gzip
import re
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Runs
from tests.test_cli import tinydiff
from tinydiff import MaskedDiffusion, Transformer, data, evaluate, load
from tinydiff.data import Characters, Corpus

texts = st.text(min_size=1, max_size=60)


def counting(size: int) -> Corpus:
    """A text in which no character appears twice, in rising order: every id is its own position."""
    alphabet = "".join(map(chr, range(0x4E00, 0x4E00 + size)))
    return Corpus("counting", alphabet, Characters.of(alphabet))


# --- codec ------------------------------------------------------------------------------------------------------------


@settings(deadline=None, derandomize=True)
@given(texts)
def test_every_character_comes_back(text: str) -> None:
    """Characters beyond the basic plane, combining or controlling ones, that are merged, split or reordered."""
    codec = Characters.of(text)
    ids = codec.encode(text)
    assert ids.dtype == np.int64
    assert set(ids.tolist()) == set(range(codec.vocab_size))
    assert list(codec.alphabet) == sorted(set(text))
    assert codec.decode(ids) == text
    assert codec.decode(np.full(3, codec.vocab_size), mask="?") == "???"


@settings(deadline=None, derandomize=True)
@given(texts, st.characters(), texts)
def test_unknown_character_is_named(before: str, unknown: str, after: str) -> None:
    """A KeyError, a position counted in bytes, or the last unknown character instead of the first."""
    codec = Characters.of("".join(set(before + after) - {unknown}) + "x" * (unknown != "x") + "y" * (unknown == "x"))
    text = before.replace(unknown, "") + unknown + after
    at = len(before.replace(unknown, ""))
    with pytest.raises(ValueError, match=rf"\(U\+{ord(unknown):04X}\) at position {at}, which") as error:
        codec.encode(text)
    assert repr(unknown) in str(error.value)


def test_alphabets_that_are_none() -> None:
    """A character with two ids: encoding would pick one, and the other could never be learnt."""
    for alphabet in ("", "abca"):
        with pytest.raises(ValueError, match=r"expected at least one character and none twice"):
            Characters(alphabet)
    with pytest.raises(ValueError, match=r"text is empty"):
        Characters.of("")


@pytest.mark.parametrize("bad", [-1, 4])
def test_ids_outside_the_alphabet(bad: int) -> None:
    """Index -1, which Python reads as the mask."""
    with pytest.raises(ValueError, match=r"ids contains .*; expected 0 <= id <= 3"):
        Characters("abc").decode(np.array([0, bad]))


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\xef\xbb\xbfab", "ab"),  # a byte order mark is not a character of the text
        (b"a\r\nb\r\n", "a\nb\n"),  # nor is the carriage return of Windows
        ("é\U0001f600\n".encode(), "é\U0001f600\n"),
    ],
)
def test_files_are_read_as_text(tmp_path: Path, raw: bytes, text: str) -> None:
    """Marks of an editor or a system that end up in the alphabet."""
    path = tmp_path / "file.txt"
    path.write_bytes(raw)
    corpus = data.load(str(path))
    assert corpus.text == text
    assert corpus.name == str(path)


@pytest.mark.parametrize(
    ("raw", "byte"),
    [
        (b"abc\xffdef", "byte 3 is 0xff"),
        ("naïve".encode("latin1"), "byte 2 is 0xef"),
        ("é".encode() * 3 + b"\x80", "byte 6 is 0x80"),
        (b"\xef\xbb\xbfabc\xff", "byte 6 is 0xff"),  # after a byte order mark
    ],
)
def test_file_that_is_not_utf8(tmp_path: Path, raw: bytes, byte: str) -> None:
    """An error that does not say where, or points to another byte than the wrong one."""
    path = tmp_path / "file.txt"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=rf"file\.txt is not UTF-8: {byte}; convert it, for instance with iconv"):
        data.load(str(path))


@pytest.mark.parametrize("raw", [b"", b"\xef\xbb\xbf"])
def test_empty_file(tmp_path: Path, raw: bytes) -> None:
    """An alphabet of nothing, and a division by zero later on."""
    path = tmp_path / "file.txt"
    path.write_bytes(raw)
    with pytest.raises(ValueError, match=r"file\.txt is empty; a corpus needs some text"):
        data.load(str(path))


def test_prose_is_sentences() -> None:
    """Code, tables, names or wrapped lines among the sentences of the documentation."""
    lines = data.python_prose().split("\n")
    assert len(lines) > 1000
    assert all(line[0].isupper() and line[-1] in ".!?" for line in lines)
    assert not any(re.search(r""">>>|::=|_|["`*=<>]|\w\(""", line) for line in lines)
    assert len(set(lines)) == len(lines)


def test_prose_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence lost beside code, code kept beside a sentence, or all of one kind held out at the end."""
    monkeypatch.setattr(
        data,
        "python_docs",
        lambda: (
            """
The "pass" statement does *nothing
at all*.

   pass_stmt ::= "pass"

Some call it with "f(x)". It is the users' own choice, and they don't mind.

Another paragraph, about a list of statements.
"""
        ),
    )
    monkeypatch.setattr(
        data,
        "_sources",
        lambda *_, **__: [
            '''
def f():
    """Return the square of a number.

    >>> f(2)
    4

    The number may be `negative`. See PEP 484.
    """
    text = """This is no docstring, but a text."""
''',
            'r"""Return the square of a number.\n\nThe number may be negative."""\n',
        ],
    )
    assert data.python_prose().split("\n") == [
        "Return the square of a number. The number may be negative.",
        "The pass statement does nothing at all.",
        "It is the users own choice, and they don't mind.",
        "Another paragraph, about a list of statements.",
    ]


def test_name_of_nothing() -> None:
    """A misspelt corpus, answered without the names that exist."""
    with pytest.raises(FileNotFoundError, match=r"'python_doc'; corpora: python_docs, python_prose, python_source"):
        data.load("python_doc")


@pytest.mark.parametrize("name", ["python_docs", "python_source"])
def test_built_in_corpora(name: str) -> None:
    """A corpus that needs something this Python does not have, or that differs from call to call."""
    corpus = data.load(name)
    assert corpus.name == name
    assert len(corpus.text) > 100_000
    assert "\r" not in corpus.text
    assert "def " in corpus.text
    assert data.load(name).text == corpus.text
    assert corpus.codec.decode(corpus.ids[:1000]) == corpus.text[:1000]


# --- windows ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [10, 99, 100, 101, 1000, 4321])
def test_the_last_tenth_is_held_out(size: int) -> None:
    """A gap or an overlap between the two parts: text that is never used, or figures that flatter."""
    corpus = counting(size)
    assert np.array_equal(np.concatenate([corpus.train, corpus.held_out]), np.arange(size))
    assert len(corpus.held_out) == -(-size // 10)


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize("length", [1, 3, 8])
def test_windows_cover_their_part_and_no_more(length: int, held_out: bool) -> None:
    """Windows off by one: the first or last position never drawn, or held-out text in training."""
    corpus = counting(80)
    windows = corpus.batch(length, 3000, np.random.default_rng(0), held_out=held_out)
    assert windows.shape == (3000, length)
    assert np.array_equal(windows - windows[:, :1], np.tile(np.arange(length), (3000, 1)))
    first, last = (72, 79) if held_out else (0, 71)
    assert set(windows[:, 0].tolist()) == set(range(first, last - length + 2))


@pytest.mark.parametrize("length", [0, -1, 9, 80])
def test_length_that_does_not_fit(length: int) -> None:
    """A window longer than the held-out part, which would fail at the first evaluation, after minutes of training."""
    with pytest.raises(ValueError, match=rf"length is {length}, .* counting has 8 characters; use a length of 1 to 8"):
        counting(80).check_length(length)
    counting(80).check_length(8)


def test_batch_longer_than_the_text() -> None:
    """NumPy's complaint about an empty range, which names nothing."""
    with pytest.raises(ValueError, match=r"length is 9, but the held-out tenth of counting has 8 characters"):
        counting(80).batch(9, 2, np.random.default_rng(0), held_out=True)


def test_text_that_is_too_short_for_any_length() -> None:
    """Advice that cannot be followed: a length of 1 to 0."""
    with pytest.raises(ValueError, match=r"a text of at least 40 characters") as error:
        counting(1).check_length(4)
    assert "1 to 0" not in str(error.value)


def test_embeddings_bring_tokens_of_the_same_company_together() -> None:
    """a and b stand in the same places, c and d in others: nearest of a is b, whatever the signs of the SVD."""
    rng = np.random.default_rng(0)
    ids = np.stack([rng.integers(0, 2, 2000), rng.integers(2, 4, 2000)], axis=1).ravel()  # (a|b) (c|d) (a|b) ...
    vectors = data.embeddings(ids, 5, 2)
    assert vectors.shape == (5, 2)
    distance = ((vectors[:4, None] - vectors[None, :4]) ** 2).sum(axis=-1) + 9 * np.eye(4)
    np.testing.assert_array_equal(distance.argmin(axis=1), [1, 0, 3, 2])
    np.testing.assert_allclose(np.linalg.norm(vectors[:4], axis=1), 1, rtol=1e-12)
    assert (vectors[4] == 0).all()  # never seen
    for bad, words in (
        ((ids, 3, 2), "expected 0 <= id"),
        ((ids[:1], 5, 2), "two tokens"),
        ((ids, 5, 9), "dimensions is 9"),
    ):
        with pytest.raises(ValueError, match=words):
            data.embeddings(*bad)


# --- text as people have it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8-sig"])
def test_other_unicode_with_its_mark(encoding: str, tmp_path: Path) -> None:
    """Read as what it is; gzipped too; marks in the middle, and line ends of any system, are no characters."""
    text = "é\r\na\rb\ufeff\U0001f600\n"
    raw = ("\ufeff" if encoding.endswith("-be") else "").encode(encoding) + text.encode(encoding)
    for name, content in (("plain", raw), ("packed.gz", gzip.compress(raw))):
        (tmp_path / name).write_bytes(content)
        assert data.read_text(tmp_path / name) == "é\na\nb\U0001f600\n"


def test_what_is_no_text_is_called_what_it_is(tmp_path: Path) -> None:
    """UTF-16 without its mark, a folder, a broken archive."""
    (tmp_path / "le").write_bytes("abc \u4e00\u4e8c\u4e09\n".encode("utf-16-le"))
    (tmp_path / "be").write_bytes("\u4e00\u4e8c\u4e09\u4e00 abc\n".encode("utf-16-be"))
    (tmp_path / "ascii").write_bytes("the cat sat on the mat, and stayed\n".encode("utf-16-be"))
    (tmp_path / "picture").write_bytes(bytes(range(256)))
    (tmp_path / "half").write_bytes("abc".encode("utf-16") + b"x")
    for name, begin in (
        ("zip", b"PK\x03\x04"),
        ("bz2", b"BZh91AY&SY"),
        ("xz", b"\xfd7zXZ\x00"),
        ("pdf", b"%PDF-1.7\n%"),
    ):
        (tmp_path / name).write_bytes(begin + b"\xe2\xe3\xcf\xd3\n")
    (tmp_path / "BZh").write_text("BZh is how some texts begin")
    assert data.read_text(tmp_path / "BZh").startswith("BZh is")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"abc" * 100)[:-20])
    for path, error, words in (
        ("le", ValueError, r"le has a zero byte at 1: it is UTF-16 .* iconv -f utf-16-le -t utf-8"),
        ("be", ValueError, r"be has a zero byte at 1: it is UTF-16 .* iconv -f utf-16-be -t utf-8"),
        ("ascii", ValueError, r"ascii has a zero byte at 0: it is UTF-16 .* iconv -f utf-16-be -t utf-8"),
        ("zip", ValueError, "zip is a zip file, no text; take the text out of it"),
        ("bz2", ValueError, "bz2 is a bzip2 file, no text"),
        ("xz", ValueError, "xz is a xz file, no text"),
        ("pdf", ValueError, "pdf is a PDF file, no text"),
        ("picture", ValueError, "picture has a zero byte at 0: it is no text"),
        ("half", ValueError, "half is not UTF-16-LE: byte 8 is 0x78; it is damaged or cut short"),
        (".", ValueError, "is a folder; name a file of text"),
        ("cut.gz", ValueError, "is gzipped but damaged"),
    ):
        with pytest.raises(error, match=words):
            data.read_text(tmp_path / path)


def test_pipes_and_standard_input(tmp_path: Path) -> None:
    """`--text -` and the pipe of a shell."""
    small = ["--d-model=8", "--layers=1", "--heads=2", "--batch=4", "--steps=2", "--length=8"]
    text = b"the cat sat on the mat.\n" * 20
    for i, source in enumerate(("-", "/dev/stdin")):
        command = [sys.executable, "-m", "tinydiff", "train", "--text", source, "--out", str(tmp_path / str(i)), *small]
        done = subprocess.run(command, input=text, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"480 characters" in done.stderr


def test_names_are_corpora_and_paths_are_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file called like a corpus is meant by ./NAME."""
    monkeypatch.chdir(tmp_path)
    Path("sums").write_text("not sums at all")
    assert data.load("sums").name == "sums"
    assert data.load("./sums").text == "not sums at all"


@pytest.mark.parametrize("end", ["\n", " ", ""])
def test_a_long_text_takes_a_small_multiple_of_itself(end: str) -> None:
    """12 MB of text, in lines, in one line, or without a blank: one byte for each character in the end."""
    line = "the cat sat on the mat, and there it stayed." if end else "thecatsatonthematandthereitstayed"
    text = (line + end) * (12_000_000 // len(line))
    codec = Characters.of(text)
    tracemalloc.start()
    corpus = Corpus("long", text, codec)
    assert corpus.ids.nbytes == len(text)
    assert tracemalloc.get_traced_memory()[1] < 80e6
    tracemalloc.stop()


MEMORY = """
import sys
import tinydiff as td
text = "".join(f"word{i % 977} and {i} " for i in range(int(sys.argv[2])))
codec = td.data.new_codec(text, sys.argv[1], 1000)
td.data.Corpus("long", text, codec).ids
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))  # not the parent's
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is only there")
@pytest.mark.parametrize(("tokens", "words", "most"), [("words", 200_000, 120_000), ("pieces", 80_000, 210_000)])
def test_one_long_line_is_cut_up(tokens: str, words: int, most: int) -> None:
    """Learning words or pieces of megabytes without a line break, and making ids of them."""
    pytest.importorskip("tokenizers")
    command = [sys.executable, "-c", MEMORY, tokens, str(words)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < most


def test_what_a_long_text_has_wrong_is_where_it_says() -> None:
    """The place in the text, not in a part of it."""
    text = "ab " * 800_000 + "#"
    with pytest.raises(ValueError, match=r"'#' .* at position 2400000,"):
        _ = Corpus("long", text, Characters("ab ")).ids


def test_evaluating_a_text_with_unknown_characters(runs: Runs, trained: Path, tmp_path: Path) -> None:
    """They are counted and windows with them left out; a text shorter than the model is one window."""
    text = runs.text.read_text()[:200]
    (tmp_path / "odd.txt").write_text(text[:100] + "##$" + text[100:])
    (tmp_path / "short.txt").write_text(text[:10])
    done = tinydiff("evaluate", trained, "--text", tmp_path / "odd.txt", "--windows=64")
    assert done.returncode == 0, done.stderr
    assert "3 characters are none that the model knows ('#', '$'); windows with them are left out" in done.stderr
    assert tinydiff("evaluate", trained, "--text", tmp_path / "short.txt", "--windows=64").stdout.endswith("of 10)\n")
    _, _, codec, _ = load(trained)
    odd = data.Unseen("odd", (tmp_path / "odd.txt").read_text(), codec)
    rng = np.random.default_rng(0)
    within = {text[i : i + 16] for i in (*range(85), *range(100, 185))}
    assert {codec.decode(row) for row in odd.examples(16, 5000, rng).x0} == within
    assert odd.longest == 100
    assert len(odd.ids) == 201  # a gap is one, however long
    (tmp_path / "rows.txt").write_text((text[:9] + "#") * 20)  # no window of 16 fits between these
    done = tinydiff("evaluate", trained, "--text", tmp_path / "rows.txt", "--windows=64")
    assert done.stdout.endswith("64 windows of 9)\n"), done.stderr
    (tmp_path / "none.txt").write_text("#" * 99)
    none = tinydiff("evaluate", trained, "--text", tmp_path / "none.txt")
    assert none.returncode == 2
    assert "has nothing that the model knows" in none.stderr


def test_evaluating_a_text_with_unknown_words(tmp_path: Path) -> None:
    """Words count like characters where they cannot be spelled; the error of one stretch of text is not given."""
    codec = data.Words((" the", " cat", " sat", "."))
    odd = data.Unseen("odd", " the cat sat. the zebra sat. zebra the cat.", codec)
    assert odd.unknown == {" zebra": 2}
    assert odd.ids.tolist() == [0, 1, 2, 3, 0, -1, 2, 3, -1, 0, 1, 3]
    assert odd.longest == 5
    with pytest.raises(ValueError, match="length is 6, but odd has at most 5 words in a row between what the model"):
        odd.check_length(6)
    small = ["--d-model=8", "--layers=1", "--heads=2", "--steps=2"]
    assert tinydiff("train", "--data", "stories", "--out", tmp_path / "run", *small).returncode == 0
    corpus = data.load("stories")
    story = corpus.codec.decode(corpus.ids[: corpus.law.length])
    (tmp_path / "odd.txt").write_text(story + " zebra" + story)
    done = tinydiff("evaluate", tmp_path / "run", "--text", tmp_path / "odd.txt", "--windows=64")
    assert done.returncode == 0, done.stderr
    assert "1 words are none that the model knows (' zebra')" in done.stderr
    (tmp_path / "odd.txt").write_text(story)
    done = tinydiff("evaluate", tmp_path / "run", "--text", tmp_path / "odd.txt", "--windows=64")
    assert re.match(r"[0-9.]+ bits per character, too little for an error, ", done.stdout)


def test_another_unicode_form_is_hinted_at(tmp_path: Path) -> None:
    """Evaluating a text whose accents are apart, with something else unknown in it."""
    apart = data.Unseen("apart", "cafe\u0301 # the\u0301", Characters("achfet \u00e9"))
    assert apart.unknown == {"\u0301": 2, "#": 1}
    assert apart.other_form == (
        "in Unicode form NFC more of it is known: convert it with unicodedata.normalize('NFC', text)"
    )
    wide = data.Unseen("wide", "\uff11\uff12 \ufb01", Characters("12 fi"))
    assert "normalize('NFKC', text)" in str(wide.other_form)
    assert data.Unseen("odd", "caf#", Characters("acf")).other_form is None


def test_texts_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path, of a text and of pairs, means the same file from another folder."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / "a.jsonl").write_text('{"prompt": "a", "answer": "b"}\n' * 3)
    monkeypatch.chdir(tmp_path / "sub")
    corpus, pairs = data.load("../a.txt"), data.load_pairs("../a.jsonl")
    monkeypatch.chdir(tmp_path)
    assert data.load(corpus.name).text == "abc"
    assert len(data.load_pairs(pairs.name).pairs) == 3


def test_standard_input_is_over(tmp_path: Path) -> None:
    """A run on it says so instead of waiting for more, and takes it again where it is told to."""
    text, out = b"the cat sat on the mat.\n" * 20, str(tmp_path / "run")
    small = ["--d-model=8", "--layers=1", "--heads=2", "--batch=4", "--steps=2", "--length=8"]

    assert tinydiff("train", "--text", "-", "--out", out, *small, stdin=text).returncode == 0
    for command in (("evaluate", out), ("train", "--resume", out, "--steps=3")):
        over = tinydiff(*command, stdin=text)
        assert over.returncode == 2
        assert "-, which" in over.stderr
        assert "is not there; say where it is with --text or --pairs" in over.stderr
    assert tinydiff("train", "--resume", out, "--steps=3", "--text", "-", stdin=text).returncode == 0
    evaluated = tinydiff("evaluate", out, "--windows=64", "--text", "-", stdin=text)
    assert "(NELBO, an upper bound; -, 64 windows of 8)" in evaluated.stdout


def test_empty_names_are_refused() -> None:
    """An empty --data is not python_docs, nor an empty folder the current one."""
    for options, words in (
        (["--data", "", "--out", "x"], "--data is empty"),
        (["--text", "", "--out", "x"], "--text is empty"),
        (["--data", "sums", "--out", ""], "--out is empty"),
    ):
        done = tinydiff("train", *options)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr
    assert "RUN is empty" in tinydiff("evaluate", "").stderr
    assert "RUN is empty" in tinydiff("infill", "", "a_").stderr
    assert "there is no run in nowhere" in tinydiff("infill", "nowhere", "").stderr


def test_the_error_is_that_of_the_text() -> None:
    """Overlapping windows do not make a short text longer: its own error, whatever the number of windows.

    Every place of the held-out part has its own nats, so that the mean is known, and its error over stretches of 32.
    """
    corpus, nats = counting(10_000), np.random.default_rng(0).normal(size=10_000)

    class Known(MaskedDiffusion):
        def bound(self, model: object, batch: data.Batch, rng: np.random.Generator, **options: object) -> np.ndarray:
            return nats[batch.x0].sum(axis=1)

    model = Transformer(10_000, 8, d_model=8, layers=1, heads=2, rng=np.random.default_rng(0))
    few, many, most = (evaluate(model, Known(10_000), corpus, windows=n) for n in (256, 16_384, 65_536))
    bits = nats[9000:] / np.log(2)
    stretches = bits[:992].reshape(-1, 32).mean(axis=1)
    assert most.mean == pytest.approx(bits.mean(), abs=0.01)
    assert most.error == pytest.approx(stretches.std(ddof=1) / np.sqrt(31), rel=0.1)
    assert many.error == pytest.approx(most.error, rel=0.1)
    assert few.error > 0.9 * most.error


def test_held_out_tokens_that_are_never_trained_on_are_counted() -> None:
    """Those of the last tenth that are nowhere before it, the most frequent first; none is an empty answer."""
    text = "ab" * 45 + "aéßéccbbaa"
    found = Corpus("late", text, Characters.of(text)).untrained
    assert list(found.items()) == [("c", 2), ("é", 2), ("ß", 1)]
    assert Corpus("early", text[::-1], Characters.of(text)).untrained == {}
    pairs = (("ab", "ba"), ("a", "b"), ("ac", "d"))
    assert data.Pairs("three", pairs, Characters("abcd\u00b6", eos="\u00b6")).untrained == {"c": 1, "d": 1}
