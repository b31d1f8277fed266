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
        "meet": (FORMS["meet"][0], FORMS["meet"][3]),
        "mishap": (FORMS["mishap"][0],),
        "weather": (FORMS["weather"][0],),
        "give": (FORMS["give"][1], FORMS["give"][2]),
        "keep": (FORMS["keep"][1],),
        "end": (FORMS["end"][0], "That night {H} slept beside {it}."),
    },
    ("open meet give end", "open meet weather give end", "open meet mishap keep end"),
)
"""Forms and plans of different lengths, so that some texts are filled up."""
KITE = (
    "In the park, Mia found a red kite. Her brother Tom came to play. Then it grew hot, so they found some shade. "
    "She let Tom take the kite home. Tom went home with the red kite."
)
BOOTS = (
    "Today Omar saw some woolly boots at the market. He met his cousin Zoe there. But the boots were torn, so she "
    "mended them. She wanted them, but Omar refused. That night he dreamt of the boots."
)
APPLE = (
    "Ruth took her enormous apple to the hill today. Then her friend Ben came along. And so Ben washed it because the "
    "apple was muddy. She gladly gave him the enormous apple. The enormous apple went home with Ben."
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
    digits = np.random.default_rng(1).integers(1 << 62, size=texts.shape[1])  # rows as numbers: to sort them is slow
    drawn, counts = np.unique(TINY.draw(n, np.random.default_rng(0)) @ digits, return_counts=True)
    numbers = texts @ digits
    assert len(np.unique(numbers)) == len(texts)
    assert set(drawn) <= set(numbers)
    at = np.searchsorted(numbers, drawn, sorter=np.argsort(numbers))
    found = np.zeros(len(texts))
    found[np.argsort(numbers)[at]] = counts
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
    plan, forms = 4, 4 * 4 * 2 * 4 * 4
    names, thing, adjective, place = 16 * 8, 4 * 8, 5, 4  # four kinds, eight toys
    verb, relative, event = 3, 3, 6 * 3
    ids = np.zeros((1, STORIES.length), int)
    ids[0, : len(STORIES.codec.encode(" " + KITE))] = STORIES.codec.encode(" " + KITE)
    wanted = -np.log(plan * forms * names * thing * adjective * place * verb * relative * event)
    assert STORIES.log_p(ids)[0] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("story", "was", "becomes", "rule"),
    [
        (KITE, "a red", "an red", "agreement"),
        (KITE, "brother", "sister", "agreement"),
        (APPLE, "was muddy", "were muddy", "agreement"),
        (APPLE, "washed it", "washed them", "agreement"),
        (BOOTS, "some woolly", "a woolly", "agreement"),
        (BOOTS, "were torn", "was torn", "agreement"),
        (BOOTS, "wanted them", "wanted it", "agreement"),
        (BOOTS, "She wanted", "He wanted", "reference"),
        (APPLE, "gave him", "gave her", "reference"),
        (KITE, "Her brother", "His brother", "reference"),
        (BOOTS, "Omar refused", "Zoe refused", "reference"),
        (BOOTS, "cousin Zoe", "cousin Tom", "reference"),  # two boys: pronouns would not tell who
        (APPLE, "so Ben washed", "so Ruth washed", "reference"),
        (KITE, "Tom went", "Mia went", "object"),
        (KITE, "take the kite", "take the ball", "object"),
        (BOOTS, "night he", "night she", "object"),
        (APPLE, "with Ben", "with Ruth", "object"),
        (APPLE, "the apple was", "the pear was", "object"),
        (KITE, "the red", "the blue", "adjective"),
        (KITE, "red kite", "juicy kite", "adjective"),
        (APPLE, "The enormous", "The ripe", "adjective"),
        (KITE, "the park", "the beach", "place"),
        (BOOTS, "at the market", "by the market", "place"),
        (KITE, "found some shade", "made a snowman", "cause"),
        (BOOTS, "mended", "washed", "cause"),
        (APPLE, "muddy", "torn", "cause"),
        (KITE, "found some shade", "found a shade", "form"),
        (KITE, "found a", "gave a", "form"),
        (KITE, "She let Tom take the kite home. ", "", "form"),
        (KITE, "kite.", "kite", "form"),
        (KITE, "kite.", "kite. She let Tom take the kite home.", "form"),
        (KITE, "brother", "dentist", "form"),
        (KITE, "red kite", "red red kite", "form"),
        (KITE, "kite home. Tom", "kite home.¶ Tom", "form"),
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
    assert stories.fault(KITE.replace("a red", "an red").replace("Tom went", "Mia went")) == "agreement"
    assert stories.fault(APPLE.replace("gave him", "gave her").replace("The enormous", "The ripe")) == "reference"


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
    things = [thing for kind in stories.LEXICON.kinds for thing in kind.things + kind.several]
    for row in STORIES.draw(2000, np.random.default_rng(1)):
        text = STORIES.codec.decode(row).rstrip("¶")
        sentences = re.findall(r"[^.]+\.", text)
        assert len(sentences) == 5
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text)
        names = [word for word in re.findall(r"\w+", text) if word in boys | girls]
        first, second = dict.fromkeys(names)  # two people
        assert (first in boys) != (second in boys)
        given = bool(re.search(r"gave (the|him|her)\b|could keep|let \w+ take", text))
        owner = second if given else first
        end = sentences[-1]
        he = "he" if owner in boys else "she"
        assert re.search(rf"^ {owner} went|^ In the end {owner}|with {owner}|night {he}\b", end)
        adjective, thing = re.search(rf"(\w+) ({'|'.join(things)})\b", sentences[0]).groups()
        assert re.search(rf"(the|{adjective}) {thing}[ .]", end)
        assert all(word in (adjective, "The", "the") for word in re.findall(rf"(\w+) {thing}\b", text))
        several = any(thing in kind.several for kind in stories.LEXICON.kinds)
        assert not re.search(r" it(?! grew| started)|the \w+ was" if several else r"\bthem\b|\bwere\b", text)


def test_places_mean_the_same_in_every_text() -> None:
    """A form one word longer than its neighbours: a small network would have to count words before it reads them."""
    for forms in FORMS.values():
        assert len({len(stories._parts(form)) for form in forms}) == 1, forms
    ids = STORIES.draw(2000, np.random.default_rng(0))
    assert ((ids == STORIES.codec.eos_id).sum(axis=1) == 1).all()
    assert {plan.split()[-1] for plan in STORIES.plans} == {"end"}


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
        Stories(forms=FORMS | {"keep": (*FORMS["keep"], "Later {A} gave the {O} to {B}.")})
    with pytest.raises(ValueError, match="fit the same sentence"):
        replace(STORIES, forms=FORMS | {"end": (*FORMS["end"], "{B} went home with the {J} {O}.")})


def test_a_story_with_blanks() -> None:
    """Each blank is a word, with the space before it; and what a prompt begins with needs no space."""
    ids, given = data.with_blanks(STORIES.codec, " Mia found an _ drum in the _.", "_")
    assert given.tolist() == [True] * 3 + [False] + [True] * 3 + [False, True]
    assert STORIES.codec.decode(ids[given]) == " Mia found an drum in the."
    assert generate.begun({"data": {"name": "stories"}}, "Mia") == " Mia"
    assert generate.begun({"data": {"name": "book.txt"}}, "Mia") == "Mia"
