"""Data that every machine already has: corpora, or any UTF-8 file, as token ids; points and pictures as vectors.

`python_docs` is the language reference that CPython carries in `pydoc_data.topics`; `python_source` is the source of
the standard library's top-level modules. Both differ a little between Python versions. `sums`, `agreement` and `chain`
are texts whose law is known, see laws.py; `phrasebook`, `orders`, `dates` and `numbers` are translations whose law is
known, see phrasebook.py.
"""

from __future__ import annotations

import sysconfig
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, overload

import numpy as np

from ..arrays import Floats, Ints
from . import examples, glyphs, laws, phrasebook, toys, translation
from .batch import Batch
from .codec import Codec
from .corpus import Corpus
from .examples import Examples, Parallel
from .laws import LAWS
from .phrasebook import TRANSLATIONS
from .translation import Translations, Words
from .vectors import Vectors

__all__ = [
    "CORPORA",
    "LAWS",
    "TRANSLATIONS",
    "VECTORS",
    "Batch",
    "Codec",
    "Corpus",
    "Dataset",
    "Examples",
    "Parallel",
    "Translations",
    "Vectors",
    "Words",
    "embeddings",
    "glyphs",
    "laws",
    "load",
    "phrasebook",
    "read_text",
    "toys",
    "translation",
]

Dataset: TypeAlias = Corpus | Vectors
"""What can be trained on. Both have what training and evaluation use: `examples`, `check_length`, `unit`, `config`."""


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
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [file.read_bytes() for file in files]
    text = "\n\n".join(source.decode("ascii").replace("\r\n", "\n") for source in texts if source.isascii())
    if not text:
        raise FileNotFoundError(
            f"no Python source in {sysconfig.get_path('stdlib')}, the text of 'python_source'; use --text FILE"
        )
    return text


CORPORA = {"python_docs": python_docs, "python_source": python_source}
VECTORS = {name: partial(toys.load, name) for name in toys.TOYS} | {"glyphs": glyphs.load}


def read_text(path: Path) -> str:
    """The characters of a UTF-8 file."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")  # utf-8-sig would count errors from behind the mark
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.start} is 0x{raw[error.start]:02x}; convert it, for instance with "
            f"iconv -f latin1 -t utf-8"
        ) from error
    if not text:
        raise ValueError(f"{path} is empty; a corpus needs some text")
    return text.replace("\r\n", "\n")


@overload
def load(name: Literal["python_docs", "python_source"], codec: Codec | None = None) -> Corpus: ...


@overload
def load(name: Literal["sums", "agreement", "chain"], codec: Codec | None = None) -> Examples: ...


@overload
def load(name: Literal["phrasebook", "orders", "dates", "numbers"], codec: Codec | None = None) -> Parallel: ...


@overload
def load(name: str, codec: Codec) -> Corpus: ...


@overload
def load(name: str, codec: Codec | None = None) -> Corpus | Vectors: ...


def load(name: str, codec: Codec | None = None) -> Corpus | Vectors:
    """Load a corpus or a set of vectors by name, or a UTF-8 file by path.

    Parameters
    ----------
    name : one of `CORPORA`, `LAWS`, `TRANSLATIONS` or `VECTORS`, or a path
    codec : the alphabet to use; by default that of the text itself

    """
    if name in VECTORS and codec is None:
        return VECTORS[name]()
    if name in LAWS or name in TRANSLATIONS:
        return examples.load(name, codec)
    if name in CORPORA:
        text = CORPORA[name]()
    elif Path(name).is_file():
        text = read_text(Path(name))
    else:
        raise FileNotFoundError(
            f"no file and no corpus is called {name!r}; corpora: {', '.join([*CORPORA, *LAWS, *TRANSLATIONS])}; "
            f"vectors: {', '.join(VECTORS)}"
        )
    return Corpus(name, text, codec or Codec.of(text))


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
    follows = np.bincount(ids[:-1] * vocab_size + ids[1:], minlength=vocab_size**2).reshape(vocab_size, vocab_size)
    company = np.concatenate([follows, follows.T], axis=1).astype(np.float64)  # (V, 2 V): what follows, what precedes
    expected = company.sum(axis=1, keepdims=True) * company.sum(axis=0) / company.sum()
    information = np.log(company / np.maximum(expected, 1e-12), out=np.zeros_like(company), where=company > 0)
    u, s, _ = np.linalg.svd(np.maximum(information, 0), full_matrices=False)
    vectors = u[:, :dimensions] * np.sqrt(s[:dimensions])
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))
