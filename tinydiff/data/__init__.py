"""Data that every machine already has: corpora, or any file of text, as token ids; points and pictures as vectors.

`python_docs` is the language reference that CPython carries in `pydoc_data.topics`; `python_source` is the source of
the standard library's top-level modules; `python_prose` is sentences, of the one and of the docstrings in the other and
in the packages. They differ a little between Python versions.
`sums`, `agreement`, `chain` and `stories` are texts whose law is known, see laws.py; `phrasebook`, `orders`, `dates`
and `numbers` are translations whose law is known, see phrasebook.py; `instructions` are prompts with exact answers, see
instructions.py.
"""

from __future__ import annotations

import re
import sys
import sysconfig
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias, overload

import numpy as np

from ..arrays import Floats, Ints
from . import examples, glyphs, instructions, laws, phrasebook, toys, translation
from .batch import Batch
from .codec import TOKENS, Characters, Codec, Pieces, Words, codec_of, new_codec
from .corpus import Corpus, Unseen
from .examples import Examples, Parallel
from .laws import LAWS
from .middles import SENTINELS, Middles, middle_last, middle_of
from .pairs import RAINBOW, Pairs, UnseenPairs, digest_of, pairs_of, read_pairs
from .phrasebook import TRANSLATIONS
from .preferences import Preferences, preferences_of
from .text import absolute, read_text, with_blanks
from .translation import Translations
from .vectors import Vectors

__all__ = [
    "CORPORA",
    "INSTRUCTIONS",
    "LAWS",
    "RAINBOW",
    "SENTINELS",
    "TOKENS",
    "TRANSLATIONS",
    "VECTORS",
    "Batch",
    "Characters",
    "Codec",
    "Corpus",
    "Dataset",
    "Examples",
    "Middles",
    "Pairs",
    "Parallel",
    "Pieces",
    "Preferences",
    "Translations",
    "Unseen",
    "UnseenPairs",
    "Vectors",
    "Words",
    "absolute",
    "codec_of",
    "digest_of",
    "embeddings",
    "glyphs",
    "instructions",
    "laws",
    "load",
    "load_pairs",
    "middle_last",
    "middle_of",
    "new_codec",
    "phrasebook",
    "preferences_of",
    "read_pairs",
    "read_text",
    "toys",
    "translation",
    "with_blanks",
]


class Dataset(Protocol):
    """What can be trained on: tokens, then it has a `vocab_size`, or vectors, then `features` and maybe `classes`.

    Text also has a `codec`, by which figures are given per character. See docs/own_data.md for one of your own.
    """

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    @property
    def unit(self) -> str:
        """Of its held-out figure: "bits per character", per token, or per dimension."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, as JSON has it: "name", and under "sha256" a digest of all of it."""
        ...

    def check_length(self, length: int) -> None:
        """ValueError unless it has sequences of that length."""
        ...

    def examples(self, length: int, size: int, rng: np.random.Generator, *, held_out: bool = False) -> Batch:
        """Random sequences, (size, length) token ids or (size, length, F) vectors, from one part or the other."""
        ...


def python_docs() -> str:
    """The Python language reference, as carried by CPython: about 465,000 characters."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise FileNotFoundError(
            "this Python comes without pydoc_data.topics, the text of 'python_docs'; install the "
            "full standard library (on Debian: apt install libpython3-stdlib) or use --text FILE"
        ) from error
    return "\n\n".join(topics[key] for key in sorted(topics))


def python_source() -> str:
    """The standard library's top-level modules in alphabetical order, those that are pure ASCII."""
    return "\n\n".join(_sources(_library()))


def _library() -> Path | zipfile.Path:
    """The standard library's folder; where there is a browser around Python, it is an archive."""
    for place in sys.path:
        if re.fullmatch(r"python3\d*\.zip", Path(place).name) and Path(place).is_file():
            return zipfile.Path(place)
    return Path(sysconfig.get_path("stdlib"))


