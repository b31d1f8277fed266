"""Between text and token ids: characters, words, or pieces of words.

A codec is a list of tokens, each a string; ids stand for their strings, one after the other, so that whatever the
tokens `decode(encode(text)) == text`. What differs is how a text is cut:

- `Characters`: one token per character.
- `Words`: words and punctuation marks, each with the one blank before it, if there is one. What the list does not have
  is spelled in characters.
- `Pieces`: the same words, cut into the pieces that were merged most often in a training text (byte-pair encoding,
  Sennrich et al. 2016). Learnt by Hugging Face's `tokenizers`, the extra `pieces`.

A codec may have a token EOS that ends a text: an ordinary id, shown as a sign. MASK is none of them: processes give it
the id after the last.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from ..arrays import Bools, Ints

WORD = r" ?\w+| ?[^\w\s]|\s"
"""A word, a punctuation mark, either with a blank before it, or else white space: every character is in one of them."""
SIGNS = "\u00b6\u2403\u220e"  # of which EOS takes the first that the text does not use

LINE = 1 << 12  # characters that the library of pieces takes at once; it holds the place of each of their pieces
_BORDER = re.compile("[ \n]|(?<=[.,;:!?\u3001\u3002\uff01\uff0c\uff1a\uff1b\uff1f])")
"""Where no token goes on, whoever cuts: before white space and after punctuation."""


class Codec(Protocol):
    """What corpora, the command line and the views need of a codec."""

    @property
    def tokens(self) -> Sequence[str]:
        """The text of each token, (V,)."""
        ...

    @property
    def vocab_size(self) -> int:
        """V."""
        ...

    @property
    def eos_id(self) -> int | None:
        """The token that ends a text; None if there is none."""
        ...

    @property
    def lengths(self) -> Ints:
        """How many characters of text each token stands for, (V,); none for EOS."""
        ...

    @property
    def unit(self) -> str:
        """What one token is: "character", "word" or "piece"."""
        ...

    @property
    def spells(self) -> bool:
        """Whether it can say all that consists of its characters, not only the words that it lists."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """What `codec_of` builds it from again, as JSON has it."""
        ...

    def encode(self, text: str) -> Ints:
        """Ids of a text, (L,); ValueError naming what it cannot say, and where."""
        ...

    def unknown(self, text: str) -> Ints:
        """Beginnings and ends of what it cannot say of a text, in order: (n, 2)."""
        ...

    def decode(self, ids: Ints, mask: str = "\u2591") -> str:
        """The text of (L,) ids; MASK, the id after the last, is shown as `mask`."""
        ...


class _Listed:
    """What codecs with a list of tokens share."""

    tokens: Sequence[str]
    eos: str | None

    def unknown(self, text: str) -> Ints:
        raise NotImplementedError

    def _check(self, what: str, one: str) -> None:
        if not self.tokens or len(set(self.tokens)) != len(self.tokens) or "" in self.tokens:
            shown = str(list(self.tokens))
            raise ValueError(
                f"{what} is {shown if len(shown) < 200 else shown[:200] + '...'}; expected at least one {one} and none "
                "twice"
            )
        if self.eos is not None and self.eos not in self.tokens:
            raise ValueError(f"eos is {self.eos!r}, which is none of the tokens")

    @property
    def vocab_size(self) -> int:
        return len(self.tokens)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {token: i for i, token in enumerate(self.tokens)}

    @property
    def eos_id(self) -> int | None:
        return None if self.eos is None else self._ids[self.eos]

    @cached_property
    def lengths(self) -> Ints:
        return np.array([0 if token == self.eos else len(token) for token in self.tokens])

    def decode(self, ids: Ints, mask: str = "\u2591") -> str:
        if ids.size and not (ids.min() >= 0 and ids.max() <= self.vocab_size):
            raise ValueError(f"ids contains {ids.min()}..{ids.max()}; expected 0 <= id <= {self.vocab_size}")
        symbols = [*self.tokens, mask]
        return "".join(symbols[i] for i in ids)

    @cached_property
    def spells(self) -> bool:
        """Whether a word that is not listed can be said in characters, all of which are tokens then."""
        return self._ids.keys() >= set("".join(self.tokens))

    def _refuse(self, text: str) -> None:
        """ValueError naming the first of what is unknown in a text, if anything is."""
        spans = self.unknown(text)
        if not len(spans):
            return
        start, end = spans[0]
        known = "".join(token for token in self.tokens if len(token) == 1)
        if not self.spells:
            raise ValueError(
                f"text contains {text[start:end]!r} at position {start}, which is not one of the {self.vocab_size} "
                "words of this vocabulary"
            )
        shown = known if len(known) <= 120 else known[:120] + "..."
        form = other_form(text[max(0, start - 3) : start + 1000], set(known))
        raise ValueError(
            f"text contains {text[start]!r} (U+{ord(text[start]):04X}) at position {start}, which this alphabet of "
            f"{len(known)} characters does not have: {shown!r}" + (f"; {form}" if form else "")
        )


@dataclass(frozen=True)
class Characters(_Listed):
    """One token per character of a fixed alphabet: id i is `alphabet[i]`.

    Attributes
    ----------
    alphabet : the characters, none twice
    eos : the one of them that ends a text

    """

    alphabet: str
    eos: str | None = None

    unit = "character"

    def __post_init__(self) -> None:
        self._check("alphabet", "character")

    @staticmethod
    def of(text: str, *, eos: bool = False) -> Characters:
        """The codec whose alphabet is the characters of `text`, in code-point order, and EOS if it needs one."""
        if not text:
            raise ValueError("text is empty; an alphabet needs at least one character")
        sign = sign_for(text) if eos else None
        return Characters("".join(sorted(set(text))) + (sign or ""), sign)

    @cached_property
    def tokens(self) -> Sequence[str]:  # type: ignore[override]
        return tuple(self.alphabet)

    @property
    def config(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet} | _with_eos(self.eos)

    @cached_property
    def _table(self) -> Ints:
        return _table(self.alphabet)

    def unknown(self, text: str) -> Ints:
        return _spans(_looked_up(self._table, text) < 0)

    def encode(self, text: str) -> Ints:
        ids = _looked_up(self._table, text)
        if len(ids) and ids.min() < 0:
            self._refuse(text)
        return ids


@dataclass(frozen=True)
class Words(_Listed):
    """One token per word or punctuation mark and the blank before it; what is not listed is spelled in characters.

    Attributes
    ----------
    tokens : the strings, none twice; characters among them, if words outside the list are to be spelled
    eos : the one of them that ends a text

    """

    tokens: tuple[str, ...]
    eos: str | None = None

    unit = "word"

    def __post_init__(self) -> None:
        self._check("tokens", "word")

    @staticmethod
    def of(text: str, vocab: int | None = None, *, eos: bool = False) -> Words:
        """The characters of `text` and its words, the most frequent first, `vocab` tokens in all; None for every word.

        Ties go to the word that comes first in the alphabet.
        """
        if not text:
            raise ValueError("text is empty; a vocabulary needs at least one character")
        characters, sign = sorted(set(text)), sign_for(text) if eos else None
        always = [*characters, *([sign] if sign else [])]
        counts: Counter[str] = Counter()
        for part in parts(text):
            counts.update(re.findall(WORD, part))
        words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
        _check_vocab(vocab, len(always), len(always) + len(words))
        return Words((*always, *words[: None if vocab is None else vocab - len(always)]), sign)

    @property
    def config(self) -> dict[str, Any]:
        return {"words": list(self.tokens)} | _with_eos(self.eos)

    def unknown(self, text: str) -> Ints:
        """Characters that the list does not have; whole words, if it spells none."""
        known = self._ids
        spans: list[tuple[int, int]] = []
        for match in re.finditer(WORD, text):
            word, start = match[0], match.start()
            if word not in known and not known.keys() >= set(word):
                if self.spells:
                    spans += [(at, at + 1) for at, character in enumerate(word, start) if character not in known]
                else:
                    spans.append(match.span())
        return np.array(spans, np.int64).reshape(-1, 2)

    def encode(self, text: str) -> Ints:
        known, ids = self._ids, []
        for match in re.finditer(WORD, text):
            word = match[0]
            if word in known:
                ids.append(known[word])
                continue
            if not known.keys() >= set(word):
                self._refuse(text)
            ids += [known[character] for character in word]
        return np.array(ids, np.int64)


@dataclass(frozen=True)
class Pieces(_Listed):
    """Words cut into pieces by byte-pair encoding, over characters: every piece is a string.

    Attributes
    ----------
    merges : pairs of pieces in the order in which they are joined
    alphabet : the characters
    eos : a sign that ends a text

    """

    alphabet: str
    merges: tuple[tuple[str, str], ...]
    eos: str | None = None

    unit = "piece"

    def __post_init__(self) -> None:
        self._check("alphabet and merges", "piece")

    @staticmethod
    def of(text: str, vocab: int = 1024, *, eos: bool = False) -> Pieces:
        """The characters of `text` and the pairs that its words have most often, merged until there are `vocab`."""
        if not text:
            raise ValueError("text is empty; a vocabulary needs at least one character")
        sign = sign_for(text) if eos else None
        alphabet = "".join(sorted(set(text))) + (sign or "")
        _check_vocab(vocab, len(alphabet), None)
        library = _tokenizers()
        made = library.Tokenizer(library.models.BPE())
        made.pre_tokenizer = _cut(library)
        made.train_from_iterator(
            parts(text, LINE),
            library.trainers.BpeTrainer(
                vocab_size=vocab - bool(sign), initial_alphabet=[*set(text)], show_progress=False, special_tokens=[]
            ),
        )
        merges = json.loads(made.to_str())["model"]["merges"]
        pieces = Pieces(alphabet, tuple((left, right) for left, right in merges), sign)
        _check_vocab(vocab, len(alphabet), pieces.vocab_size)
        return pieces

    @cached_property
    def tokens(self) -> Sequence[str]:  # type: ignore[override]
        # Two ways of joining may give one piece, which is one token.
        return tuple(dict.fromkeys([*self.alphabet, *(left + right for left, right in self.merges)]))

    @property
    def config(self) -> dict[str, Any]:
        return {"alphabet": self.alphabet, "merges": [list(pair) for pair in self.merges]} | _with_eos(self.eos)

    @cached_property
    def _tokenizer(self) -> Any:
        library = _tokenizers()
        made = library.Tokenizer(library.models.BPE(vocab=dict(self._ids), merges=[*self.merges]))
        made.pre_tokenizer = _cut(library)
        return made

    @cached_property
    def _table(self) -> Ints:
        return _table(self.alphabet)

    def unknown(self, text: str) -> Ints:
        return _spans(_looked_up(self._table, text) < 0)

    def encode(self, text: str) -> Ints:
        self._refuse(text)
        ids = [np.zeros(0, np.int64)]
        for part in parts(text):
            cut = self._tokenizer.encode_batch([*parts(part, LINE)])
            ids += [np.array(line.ids, np.int64) for line in cut]
        return np.concatenate(ids)


TOKENS = ("characters", "words", "pieces")


def new_codec(text: str, tokens: str = "characters", vocab: int | None = None, *, eos: bool = False) -> Codec:
    """The codec of a text by the name of its tokens, with `vocab` of them where that is a choice."""
    if tokens == "characters":
        if vocab is not None:
            raise ValueError(f"vocab is {vocab}, but characters are as many as the text has; leave it out")
        return Characters.of(text, eos=eos)
    if tokens == "words":
        return Words.of(text, vocab, eos=eos)
    if tokens == "pieces":
        return Pieces.of(text, 1024 if vocab is None else vocab, eos=eos)
    raise ValueError(f"tokens is {tokens!r}; expected one of {', '.join(TOKENS)}")


def codec_of(config: Mapping[str, Any]) -> Codec:
    """The codec whose `config` this is; ValueError if it is none."""
    eos = config.get("eos")
    for key in ("alphabet", "eos"):
        if not isinstance(config.get(key, ""), str):
            raise ValueError(f"{key} is {config[key]!r}; expected text")
    if "words" in config:
        return Words(_strings("words", config["words"]), eos)
    if "merges" in config:
        merges = [_strings("merges", pair) for pair in config["merges"]]
        if any(len(pair) != 2 for pair in merges):
            raise ValueError("merges has an entry that is no pair")
        return Pieces(config["alphabet"], tuple((left, right) for left, right in merges), eos)
    return Characters(config["alphabet"], eos)


def _strings(name: str, values: Any) -> tuple[str, ...]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is {str(values)[:80]}; expected a list of text")
    return tuple(values)


def parts(text: str, size: int = 1 << 20) -> Iterator[str]:
    """A text in parts of `size` characters or a few more, so that what is made of one part does not fill the memory.

    The tokens of the parts are those of the text: it is cut where a token ends, unless there is none for `size`
    characters.
    """
    start = 0
    while len(text) - start > 2 * size:
        border = _BORDER.search(text, start + size, start + 2 * size)
        end = border.start() if border else start + 2 * size
        yield text[start:end]
        start = end
    yield text[start:]


def other_form(text: str, known: set[str]) -> str | None:
    """In which Unicode form most of a text is known, in words; None if in none more than as it is."""
    strange = {"": sum(c not in known for c in text)}  # comes first, and the canonical ones before those that lose
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        strange[form] = sum(c not in known for c in unicodedata.normalize(form, text))
    best = min(strange, key=strange.__getitem__)
    if not best:
        return None
    return f"in Unicode form {best} more of it is known: convert it with unicodedata.normalize({best!r}, text)"


def sign_for(text: str) -> str:
    """A sign for EOS that the text does not use itself."""
    for sign in SIGNS:
        if sign not in text:
            return sign
    raise ValueError(f"text contains all of {SIGNS}; one of them must be left to stand for the end of a text")


def _table(alphabet: str) -> Ints:
    """The id of every code point up to one after the last of an alphabet, -1 for those it does not have."""
    points = np.array([ord(c) for c in alphabet])
    table = np.full(points.max() + 2, -1)
    table[points] = np.arange(len(points))
    return table


def _looked_up(table: Ints, text: str) -> Ints:
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    return table[np.minimum(points, len(table) - 1)]


def _spans(unknown: Bools) -> Ints:
    at = np.flatnonzero(unknown)
    return np.stack([at, at + 1], axis=1)


def _with_eos(eos: str | None) -> dict[str, str]:
    return {} if eos is None else {"eos": eos}


def _check_vocab(vocab: int | None, least: int, most: int | None) -> None:
    if vocab is None:
        return
    if vocab < least:
        raise ValueError(f"vocab is {vocab}, but the characters of the text alone are {least}; expected at least that")
    if most is not None and vocab > most:
        raise ValueError(f"vocab is {vocab}, but the text has no more than {most} different tokens; ask for fewer")


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError as error:
        raise FileNotFoundError(
            "tokenizers is missing, which cuts words into pieces; install it: pip install 'tinydiff[pieces]'"
        ) from error
    return tokenizers


def _cut(library: Any) -> Any:
    return library.pre_tokenizers.Split(library.Regex(WORD), "isolated")
