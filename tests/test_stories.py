"""Stories: a law that is exact, texts that round-trip, and every broken rule found and named."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

from tinydiff import data
from tinydiff.cli import generate
from tinydiff.data import stories
from tinydiff.data.stories import FORMS, PARENTS, STORIES, Kind, Lexicon, Stories

TINY = Stories(
    Lexicon(
        boys=("Tom",),
        girls=("Mia", "Eva"),
        relatives=(("friend", "friend"), ("brother", "sister")),
        verbs=("found",),
        kinds=(
            Kind(("kite",), ("blocks",), ("red", "old"), ("park", "attic"), ("wet",)),
            Kind(("apple",), (), ("old", "ripe", "red"), ("park",), ("wet", "dusty")),
        ),
        places={"park": "in", "attic": "in"},
        effects={"it grew hot": ("found some shade",), "the wind rose": ("held on tight", "found some shade")},
        remedies={"wet": ("dried",), "dusty": ("wiped", "dried")},
    ),
    {
        "open": (FORMS["open"][0],),
        "meet": (FORMS["meet"][0], FORMS["meet"][1]),
        "alone": (FORMS["alone"][0],),
        "weather": (FORMS["weather"][1],),
        "give": (FORMS["give"][0], FORMS["give"][1]),
        "keep": (FORMS["keep"][3],),
        "end": (FORMS["end"][0], FORMS["end"][4]),
    },
    ("open meet give end", "open meet weather give end", "open alone meet keep end"),
)
KITE = (
    "Mia found a red kite in the park. Her brother Tom came to play. Then it grew hot, so they found some shade. "
    "She gave it to him. Tom carried the red kite, and Mia sang."
)
BOOTS = (
    "At the market, Omar saw some striped boots. They were muddy, so he washed them. He met his cousin Zoe there. "
    "She wanted them, but Omar said no. At night the striped boots were beside him."
)
APPLE = (
    "Ruth took her enormous apple to the hill. Ben saw it and smiled. Ben brushed it because the apple was dusty. "
    "He asked for it, and she agreed. The enormous apple went home with Ben."
)


def enumerated(law: Stories) -> np.ndarray:
    """Every text of a small law once, by listing all choices."""
    rows = []
    for plan, stages in enumerate(law.plans):
        forms = [range(law._firsts[s], law._firsts[s] + law._counts[s]) for s in law._stages[plan]]
        assert len(stages.split()) <= len(forms)
        for values in itertools.product(*(range(len(law._values[name])) for name in PARENTS)):
            chosen = dict(zip(PARENTS, values, strict=True))
            if all(law._tables[n][chosen[p] if p else 0, chosen[n]] > -np.inf for n, p in PARENTS.items()):
                rows += [(plan, *values, *f) for f in itertools.product(*forms)]
    table, last = np.array(rows), 1 + len(PARENTS)
    choices = {"plan": table[:, 0], "forms": table[:, last:]}
    return np.unique(law.write(choices | {name: table[:, i + 1] for i, name in enumerate(PARENTS)}), axis=0)


def test_probabilities_sum_to_one() -> None:
    """A small grammar, every text listed: sum p = 1, and the entropy in closed form is -sum p log p."""
    texts = enumerated(TINY)
    p = np.exp(TINY.log_p(texts))
    assert len(texts) > 1000
    assert (p > 0).all()
    assert p.sum() == pytest.approx(1, abs=1e-12)
    assert TINY.entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-10)


def test_texts_are_drawn_as_often_as_they_should() -> None:
    """200,000 draws of the small grammar against its list: chi-squared within 4.5 standard deviations, seed fixed."""
    texts, n = enumerated(TINY), 200_000
    drawn, counts = np.unique(TINY.draw(n, np.random.default_rng(0)), axis=0, return_counts=True)
    at = {row.tobytes(): i for i, row in enumerate(texts)}
    found = np.zeros(len(texts))
    found[[at[row.tobytes()] for row in drawn]] = counts
    expected = n * np.exp(TINY.log_p(texts))
    chi, free = ((found - expected) ** 2 / expected).sum(), len(texts) - 1
    assert abs(chi - free) < 4.5 * np.sqrt(2 * free + (1 / expected).sum())


def test_draws_are_valid_and_have_the_entropy() -> None:
    """20,000 draws: all valid, all round-trip, mean NLL within 4.5 standard errors of the entropy, seed fixed."""
    ids = STORIES.draw(20_000, np.random.default_rng(0))
    nll = -STORIES.log_p(ids)
    assert np.isfinite(nll).all()
    assert abs(nll.mean() - STORIES.entropy) < 4.5 * nll.std() / np.sqrt(len(nll))
    assert STORIES.faults(ids[:500]) == [None] * 500
    text = STORIES.codec.decode(ids[:500].ravel())
    np.testing.assert_array_equal(STORIES.codec.encode(text), ids[:500].ravel())
    assert STORIES.codec.decode(STORIES.codec.encode(text)) == text
    assert ((ids == STORIES.codec.eos_id).sum(axis=1) >= 1).all()


def test_one_story_by_hand() -> None:
    """log p is the product of one over the number of possibilities, choice by choice."""
    assert STORIES.fault(KITE) is None
    plan, forms = 7, 5 * 5 * 2 * 4 * 5
    names, thing, adjective, place = 24 * 12, 5 * 10, 8, 6  # five kinds, ten toys
    verb, relative, event = 3, 4, 10 * 3
    ids = np.zeros((1, STORIES.length), int)
    ids[0, : len(STORIES.codec.encode(" " + KITE))] = STORIES.codec.encode(" " + KITE)
    wanted = -np.log(plan * forms * names * thing * adjective * place * verb * relative * event)
    assert STORIES.log_p(ids)[0] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("story", "was", "becomes", "rule"),
    [
        (KITE, "a red", "an red", "agreement"),
        (KITE, "gave it", "gave them", "agreement"),
        (KITE, "brother", "sister", "agreement"),
        (APPLE, "was dusty", "were dusty", "agreement"),
        (BOOTS, "some striped", "a striped", "agreement"),
        (BOOTS, "They were", "They was", "agreement"),
        (BOOTS, "They were", "It were", "agreement"),
        (KITE, "She gave", "He gave", "reference"),
        (KITE, "to him", "to her", "reference"),
        (KITE, "Her brother", "His brother", "reference"),
        (BOOTS, "Omar said", "Zoe said", "reference"),
        (BOOTS, "cousin Zoe", "cousin Tom", "reference"),  # two boys: pronouns would not tell who
        (APPLE, "Ben brushed", "Ruth brushed", "reference"),
        (KITE, "Tom carried", "Mia carried", "object"),
        (KITE, "Mia sang", "Tom sang", "object"),
        (KITE, "red kite, and", "red ball, and", "object"),
        (BOOTS, "beside him", "beside her", "object"),
        (APPLE, "with Ben", "with Ruth", "object"),
        (APPLE, "the apple was", "the pear was", "object"),
        (KITE, "the red", "the blue", "adjective"),
        (KITE, "red kite", "juicy kite", "adjective"),
        (APPLE, "The enormous", "The golden", "adjective"),
        (KITE, "the park", "the beach", "place"),
        (BOOTS, "At the market", "By the market", "place"),
        (KITE, "found some shade", "made a snowman", "cause"),
        (BOOTS, "washed", "mended", "cause"),
        (APPLE, "dusty", "torn", "cause"),
        (KITE, "found some shade", "found a shade", "form"),
        (KITE, "found a", "gave a", "form"),
        (KITE, "She gave it to him. ", "", "form"),
        (KITE, "sang.", "sang", "form"),
        (KITE, "sang.", "sang. She gave it to him.", "form"),
        (KITE, "brother", "dentist", "form"),
        (KITE, "red kite in", "red red kite in", "form"),
        (KITE, "gave it to him. Tom", "gave it to him.¶ Tom", "form"),
    ],
)
def test_a_planted_mistake_is_named(story: str, was: str, becomes: str, rule: str) -> None:
    """The story is valid, with one thing changed it breaks that rule."""
    assert stories.fault(story) is None
    assert story.count(was) >= 1
    broken = story.replace(was, becomes) if rule == "adjective" and becomes == "juicy kite" else None
    head, _, tail = story.rpartition(was)
    broken = broken or head + becomes + tail
    assert stories.fault(broken) == rule
    assert not STORIES.valid(broken)
    assert rule in stories.RULES


def test_the_first_mistake_counts() -> None:
    """Two rules broken: the one that a reader meets first."""
    assert stories.fault(KITE.replace("a red", "an red").replace("Mia sang", "Tom sang")) == "agreement"
    assert stories.fault(KITE.replace("to him", "to her").replace("the red", "the blue")) == "reference"


def test_a_fault_is_probability_zero() -> None:
    """Draws with a word from another, with two swapped, and noise: fault and log p agree everywhere."""
    rng, v = np.random.default_rng(0), STORIES.codec.vocab_size
    ids = STORIES.draw(3000, rng)
    rows = np.arange(1000)
    at = rng.integers(0, 40, 1000)
    ids[rows, at] = STORIES.draw(1000, rng)[rows, at]
    a, b = rng.integers(0, 40, (2, 1000))
    ids[1000 + rows, a], ids[1000 + rows, b] = ids[1000 + rows, b], ids[1000 + rows, a]
    ids[2000:] = rng.integers(0, v + 1, (1000, STORIES.length))  # some hold the id of a mask
    possible = STORIES.log_p(ids) > -np.inf
    faults = STORIES.faults(ids)
    assert [fault is None for fault in faults] == possible.tolist()
    assert {*faults} == {None, *stories.RULES}
    assert set(faults[2000:]) == {"form"}


def test_what_the_grammar_promises() -> None:
    """Read without the grammar: articles, pronouns of a girl and a boy, who has the thing, what comes back."""
    boys, girls = set(stories.LEXICON.boys), set(stories.LEXICON.girls)
    for row in STORIES.draw(2000, np.random.default_rng(1)):
        text = STORIES.codec.decode(row).rstrip("¶")
        sentences = re.findall(r"[^.]+\.", text)
        assert len(sentences) == 5
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)
        names = [word for word in re.findall(r"\w+", text) if word in boys | girls]
        first, second = dict.fromkeys(names)  # two people
        assert (first in boys) != (second in boys)
        given = bool(re.search(r"gave (it|them) to|gave (him|her) the|agreed|let \w+ keep", text))
        owner = second if given else first
        end = sentences[-1]
        him = "him" if owner in boys else "her"
        assert re.search(rf"^ {owner} (went|carried)|^ In the end {owner}|with {owner}|beside {him}\b", end)
        adjective, thing = re.search(r"[Tt]he (\w+) (\w+)(?: went| were| was|,|\.)", end).groups()
        assert f"{adjective} {thing}" in sentences[0]
        several = any(thing in kind.several for kind in stories.LEXICON.kinds)
        assert not re.search(r"\bit (was|and|to|because|back)|\bwas \w+, so|gave it" if several else r"\bthem\b", text)


def test_nothing_is_learnt_by_heart() -> None:
    """No held-out story stands in the training part, and hardly a draw comes twice."""
    corpus = data.load("stories")
    train, held = (part.reshape(-1, STORIES.length) for part in (corpus.train, corpus.held_out))
    assert (len(train), len(held)) == (18_000, 2_000)
    seen = {row.tobytes() for row in train}
    assert len(seen) >= 17_990
    assert not any(row.tobytes() in seen for row in held)


def test_words() -> None:
    """One token per word, the blank before it in it, so that what is written is read again; others are refused."""
    codec = STORIES.codec
    ids = codec.encode(" Mia found a red kite, in the park.¶¶")
    assert len(ids) == 12
    assert codec.decode(ids) == " Mia found a red kite, in the park.¶¶"
    ids[1] = codec.vocab_size
    assert codec.decode(ids).startswith(" Mia░ a red")
    with pytest.raises(ValueError, match=r"' mia' at position 8, which is not one of the \d+ words"):
        codec.encode(" Mia saw mia")
    with pytest.raises(ValueError, match=rf"expected \(n, {STORIES.length}\)"):
        STORIES.log_p(np.zeros((2, 5), int))


def test_forms_that_could_be_mistaken_are_refused() -> None:
    """Two forms that fit one sentence would give a text two derivations, and the sum over texts would not be one."""
    with pytest.raises(ValueError, match="fit the same sentence; a text needs one reading"):
        Stories(forms=FORMS | {"keep": (*FORMS["keep"], "{A} gave {B.him} the {O}.")})
    with pytest.raises(ValueError, match="fit the same sentence"):
        replace(STORIES, forms=FORMS | {"end": (*FORMS["end"], "{B} went home with the {J} {O}.")})


def test_a_story_with_blanks() -> None:
    """Each blank is a word, with the space before it; and what a prompt begins with needs no space."""
    ids, given = data.with_blanks(STORIES.codec, " Mia found an _ drum in the _.", "_")
    assert given.tolist() == [True] * 3 + [False] + [True] * 3 + [False, True]
    assert STORIES.codec.decode(ids[given]) == " Mia found an drum in the."
    assert generate.begun({"data": {"name": "stories"}}, "Mia") == " Mia"
    assert generate.begun({"data": {"name": "book.txt"}}, "Mia") == "Mia"
