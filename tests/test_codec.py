"""Codecs of words and pieces: every text comes back, every token says what it stands for, what is unknown is named."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinydiff as td
from tests.test_cli import tinydiff
from tinydiff.data import Characters, Codec, Pieces, Words, codec_of, new_codec, with_blanks
from tinydiff.data.codec import SIGNS, parts

TEXT = (
    "The cat sat.  The  cat,\n\tthe caf\u00e9 cat's hat sat!\n"
    "The cats sat: \u732b\U0001f600 e\u0301 100 x_1 cat sat cat sat\n"
)
pytest.importorskip("tokenizers", reason="word pieces need the extra tinydiff[pieces]")


def codecs() -> list[Any]:
    return [
        Characters.of(TEXT), Words.of(TEXT), Words.of(TEXT, 32), Pieces.of(TEXT, 40), Characters.of(TEXT, eos=True),
        Words.of(TEXT, eos=True), Pieces.of(TEXT, 40, eos=True),
    ]  # fmt: skip


@pytest.mark.parametrize("codec", codecs(), ids=lambda codec: f"{type(codec).__name__}-{codec.vocab_size}")
def test_what_all_codecs_keep(codec: Codec) -> None:
    """Round trips, lengths of tokens, JSON, and MASK beside the tokens."""
    ids = codec.encode(TEXT)
    assert codec.decode(ids) == TEXT
    assert codec.lengths[ids].sum() == len(TEXT)
    assert len(codec.tokens) == len(codec.lengths) == codec.vocab_size
    assert codec_of(json.loads(json.dumps(codec.config))) == codec
    assert codec.decode(np.array([0, codec.vocab_size])) == codec.tokens[0] + "\u2591"
    assert len(codec.encode("")) == 0
    with pytest.raises(ValueError, match=rf"expected 0 <= id <= {codec.vocab_size}"):
        codec.decode(np.array([codec.vocab_size + 1]))
    with pytest.raises(ValueError, match=r"text contains '#' \(U\+0023\) at position 9"):
        codec.encode("The cats #1")
    if codec.eos_id is not None:
        assert codec.tokens[codec.eos_id] == SIGNS[0]
        assert codec.lengths[codec.eos_id] == 0
        assert codec.encode("cat" + SIGNS[0])[-1] == codec.eos_id


@given(text=st.text(st.sampled_from(sorted(set(TEXT)))))
def test_any_text_of_these_characters_comes_back(text: str) -> None:
    """Blanks at the ends and in rows, marks that combine with a blank, words nobody has seen."""
    for codec in CODECS:
        assert codec.decode(codec.encode(text)) == text


CODECS = codecs()


@given(text=st.text(st.sampled_from(sorted(set(TEXT)))), size=st.integers(1, 9))
def test_parts_lose_nothing(text: str, size: int) -> None:
    """And none is longer than twice the size, even where there is no border to cut at."""
    cut = [*parts(text, size)]
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 2 * size


@pytest.mark.parametrize("codec", CODECS[:4], ids=lambda codec: f"{type(codec).__name__}-{codec.vocab_size}")
def test_the_tokens_of_parts_are_those_of_the_text(codec: Codec) -> None:
    """No word is cut in two, wherever a part may end; in a language without blanks it is cut after its punctuation."""
    for size in range(6, 40):
        cut = [*parts(3 * TEXT, size)]
        assert len(cut) > 1
        assert np.concatenate([codec.encode(part) for part in cut]).tolist() == codec.encode(3 * TEXT).tolist()
    cat = "\u732b"
    assert [*parts(f"{2 * cat}\u3002{3 * cat}\uff0c{cat}", 2)] == [2 * cat + "\u3002", 3 * cat + "\uff0c", cat]


@pytest.mark.parametrize(
    ("codec", "text", "unknown"),
    [
        (Characters.of(TEXT), "The ### cat\u0302", ["#", "#", "#", "\u0302"]),
        (Words.of(TEXT), "a ## #cat cat#", ["#", "#", "#", "#"]),
        (Pieces.of(TEXT, 40), "#cat", ["#"]),
        (Words((" no", " yes", ".")), "no yes. maybe no. I", ["no", " maybe", " I"]),
    ],
)
def test_unknown(codec: Codec, text: str, unknown: list[str]) -> None:
    """What is unknown of a text, each with its place; the first of it is what the error names."""
    spans = codec.unknown(text)
    assert [text[start:end] for start, end in spans] == unknown
    with pytest.raises(ValueError, match=f"text contains {re.escape(repr(unknown[0]))} .*at position {spans[0][0]},"):
        codec.encode(text)
    assert codec.unknown("").shape == (0, 2)


def test_words_are_words() -> None:
    """The blank before a word is in it, punctuation stands alone, the rest is spelled."""
    words = Words.of(TEXT)
    cut = [words.tokens[i] for i in words.encode("The cat sat. The sat.\n  cat xhat")]
    assert cut == ["The", " cat", " sat", ".", " The", " sat", ".", "\n", " ", " cat", " ", "x", "h", "a", "t"]
    few = Words.of(TEXT, len(set(TEXT)) + 2)
    assert set(few.tokens[-2:]) == {" cat", " sat"}  # five times each


def test_pieces_join_what_is_frequent() -> None:
    """The first merge is the most frequent pair, and no piece crosses the border of a word."""
    pieces = Pieces.of("ab ab ab abc\n" * 3, 7)
    assert pieces.merges[0] == ("a", "b")
    for piece in Pieces.of(TEXT, 40).tokens:
        assert piece.count(" ") <= 1
        assert len(piece) == 1 or not set(piece.lstrip(" ")) & set(".,!\n\t")


def test_a_sign_that_the_text_uses_is_no_end() -> None:
    """EOS takes the first sign that is free."""
    assert Words.of("a\u00b6 b", eos=True).eos == SIGNS[1]
    with pytest.raises(ValueError, match="one of them must be left"):
        Characters.of("a" + SIGNS, eos=True)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Words.of(TEXT, 5), "vocab is 5, but the characters of the text alone are"),
        (lambda: Words.of(TEXT, 5000), r"vocab is 5000, but the text has no more than \d+ different tokens"),
        (lambda: Pieces.of(TEXT, 5), "vocab is 5, but the characters of the text alone are"),
        (lambda: Pieces.of(TEXT, 5000), r"vocab is 5000, but the text has no more than \d+ different tokens"),
        (lambda: new_codec(TEXT, "characters", 9), "vocab is 9, but characters are as many as the text has"),
        (lambda: new_codec(TEXT, "bytes"), "tokens is 'bytes'; expected one of characters, words, pieces"),
        (lambda: Words(("a", "a")), r"tokens is \['a', 'a'\]; expected at least one word and none twice"),
        (lambda: Words(("a",), "b"), "eos is 'b', which is none of the tokens"),
        (
            lambda: Words((" no", " yes")).encode(" yes maybe"),
            r"' maybe' at position 4, which is not one of the 2 words",
        ),
        (lambda: td.data.load("sums", tokens="words"), "tokens is 'words', but sums has its own"),
        (lambda: td.data.load("moons", vocab=3), "vocab is 3, but moons has its own"),
        (lambda: codec_of({"words": "abc"}), "words is abc; expected a list of text"),
        (lambda: codec_of({"alphabet": 3}), "alphabet is 3; expected text"),
    ],
)
def test_bad_vocabularies(make: Any, words: str) -> None:
    """Argument, value, remedy."""
    with pytest.raises(ValueError, match=words):
        make()


def test_another_unicode_form_is_named() -> None:
    """A letter with its accent in one, where the alphabet has it in two, and the other way round."""
    composed, apart = unicodedata.normalize("NFC", "cafe\u0301"), unicodedata.normalize("NFD", "caf\u00e9")
    for codec_text, text, form in ((composed, apart, "NFC"), (apart, composed, "NFD")):
        with pytest.raises(ValueError, match=f"in Unicode form {form} more of it is known: convert it with"):
            Characters.of(codec_text).encode(text)


def test_blanks() -> None:
    """A token for each blank; words take the space before a row of blanks with them."""
    letters, words = Characters.of(TEXT), Words.of(TEXT)
    ids, given_ = with_blanks(letters, "The __t", "_")
    assert given_.tolist() == [True] * 4 + [False] * 2 + [True]
    assert letters.decode(ids[given_]) == "The t"
    ids, given_ = with_blanks(words, "The cat __ sat _", "_")
    assert given_.tolist() == [True, True, False, False, True, False]
    assert words.decode(ids[given_]) == "The cat sat"
    with pytest.raises(ValueError, match=r"'#' .* at position 5"):
        with_blanks(words, "The _#", "_")


@pytest.mark.parametrize("tokens", ["words", "pieces"])
def test_commands_on_words_and_pieces(tokens: str, tmp_path: Path) -> None:
    """Trained, resumed, evaluated per character and per token, sampled, filled in, with blanks where they were."""
    text, out = tmp_path / "cats.txt", tmp_path / "run"
    text.write_text("the cat sat on a mat. the dog sat on the cat. a cat sat on the mat.\n" * 40)
    small = ["--d-model=8", "--layers=1", "--heads=2", "--batch=4", "--steps=4", "--length=8"]
    done = tinydiff("train", "--text", text, "--out", out, "--tokens", tokens, "--vocab=20", *small)
    assert done.returncode == 0, done.stderr
    assert f" {tokens}, 20 distinct" in done.stderr
    assert tinydiff("train", "--resume", out, "--steps=6").returncode == 0
    unit = tokens[:-1]
    assert f" per {unit} (NELBO" in tinydiff("evaluate", out, "--windows=64").stdout
    assert tinydiff("sample", out, "--prompt", "the cat", "--delay=0").stdout.startswith("the cat")
    filled = tinydiff("infill", out, "the __ sat on", "--delay=0").stdout
    assert filled.startswith("the")
    assert filled.endswith(" sat on\n")
    told = tinydiff("sample", out, "--allow", "the ", "--delay=0").stdout
    assert set(told) <= set("the \n")


def test_old_runs_have_an_alphabet() -> None:
    """What checkpoints kept before there were other tokens."""
    assert codec_of({"name": "x", "sha256": "y", "alphabet": "abc"}) == Characters("abc")