def _sources(folder: Path | zipfile.Path, deep: bool = False) -> list[str]:
    """The modules in a folder in alphabetical order, those that are pure ASCII; deep: with those of its packages."""
    entries: list[Path | zipfile.Path] = [*folder.iterdir()]
    texts = []
    for entry in sorted(entries, key=lambda entry: entry.name):
        if entry.name.endswith(".py") and (source := entry.read_bytes()).isascii():
            texts.append(source.decode("ascii").replace("\r\n", "\n"))
        elif deep and entry.name.isidentifier() and entry.name not in TESTS and entry.is_dir():  # not site-packages
            texts += _sources(entry, deep)
    if not texts and not deep:
        raise FileNotFoundError(
            f"no Python source in {sysconfig.get_path('stdlib')}, the text of 'python_source'; use --text FILE"
        )
    return texts


Tokens: TypeAlias = Literal["characters", "words", "pieces"]


def python_prose() -> str:
    """The sentences of the language reference and of the standard library's docstrings: about 800,000 characters.

    A paragraph of the one and a docstring of the other is a line: unwrapped, without markup and quotation marks, and
    without what is no plain sentence, above all code and what speaks in names. Both are spread evenly over the text,
    so that what is held out at its end is of both.
    """
    paragraphs = re.split(r"\n\s*\n", python_docs())
    docstrings = re.findall(r'^ *r?"""(.*?)"""', "\n".join(_sources(_library(), deep=True)), re.MULTILINE | re.DOTALL)
    spread, known = [], {""}
    for texts in (paragraphs, docstrings):  # of some versions a docstring is a paragraph, too: it comes once
        lines = [line for line in dict.fromkeys(map(_sentences, texts)) if line not in known]
        known.update(lines)
        spread += [(i / len(lines), line) for i, line in enumerate(lines)]
    return "\n".join(line for _, line in sorted(spread))


def _sentences(text: str) -> str:
    """The plain sentences of a text, without the markup of names, in a row."""
    found = []
    for block in re.split(r"\n\s*\n", text):
        plain = re.sub(r"^\W+", "", MARKUP.sub("", " ".join(block.split())))
        found += [s for s in re.split(r"(?<=[.!?]) (?=[A-Z])", plain) if SENTENCE.fullmatch(s) and not CODE.search(s)]
    return " ".join(found)


TESTS = ("test", "tests", "idle_test")
MARKUP = re.compile(r"""[*`"]|(?<!\w)'|'(?!\w)""")
"""What stands around names and italics; an apostrophe within a word is none."""
SENTENCE = re.compile(r"[A-Z][\w ,;:()'/-]{20,}[.!?]", re.ASCII)
CODE = re.compile(r"_|\w\(|\w:\w|\d\.| {2}| [,;:.!?)]")
"""In a sentence: names of several words, calls, slices, numbers at the end, mostly of versions; gaps of signs."""

CORPORA = {"python_docs": python_docs, "python_prose": python_prose, "python_source": python_source}
INSTRUCTIONS = (instructions.NAME,)
VECTORS = {name: partial(toys.load, name) for name in toys.TOYS} | {"glyphs": glyphs.load}


@overload
def load(
    name: Literal["python_docs", "python_prose", "python_source"],
    codec: Codec | None = None,
    *,
    tokens: Tokens = ...,
    vocab: int | None = ...,
) -> Corpus: ...


@overload
def load(name: Literal["sums", "agreement", "chain", "stories"], codec: Codec | None = None) -> Examples: ...


@overload
def load(name: Literal["phrasebook", "orders", "dates", "numbers"], codec: Codec | None = None) -> Parallel: ...


@overload
def load(name: Literal["instructions"], codec: Codec | None = None) -> Pairs: ...


@overload
def load(name: str, codec: Codec, *, tokens: Tokens = ..., vocab: int | None = ...) -> Corpus | Pairs: ...


@overload
def load(
    name: str, codec: Codec | None = None, *, tokens: Tokens = ..., vocab: int | None = ...
) -> Corpus | Vectors | Pairs: ...


