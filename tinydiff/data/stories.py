"""Very short stories from a grammar: words as tokens, and the exact probability of every text.

    In the park, Mia found a red kite. Her cousin Tom came to play. Then it grew hot, so they found some shade. She let
    Tom take the kite home. In the end Tom kept the kite.

A girl and a boy, so that every pronoun has one reading; a thing that one of them has, and the other may be given; its
adjective, which comes back; something that happens, and what follows from it. What binds the sentences together is far
apart in the text: many tokens committed at once, each sensible alone, break it.

A story is *written* from its choices (a plan, a form for each sentence, and what fills the forms) and *read* back: no
two forms fit the same sentence, and every choice shows at its first mention, so that a text has one derivation, and

    log p(text) = sum of log p(choice | earlier choices)   if the text is what its own derivation writes, else -inf

The first word at which the two differ says which rule is broken, see `RULES`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from ..arrays import Bools, Floats, Ints
from .codec import Words

EOS = "¶"
"""Ends a text and fills it up to its length."""

RULES = {
    "form": "the sentences have none of the known forms, or not in an order that tells a story",
    "agreement": "a, an or some; was or were; it or them; brother or sister",
    "reference": "a name or a pronoun is not that of the person it should be",
    "object": "the thing is another one, or is with the wrong person",
    "adjective": "the adjective does not suit the thing, or has changed",
    "place": "the place does not suit the thing",
    "cause": "what follows is no effect of what happened",
}
BROKEN = {
    "A": "reference", "B": "reference", "H": "object", "O": "object", "J": "adjective", "P": "place",
    "in": "place", "In": "place", "a": "agreement", "it": "agreement",
    "was": "agreement", "R": "agreement", "C": "form", "E": "form",
}  # fmt: skip
"""The rule that a wrong word in a slot breaks."""
UNSUITED = {"B": "reference", "J": "adjective", "P": "place", "E": "cause", "X": "cause", "Y": "cause"}
"""The rule that a choice breaks which is impossible after the choice that it depends on."""

PERSON = {"he": ("he", "she"), "He": ("He", "She"), "him": ("him", "her"), "his": ("his", "her"), "His": ("His", "Her")}
THING = {"it": ("it", "them"), "was": ("was", "were")}
ARTICLES = ("a", "an", "some")
PHRASE = 3  # words of what happens, and of its effect
PARENTS = {
    "A": "", "B": "A", "K": "", "O": "K", "J": "K", "P": "K", "R": "", "V": "", "C": "", "E": "C",
    "X": "K", "Y": "X",
}  # fmt: skip
"""What each choice depends on, parents first: the letters of the forms, and K, the kind of the thing."""


@dataclass(frozen=True)
class Kind:
    """Things of one kind, and what suits them.

    Attributes
    ----------
    things, several : nouns in the singular, and in the plural
    adjectives, places : what they may be like, and where
    states : what may be wrong with them

    """

    things: tuple[str, ...]
    several: tuple[str, ...]
    adjectives: tuple[str, ...]
    places: tuple[str, ...]
    states: tuple[str, ...]


@dataclass(frozen=True)
class Lexicon:
    """The words of the stories.

    Attributes
    ----------
    boys, girls : names
    relatives : what a boy may be to the other, and what a girl
    verbs : how a thing is come across
    kinds : of things
    places : the preposition of each
    effects : three words each, of three words that happen
    remedies : what is done about a state

    """

    boys: tuple[str, ...]
    girls: tuple[str, ...]
    relatives: tuple[tuple[str, str], ...]
    verbs: tuple[str, ...]
    kinds: tuple[Kind, ...]
    places: dict[str, str]
    effects: dict[str, tuple[str, ...]]
    remedies: dict[str, tuple[str, ...]]


COLOURS = ("red", "blue", "green", "yellow")
LEXICON = Lexicon(
    boys=("Tom", "Ben", "Sam", "Max", "Leo", "Finn", "Noah", "Omar"),
    girls=("Mia", "Ana", "Lily", "Zoe", "Eva", "Ruth", "Nora", "Ines"),
    relatives=(("friend", "friend"), ("cousin", "cousin"), ("brother", "sister")),
    verbs=("found", "spotted", "saw"),
    kinds=(
        Kind(
            ("kite", "ball", "drum", "boat", "robot", "puppet"),
            ("marbles", "blocks"),
            (*COLOURS, "wooden"),
            ("park", "attic", "fair", "meadow"),
            ("dusty", "broken"),
        ),
        Kind(
            ("hat", "scarf", "coat", "cap", "umbrella", "jumper"),
            ("boots", "mittens"),
            (*COLOURS, "woolly"),
            ("park", "attic", "market", "school"),
            ("dusty", "torn"),
        ),
        Kind(
            ("shell", "stone", "feather", "acorn", "leaf", "pinecone"),
            ("pebbles", "flowers"),
            ("tiny", "smooth", "pretty", "odd", "white"),
            ("beach", "woods", "river", "meadow"),
            ("sandy", "muddy"),
        ),
        Kind(
            ("apple", "pear", "peach", "melon", "carrot", "pumpkin"),
            ("cherries", "berries"),
            ("ripe", "juicy", "sweet", "fresh", "enormous"),
            ("garden", "market", "farm", "hill"),
            ("dusty", "muddy"),
        ),
    ),
    places={
        "park": "in", "attic": "in", "meadow": "in", "woods": "in", "garden": "in", "hill": "on", "beach": "on",
        "farm": "on", "fair": "at", "market": "at", "school": "at", "river": "by",
    },
    effects={
        "it started raining": ("got very wet", "found some shelter", "hurried back home"),
        "night came early": ("lit a lantern", "watched the stars", "hurried back home"),
        "the wind rose": ("held on tight", "buttoned their coats", "chased falling leaves"),
        "it grew hot": ("drank cold lemonade", "found some shade", "splashed their feet"),
        "snow began falling": ("made a snowman", "caught some snowflakes", "buttoned their coats"),
        "some music played": ("danced a little", "hummed the tune", "clapped their hands"),
    },
    remedies={
        "dusty": ("wiped", "brushed"), "broken": ("fixed", "repaired"), "muddy": ("washed", "scrubbed"),
        "torn": ("mended", "patched"), "sandy": ("brushed", "shook"),
    },
)  # fmt: skip

# A is who has the thing, B who comes, H who has it in the end; O the thing, J its adjective, P the
# place, R what B is to A, V how the thing is come across, C what happens and E its effect, X a state and Y its remedy.
FORMS = {
    "open": (
        "{In} the {P}, {A} {V} {a} {J} {O}.",
        "Today {A} {V} {a} {J} {O} {in} the {P}.",
        "{A} took {A.his} {J} {O} to the {P} today.",
        "{A} walked to the {P} with {a} {J} {O}.",
    ),
    "meet": (
        "Then {A.his} {R} {B} came along.",
        "{A.His} {R} {B} came to play.",
        "{A.He} met {A.his} {R} {B} there.",
        "{A.He} proudly showed {it} to {B}.",
    ),
    "weather": (
        "Then {C}, so they {E}.",
        "{A} and {B} {E} because {C}.",
    ),
    "mishap": (
        "But the {O} {was} {X}, so {B.he} {Y} {it}.",
        "And so {B} {Y} {it} because the {O} {was} {X}.",
    ),
    "give": (
        "Later {A} gave the {O} to {B}.",
        "{A} said that {B.he} could keep {it}.",
        "{A.He} gladly gave {B.him} the {J} {O}.",
        "{A.He} let {B} take the {O} home.",
    ),
    "keep": (
        "{B.He} wanted {it}, but {A} refused.",
        "{B} only looked at the {J} {O}.",
        "{B.He} held {it} and gave {it} back.",
    ),
    "end": (
        "{H} went home with the {J} {O}.",
        "The {J} {O} went home with {H}.",
        "In the end {H} kept the {O}.",
        "That night {H.he} dreamt of the {O}.",
    ),
}  # fmt: skip
"""All forms of a stage are equally long. So a place in the text has one meaning, and a small network learns the rules
that bind words together instead of counting words first."""
PLANS = (
    "open meet weather give end",
    "open meet weather keep end",
    "open meet mishap give end",
    "open meet mishap keep end",
)

TOKEN = re.compile(r"\{[^}]+\}|[.,¶]|[^\s.,¶]+")
CLOSE = (".", ",", EOS)  # no blank before these


def _uniform(sets: Sequence[Sequence[str]], values: Sequence[str]) -> Floats:
    """Log probabilities (sets, values), uniform over each set."""
    p = np.array([[some.count(value) / len(some) for value in values] for some in sets])
    return np.asarray(np.log(p, out=np.full(p.shape, -np.inf), where=p > 0))


def _conditional(values: Ints, given: Ints) -> float:
    """H(values | given) of the frequencies of two (n,) arrays, in nats."""

    def entropy(rows: Ints) -> float:
        _, counts = np.unique(rows, axis=0, return_counts=True)
        p = counts / counts.sum()
        return float(-(p * np.log(p)).sum())

    return entropy(np.stack([values, given], axis=1)) - entropy(given[:, None]) if len(values) else 0.0


def _slots(name: str) -> list[str]:
    """Where a choice shows: a slot of its own name, or one for each word of a phrase."""
    return [f"{name}.{i}" for i in range(PHRASE)] if name in ("C", "E") else [name]


def _parts(form: str) -> list[str]:
    """The words, punctuation and slots of a form, slots as "{A.he}"."""
    found = []
    for part in TOKEN.findall(form):
        found += [f"{{{slot}}}" for slot in _slots(part[1:-1])] if part[0] == "{" else [part]
    return found


@dataclass(frozen=True)
class Stories:
    """The law of stories: every choice is uniform, given the one it depends on.

    `PARENTS` names the choices; beside them stand "plan", the order of the stages, and "forms", one for each of S
    sentences.

    Attributes
    ----------
    lexicon : the words
    forms : the sentences of each stage of a story
    plans : orders of stages, equally likely

    """

    lexicon: Lexicon = LEXICON
    forms: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: FORMS)
    plans: tuple[str, ...] = PLANS

    def __post_init__(self) -> None:
        for (f, a), (g, b) in itertools.combinations(enumerate(self._sentences), 2):
            if (self._fitting[f] & self._fitting[g]).any(axis=1).all():
                raise ValueError(f"forms has {a!r} and {b!r}, which fit the same sentence; a text needs one reading")

    @cached_property
    def codec(self) -> Words:
        """One token per word with the blank before it, and per punctuation mark: so a text begins with a blank."""
        words = {word for options in self._options.values() for word in options}
        words |= {part for parts in self._parts for part in parts if part[0] != "{"}
        return Words((EOS, *(word if word in CLOSE else " " + word for word in sorted(words))), EOS)

    def _ids(self, words: Iterable[str]) -> Ints:
        """Words and punctuation marks, without blanks, as ids: (n,)."""
        return np.array([self._id_of[word] for word in words], np.int64)

    @cached_property
    def _id_of(self) -> dict[str, int]:
        return {token.strip(): i for i, token in enumerate(self.codec.tokens)}

    @cached_property
    def length(self) -> int:
        """Tokens of every text: of the longest story and one `EOS`."""
        longest = {stage: max(len(_parts(form)) for form in forms) for stage, forms in self.forms.items()}
        return 1 + max(sum(longest[stage] for stage in plan.split()) for plan in self.plans)

    @property
    def entropy(self) -> float:
        """H(plan) + H(forms | plan) + the sum over choices of P(it shows) H(choice | parent), in nats per text."""
        total = np.log(len(self.plans)) + np.log(self._counts)[self._stages].sum(axis=1).mean()
        laws: dict[str, Floats] = {"": np.ones(1)}
        for name, parent in PARENTS.items():
            p = np.exp(self._tables[name])  # (parents, values)
            hidden = np.array([f"{{{_slots(name)[0]}}}" not in parts for parts in self._parts] + [True])  # (F + 1,)
            without = np.add.reduceat(hidden.astype(int), self._firsts) / self._counts  # (stages + 1,)
            shows = 1.0 if name == "K" else 1 - without[self._stages].prod(axis=1).mean()
            total += shows * float(laws[parent] @ -(p * np.log(np.where(p > 0, p, 1))).sum(axis=1))
            laws[name] = laws[parent] @ p
        return float(total)

    def log_p(self, ids: Ints) -> Floats:
        """(n, L) ids to (n,) nats, -inf for texts that are not valid."""
        choices, at = self.read(ids)
        known = choices["plan"] >= 0
        total = -np.log(len(self.plans)) - np.log(self._counts)[self._stages[choices["plan"]]].sum(axis=1)
        for name, log_p in self._log_p(choices).items():
            total += np.where(at[name] >= 0, log_p, 0)
        same = (self.write(choices) == ids).all(axis=1)
        return np.where(known & same, total, -np.inf)

    def draw(self, n: int, rng: np.random.Generator) -> Ints:
        """(n, L) ids of texts drawn from the law."""
        choices = {"plan": rng.integers(0, len(self.plans), n)}
        stages = self._stages[choices["plan"]]  # (n, S)
        choices["forms"] = self._firsts[stages] + (rng.random(stages.shape) * self._counts[stages]).astype(np.int64)
        for name, parent in PARENTS.items():
            sums = np.exp(self._tables[name]).cumsum(axis=1)[choices[parent] if parent else np.zeros(n, np.int64)]
            choices[name] = (sums <= rng.random((n, 1)) * sums[:, -1:]).sum(axis=1)
        return self.write(choices)

    def variety(self, ids: Ints) -> float:
        """How varied (n, L) valid texts are: `entropy`, from the frequencies of their choices, in nats per text.

        A plug-in estimate: too low by about half the number of possibilities over n, so compare it with that of as many
        real texts. It is blind to choices that depend on one another where those of the law do not.
        """
        choices, at = self.read(ids)
        plans = choices["plan"]
        total = _conditional(plans, np.zeros(len(ids), np.int64))
        for forms, stages in zip(choices["forms"].T, self._stages[plans].T, strict=True):
            total += _conditional(forms, stages)
        for name, parent in PARENTS.items():
            shows = at[name] >= 0
            given = choices[parent][shows] if parent else np.zeros(int(shows.sum()), np.int64)
            total += float(shows.mean()) * _conditional(choices[name][shows], given)
        return total

    def valid(self, text: str) -> bool:
        """Whether the text has a probability above zero; the tokens that fill it up may be left out."""
        return self.fault(text) is None

    def fault(self, story: str | Ints) -> str | None:
        """The first of `RULES` that a text, or (L,) ids, breaks; None if it is valid."""
        if isinstance(story, str):
            try:
                story = self.codec.encode(" " + story.strip())
            except ValueError:
                return "form"  # a word that no story has
        if len(story) > self.length:
            return "form"
        ids = np.full((1, self.length), self.codec.eos_id)
        ids[0, : len(story)] = story
        return self.faults(ids)[0]

    def faults(self, ids: Ints) -> list[str | None]:
        """The first rule that each of (n, L) texts breaks, in the order of reading."""
        choices, at = self.read(ids)
        layout, written = self._layout(choices["forms"]), self.write(choices)
        slot_of = {code: slot for slot, code in self._codes.items()}
        found: list[str | None] = []
        unsuited = {name: np.isneginf(log_p) & (at[name] >= 0) for name, log_p in self._log_p(choices).items()}
        for row in range(len(ids)):
            if choices["plan"][row] < 0:
                found.append("form")
                continue
            broken = [(int(at[name][row]), UNSUITED[name]) for name in PARENTS if unsuited[name][row]]
            for i in np.flatnonzero(written[row] != ids[row])[:1]:
                broken.append((int(i), BROKEN[slot_of[int(layout[row, i])].split(".")[0]]))
            found.append(min(broken)[1] if broken else None)
        return found

    def write(self, choices: Mapping[str, Ints]) -> Ints:
        """The texts (n, L) that some choices make: (n,) each, "forms" (n, S)."""
        layout, v = self._layout(choices["forms"]), self.codec.vocab_size
        spelled = np.stack([self._spelled(slot, choices) for slot in self._options], axis=1)  # (n, slots)
        words = np.take_along_axis(spelled, np.maximum(layout - v, 0), axis=1)
        return np.where(layout < v, layout, words)

    def read(self, ids: Ints) -> tuple[dict[str, Ints], dict[str, Ints]]:
        """The choices that (n, L) texts show, and where each shows first: (n,), "forms" (n, S); -1 where it does not.

        The plan of what tells no story is -1.
        """
        choices = self._sentence_forms(ids)
        layout, rows = self._layout(choices["forms"]), np.arange(len(ids))
        at: dict[str, Ints] = {}
        for name in PARENTS:
            if name not in self._words:  # the kind, or what no form shows
                choices[name], at[name] = np.zeros(len(ids), np.int64), np.full(len(ids), -1)
                continue
            here = layout == self._codes[_slots(name)[0]]
            first, words = here.argmax(axis=1), self._words[name]  # (values, spellings, words each)
            there = ids[rows[:, None], np.minimum(first[:, None] + np.arange(words.shape[2]), ids.shape[1] - 1)]
            alike = (there[:, None, None] == words).sum(axis=3).max(axis=2)  # (n, values)
            choices[name], at[name] = alike.argmax(axis=1), np.where(here.any(axis=1), first, -1)
        choices["K"], at["K"] = self._tables["O"].argmax(axis=0)[choices["O"]], at["O"]  # the thing shows its kind
        return choices, at

    def _sentence_forms(self, ids: Ints) -> dict[str, Ints]:
        """The plan and forms of (n, L) texts, whatever fills the slots: -1 and empty forms where there are none."""
        if ids.shape[1:] != (self.length,):
            raise ValueError(f"ids has shape {ids.shape}; expected (n, {self.length})")
        _, most, nothing = self._fitting.shape  # F + 1, M, V + 1
        nothing -= 1
        filler = ids == self.codec.eos_id
        stop = ids == self._id_of["."]
        sentence = stop.cumsum(axis=1) - stop  # (n, L)
        begins = np.maximum.accumulate(np.where(np.roll(stop, 1, axis=1), np.arange(self.length), 0), axis=1)
        place = np.arange(self.length) - begins
        inside = ~filler & (sentence < self._stages.shape[1]) & (place < most)
        sound = (inside | filler).all(axis=1) & (filler[:, 1:] >= filler[:, :-1]).all(axis=1)
        sound &= ((ids >= 0) & (ids < nothing)).all(axis=1)
        words = np.full((len(ids), self._stages.shape[1], most), nothing)
        rows, columns = np.nonzero(inside & sound[:, None])
        words[rows, sentence[rows, columns], place[rows, columns]] = ids[rows, columns]
        forms = np.full(words.shape[:2], -1)
        for form, fits in enumerate(self._fitting):
            forms[fits[np.arange(most), words].all(axis=2)] = form
        stages = np.searchsorted(self._firsts, forms, side="right") - 1  # -1 for no form
        same = (stages[:, None] == self._stages).all(axis=2)  # (n, plans)
        plan = np.where(same.any(axis=1) & sound, same.argmax(axis=1), -1)
        return {"plan": plan, "forms": np.where(plan[:, None] >= 0, forms, len(self._sentences))}

    def _layout(self, forms: Ints) -> Ints:
        """The sentences of (n, S) forms end to end, (n, L): words as their ids, slots as their codes."""
        width = max(map(len, self._parts))
        known = {f"{{{slot}}}": code for slot, code in self._codes.items()}
        known |= self._id_of
        codes = np.full((len(self._parts) + 1, width), -1)
        for row, parts in zip(codes, self._parts, strict=False):
            row[: len(parts)] = [known[part] for part in parts]
        lines = codes[forms].reshape(len(forms), -1)  # (n, S M)
        rows, columns = np.nonzero(lines >= 0)
        layout = np.full((len(forms), self.length), self.codec.eos_id)
        layout[rows, ((lines >= 0).cumsum(axis=1) - 1)[rows, columns]] = lines[rows, columns]
        return layout

    def _spelled(self, slot: str, choices: Mapping[str, Ints]) -> Ints:
        """The word in a slot, (n,)."""
        words = self._ids(self._options[slot])
        name, _, case = slot.partition(".")
        gives = np.array(["give" in plan.split() for plan in self.plans])[choices["plan"]]
        first, second, boys = choices["A"], choices["B"], len(self.lexicon.boys)
        people = {"A": first, "B": second, "H": np.where(gives, second, first)}
        several = np.array([any(thing in kind.several for kind in self.lexicon.kinds) for thing in self._values["O"]])
        if name in people:
            return np.asarray(words[(people[name] >= boys).astype(int)] if case else words[people[name]])
        if name in THING:
            return np.asarray(words[several[choices["O"]].astype(int)])
        if name == "a":
            vowel = np.array([adjective[0] in "aeiou" for adjective in self._values["J"]])
            return words[np.where(several[choices["O"]], 2, vowel[choices["J"]])]
        if name == "R":
            return words[2 * choices["R"] + (second >= boys)]
        return words[choices[{"in": "P", "In": "P"}.get(name, name)]]

    def _log_p(self, choices: Mapping[str, Ints]) -> dict[str, Floats]:
        """Of every choice given its parent, (n,) each."""
        return {
            name: self._tables[name][choices[parent] if parent else 0, choices[name]]
            for name, parent in PARENTS.items()
        }

    @cached_property
    def _values(self) -> dict[str, list[str]]:
        """What each choice chooses from."""
        words, kinds = self.lexicon, self.lexicon.kinds
        people = [*words.boys, *words.girls]
        return {
            "A": people,
            "B": people,
            "K": [kind.things[0] for kind in kinds],
            "O": [thing for kind in kinds for thing in (*kind.things, *kind.several)],
            "J": list(dict.fromkeys(adjective for kind in kinds for adjective in kind.adjectives)),
            "P": list(words.places),
            "R": [boy for boy, _ in words.relatives],
            "V": list(words.verbs),
            "C": list(words.effects),
            "E": list(dict.fromkeys(effect for effects in words.effects.values() for effect in effects)),
            "X": list(words.remedies),
            "Y": list(dict.fromkeys(remedy for remedies in words.remedies.values() for remedy in remedies)),
        }

    @cached_property
    def _tables(self) -> dict[str, Floats]:
        """Log probabilities (parents, values) of each choice."""
        words, kinds = self.lexicon, self.lexicon.kinds
        sets: dict[str, Sequence[Sequence[str]]] = {
            "B": [words.girls] * len(words.boys) + [words.boys] * len(words.girls),
            "O": [kind.things + kind.several for kind in kinds],
            "J": [kind.adjectives for kind in kinds],
            "P": [kind.places for kind in kinds],
            "E": list(words.effects.values()),
            "X": [kind.states for kind in kinds],
            "Y": list(words.remedies.values()),
        }
        return {name: _uniform(sets.get(name, [values]), values) for name, values in self._values.items()}

    @cached_property
    def _options(self) -> dict[str, tuple[str, ...]]:
        """The words that may fill each slot of the forms, the wrong ones among them."""
        words, values = self.lexicon, self._values
        options = {name: tuple(values[name]) for name in "ABOJPVXY"}
        options |= {"H": tuple(values["A"])}
        options |= {f"{who}.{case}": PERSON[case] for who in "ABH" for case in PERSON} | THING | {"a": ARTICLES}
        options |= {"in": tuple(words.places.values()), "In": tuple(word.title() for word in words.places.values())}
        options |= {"R": tuple(relative for pair in words.relatives for relative in pair)}
        for name in ("C", "E"):
            phrases = [value.split() for value in values[name]]
            options |= {slot: tuple(phrase[i] for phrase in phrases) for i, slot in enumerate(_slots(name))}
        shown = {part[1:-1] for parts in self._parts for part in parts if part[0] == "{"}
        return {slot: options[slot] for slot in sorted(shown)}

    @cached_property
    def _codes(self) -> dict[str, int]:
        """A number for each slot, behind the ids of the words."""
        return {slot: self.codec.vocab_size + i for i, slot in enumerate(self._options)}

    @cached_property
    def _words(self) -> dict[str, Ints]:
        """How each value of a choice may be spelled, (values, spellings, words of each)."""
        found = {}
        for name in PARENTS:
            if _slots(name)[0] in self._options:
                words = np.stack([self._ids(self._options[slot]) for slot in _slots(name)], axis=1)
                found[name] = words.reshape(len(self._values[name]), -1, words.shape[1])
        return found

    @cached_property
    def _sentences(self) -> list[str]:
        """All forms; the one after the last is no sentence."""
        return [form for forms in self.forms.values() for form in forms]

    @cached_property
    def _parts(self) -> list[list[str]]:
        return [_parts(form) for form in self._sentences]

    @cached_property
    def _counts(self) -> Ints:
        """How many forms each stage has; the one after the last is no stage, for plans with fewer."""
        return np.array([len(forms) for forms in self.forms.values()] + [1])

    @cached_property
    def _firsts(self) -> Ints:
        """The first form of each stage."""
        return np.cumsum([0, *self._counts[:-1]])

    @cached_property
    def _stages(self) -> Ints:
        """The stages of each plan, (plans, S)."""
        names = [*self.forms]
        plans = [[names.index(stage) for stage in plan.split()] for plan in self.plans]
        return np.array([plan + [len(names)] * (max(map(len, plans)) - len(plan)) for plan in plans])

    @cached_property
    def _fitting(self) -> Bools:
        """Which word, or none, may stand at each place of each form: (F + 1, M, V + 1)."""
        v, most = self.codec.vocab_size, max(map(len, self._parts))
        fitting = np.zeros((len(self._parts) + 1, most, v + 1), bool)
        for row, parts in zip(fitting, [*self._parts, []], strict=True):
            for place, part in zip(row, parts, strict=False):
                place[self._ids(self._options[part[1:-1]] if part[0] == "{" else [part])] = True
            row[len(parts) :, v] = True
        return fitting


STORIES = Stories()


def fault(story: str | Ints) -> str | None:
    """The first of `RULES` that a story, a text or (L,) ids, breaks; None if it is valid."""
    return STORIES.fault(story)
