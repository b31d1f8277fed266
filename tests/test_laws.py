"""Texts with a known law: probabilities that sum to one, texts that are what they say, and whole windows."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from tinydiff import data, exact
from tinydiff.data import laws

SMALL = laws.Chain("ab", np.array([0.25, 0.75]), np.array([[0.5, 0.5], [0.0, 1.0]]), 3)


@pytest.mark.parametrize("name", laws.LAWS)
def test_the_law_is_a_law(name: str) -> None:
    """Draws have the entropy that the law states: 4.5 standard errors of their mean NLL, two-sided, seed fixed."""
    law = laws.LAWS[name]()
    ids = law.draw(4000, np.random.default_rng(0))
    assert ids.shape == (4000, law.length)
    nll = -law.log_p(ids)
    assert abs(nll.mean() - law.entropy) <= 4.5 * nll.std() / np.sqrt(4000) + 1e-12
    assert all(law.valid(law.codec.decode(row)) for row in ids[:50])


def test_listed_probabilities_sum_to_one_and_are_drawn() -> None:
    """Total variation of 100,000 draws: within what 408 texts vary by chance (mean + 4.5 standard deviations)."""
    law = laws.agreement()
    assert np.exp(law.log_p(law.ids)).sum() == pytest.approx(1)
    n, rng = 100_000, np.random.default_rng(0)
    found = np.bincount(law.places(law.draw(n, rng)), minlength=len(law.p)) / n
    spread = np.abs(found - law.p) / np.sqrt(law.p * (1 - law.p) / n)
    assert spread.max() < 4.5


def test_chain_against_enumeration() -> None:
    """All 8 texts of a small chain: the sum, the entropy, and what is impossible."""
    sequences = exact.all_sequences(2, 3)
    p = np.exp(SMALL.log_p(sequences))
    assert p.sum() == pytest.approx(1)
    assert SMALL.entropy == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum())
    np.testing.assert_allclose(p[:2], [0.25 / 4, 0.25 / 4])
    assert [SMALL.valid("".join("ab"[i] for i in row)) for row in sequences] == (p > 0).tolist()
    assert not SMALL.valid("aa")
    assert not SMALL.valid("abc")


def test_sums_are_sums() -> None:
    """Every text is a true sum, padded to 9 characters; a wrong one has no probability."""
    law = laws.sums()
    for text in law.texts:
        a, b, c = map(int, re.fullmatch(r"(\d\d)\+(\d\d)=(\d+) *", text).groups())
        assert a + b == c
        assert len(text) == 9
    assert law.valid("17+25=42 ")
    assert not law.valid("17+25=43 ")
    assert law.log_p(law.codec.encode("17+25=43 ")[None])[0] == -np.inf
    assert law.log_p(law.codec.encode("17+25=42 ")[None])[0] == pytest.approx(-np.log(8100))


def test_agreement_agrees() -> None:
    """Subject, verb and pronoun have one number, whatever stands between them."""
    law = laws.agreement()
    for text in law.texts:
        plural, singular, pronoun = re.fullmatch(
            r"the (?:dog|hen|cow|fox)(s?)(?: \w+ the \w+)? \w+?(s?) (itself|themselves)\. *", text
        ).groups()
        assert bool(plural) != bool(singular)
        assert pronoun == ("themselves" if plural else "itself")
    assert law.valid("the dogs near the hen feed themselves.".ljust(40))
    assert not law.valid("the dogs near the hen feeds itself.".ljust(40))


@pytest.mark.parametrize("name", laws.LAWS)
def test_windows_are_whole_texts(name: str) -> None:
    """A window that begins inside a text would be valid under no law; held-out sums were never trained on."""
    corpus = data.load(name)
    length = corpus.law.length
    corpus.check_length(length)
    rng = np.random.default_rng(0)
    for held_out in (False, True):
        ids = corpus.batch(length, 100, rng, held_out=held_out)
        assert (corpus.law.log_p(ids) > -np.inf).all()
    assert len(corpus.train) + len(corpus.held_out) == len(corpus.ids)
    assert len(corpus.held_out) % length == len(corpus.train) % length == 0
    if name == "sums":
        train, held = ({row.tobytes() for row in part.reshape(-1, length)} for part in (corpus.train, corpus.held_out))
        assert len(train) + len(held) == 8100
        assert not train & held
    with pytest.raises(ValueError, match=rf"texts of {length} (characters|words); use that"):
        corpus.batch(length - 1, 1, rng)
    assert data.load(name, data.codec_of(corpus.codec.config)).config == corpus.config


def test_a_run_on_sums_learns_positions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe gives the length; texts that begin at a fixed place need to know it, which rotary positions hide."""
    from tinydiff import cli, load

    cli.app(
        ["train", "--data", "sums", "--out", str(tmp_path / "run"), "--steps", "2", "--d-model", "8", "--heads", "2"],
        standalone_mode=False,
    )
    model, *_ = load(tmp_path / "run")
    assert (model.length, model.positions) == (9, "learned")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: laws.Listed(("ab", "a"), np.array([0.5, 0.5])), "one length"),
        (lambda: laws.Listed(("ab", "ab"), np.array([0.5, 0.5])), "distinct"),
        (lambda: laws.Listed(("ab", "ba"), np.array([0.5, 0.6])), r"sums to 1\.1; expected positive"),
        (lambda: laws.Chain("ab", np.ones(2) / 2, np.eye(3), 4), r"expected \(2,\) and \(2, 2\)"),
        (lambda: laws.Chain("ab", np.ones(2) / 2, np.ones((2, 2)), 4), "must sum to 1"),
        (lambda: laws.Chain("ab", np.ones(2) / 2, np.array([[2.0, -1.0], [0.5, 0.5]]), 4), "negative"),
        (lambda: SMALL.log_p(np.zeros((1, 2), int)), r"expected \(n, 3\)"),
    ],
)
def test_what_is_no_law(make, words: str) -> None:
    """Probabilities that do not add up, or texts that would be cut."""
    with pytest.raises(ValueError, match=words):
        make()