def load(
    name: str, codec: Codec | None = None, *, tokens: Tokens = "characters", vocab: int | None = None
) -> Corpus | Vectors | Pairs:
    """Load a corpus or a set of vectors by name, or a file of text by path.

    Parameters
    ----------
    name : one of `CORPORA`, `LAWS`, `TRANSLATIONS`, `INSTRUCTIONS` or `VECTORS`, or a path, see `read_text`; a
        file that is called like one of those is meant by ./NAME
    codec : to use; by default one for the text itself
    tokens : what that is to have, "characters", "words" or "pieces"
    vocab : how many tokens, of words or pieces

    """
    if name in VECTORS or name in LAWS or name in TRANSLATIONS or name in INSTRUCTIONS:
        if tokens != "characters" or vocab is not None:
            what = f"tokens is {tokens!r}" if tokens != "characters" else f"vocab is {vocab}"
            raise ValueError(f"{what}, but {name} has its own; leave it out")
        if name in INSTRUCTIONS:
            return instructions.load(codec)
        return VECTORS[name]() if name in VECTORS and codec is None else examples.load(name, codec)
    if name in CORPORA:
        text = CORPORA[name]()
    elif name == "-" or Path(name).exists():
        text, name = read_text(Path(name)), absolute(name)
    else:
        raise FileNotFoundError(
            f"no file and no corpus is called {name!r}; corpora: "
            f"{', '.join([*CORPORA, *LAWS, *TRANSLATIONS, *INSTRUCTIONS])}; "
            f"vectors: {', '.join(VECTORS)}"
        )
    return Corpus(name, text, codec or new_codec(text, tokens, vocab))


def load_pairs(
    path: Path | str,
    codec: Codec | None = None,
    *,
    tokens: Tokens = "characters",
    vocab: int | None = None,
    rainbow: int = 0,
) -> Pairs:
    """Load prompts and answers from a file of JSON lines, each {"prompt": ..., "answer": ...}.

    Parameters
    ----------
    path : of the file; "instructions" is the corpus of that name
    codec, tokens, vocab : as of `load`
    rainbow : how many tokens take turns after the end of an answer, see `Pairs`

    """
    if str(path) in INSTRUCTIONS:
        return instructions.load(codec, rainbow)
    return pairs_of(absolute(path), read_text(path), codec, tokens=tokens, vocab=vocab, rainbow=rainbow)


def embeddings(ids: Ints, vocab_size: int, dimensions: int | None = None) -> Floats:
    """Vectors that are close for tokens found in the same company: (N,) ids to (V, dimensions), by default 16.

    Counts of the tokens one place to the left and one place to the right, as positive pointwise mutual information,
    reduced by a singular value decomposition (Levy and Goldberg 2014) and scaled to length 1. Nothing is random, and
    distances do not depend on the signs that the decomposition leaves open. For nearest-neighbour noise.
    """
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"ids has shape {ids.shape}; expected at least two tokens in a row (N,)")
    if not (ids.min() >= 0 and ids.max() < vocab_size):
        raise ValueError(f"ids contains {ids.min()}..{ids.max()}; expected 0 <= id < vocab_size = {vocab_size}")
    dimensions = min(16, vocab_size) if dimensions is None else dimensions
    if not 1 <= dimensions <= vocab_size:
        raise ValueError(f"dimensions is {dimensions}; expected 1 <= dimensions <= vocab_size = {vocab_size}")
    ids = ids.astype(np.int64)  # a corpus keeps them in less
    follows = np.bincount(ids[:-1] * vocab_size + ids[1:], minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    company = np.concatenate([follows, follows.T], axis=1).astype(np.float64)  # (V, 2 V): what follows, what precedes
    expected = company.sum(axis=1, keepdims=True) * company.sum(axis=0) / company.sum()
    information = np.log(company / np.maximum(expected, 1e-12), out=np.zeros_like(company), where=company > 0)
    u, s, _ = np.linalg.svd(np.maximum(information, 0), full_matrices=False)
    vectors = u[:, :dimensions] * np.sqrt(s[:dimensions])
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
