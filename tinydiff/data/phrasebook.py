"""Four small tasks of translation whose law is known, each with one way of going wrong if all is written at once.

- phrasebook: `merci > thank you | many thanks | best thanks`. The likeliest first word and the likeliest second word,
  each on its own, make `thank thanks`: words of different translations (the multimodality of Gu et al. 2017).
- orders: the words are certain and their order is free. In one look they repeat and go missing.
- dates: four ways to write a date, three lengths. How long will it be?
- numbers: `2 1 > twenty one | one and twenty`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping

from ..arrays import check_counts
from .translation import Pair, Translations

Concepts = Mapping[str, Mapping[str, float]]
"""Source words, each with its translations and their probabilities."""

CONCEPTS: Concepts = {
    "merci": {"thank you": 0.4, "many thanks": 0.3, "best thanks": 0.3},
    "bonjour": {"hello there": 0.4, "good day": 0.3, "nice day": 0.3},
    "pardon": {"excuse me": 0.4, "so sorry": 0.3, "very sorry": 0.3},
    "bravo": {"well done": 0.4, "good job": 0.3, "great job": 0.3},
}
UNEVEN: Concepts = {
    "merci": {"thanks": 0.5, "thank you": 0.5},
    "bonjour": {"hello": 0.5, "good day": 0.5},
    "pardon": {"sorry": 0.5, "excuse me": 0.5},
    "bravo": {"bravo": 0.5, "well done": 0.5},
}
"""Translations of one word and of two: the number of words says something, and the number for each source word more."""


def phrasebook(words: int = 2, concepts: Concepts = CONCEPTS) -> Translations:
    """Sources of that many words, all equally likely; each word is translated on its own, where it stands."""
    check_counts(words=words)
    pairs = []
    for source in itertools.product(concepts, repeat=words):
        for phrases in itertools.product(*(concepts[word].items() for word in source)):
            p, target, alignment = 1 / len(concepts) ** words, [], []
            for place, (phrase, share) in enumerate(phrases):
                p *= share
                target += phrase.split()
                alignment += [place] * len(phrase.split())
            pairs.append(Pair(source, tuple(target), tuple(alignment), p))
    return Translations.of(pairs)


ADVERBS = {
    "hier": "yesterday", "ici": "here", "bien": "well", "seul": "alone", "encore": "again", "souvent": "often",
}  # fmt: skip


def orders(words: int = 3, skew: float = 1.0) -> Translations:
    """Any of six adverbs, that many of them, put into any order.

    An order that has i pairs the other way round than in the source has a probability proportional to skew^i (Mallows
    1957): 1 for all orders equally likely; with two words, 3/7 for 0.7 and 0.3.
    """
    if not 1 <= words <= len(ADVERBS):
        raise ValueError(f"words is {words}; expected 1 <= words <= {len(ADVERBS)}")
    if not 0 < skew <= 1:
        raise ValueError(f"skew is {skew}; expected 0 < skew <= 1")
    every = list(itertools.permutations(range(words)))
    weights = [skew ** sum(a > b for a, b in itertools.combinations(order, 2)) for order in every]
    sources = list(itertools.combinations(ADVERBS, words))
    return Translations.of(
        Pair(source, tuple(ADVERBS[source[i]] for i in order), order, weight / sum(weights) / len(sources))
        for source in sources
        for order, weight in zip(every, weights, strict=True)
    )


MONTHS = {
    "January": 31, "February": 28, "March": 31, "April": 30, "May": 31, "June": 30, "July": 31, "August": 31,
    "September": 30, "October": 31, "November": 30, "December": 31,
}  # fmt: skip


def dates() -> Translations:
    """`2023 03 05 > 5 March 2023` 0.4, `March 5 , 2023` 0.3, `05 / 03 / 2023` 0.2, `5 . 3 . 2023` 0.1: for a year."""
    year, pairs = 2023, []
    for month, (name, days) in enumerate(MONTHS.items(), 1):
        for day in range(1, days + 1):
            source = (str(year), f"{month:02}", f"{day:02}")
            for target, alignment, share in (
                (f"{day} {name} {year}", (2, 1, 0), 0.4),
                (f"{name} {day} , {year}", (1, 2, 2, 0), 0.3),
                (f"{day:02} / {month:02} / {year}", (2, 2, 1, 1, 0), 0.2),
                (f"{day} . {month} . {year}", (2, 2, 1, 1, 0), 0.1),
            ):
                pairs.append(Pair(source, tuple(target.split()), alignment, share / 365))
    return Translations.of(pairs)


ONES = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def numbers() -> Translations:
    """`2 1 > twenty one` 0.7, `one and twenty` 0.3: from 21 to 99 without the tens."""
    pairs = []
    for (ten, of_ten), (one, of_one) in itertools.product(enumerate(TENS, 2), enumerate(ONES, 1)):
        source = (str(ten), str(one))
        pairs.append(Pair(source, (of_ten, of_one), (0, 1), 0.7 / 72))
        pairs.append(Pair(source, (of_one, "and", of_ten), (1, 1, 0), 0.3 / 72))
    return Translations.of(pairs)


TRANSLATIONS: dict[str, Callable[[], Translations]] = {
    "phrasebook": phrasebook, "orders": orders, "dates": dates, "numbers": numbers,
}  # fmt: skip
