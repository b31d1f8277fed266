"""Reading text as people have it: UTF-8 or another Unicode with its mark, gzipped or not, from a file or a pipe."""

from __future__ import annotations

import codecs
import gzip
import sys
from pathlib import Path

import numpy as np

from ..arrays import Bools, Ints
from .codec import Codec

MARKS = {
    codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be",
}  # fmt: skip
"""Byte order marks; those of UTF-32 first, since that of UTF-16 is how one of them begins."""

PACKED = {b"PK\x03\x04": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"%PDF-": "PDF"}
"""How files begin that hold a text and are none."""


def absolute(path: Path | str) -> str:
    """The name of a file from wherever one is; "-", standard input, and pipes keep theirs."""
    return str(Path(path).resolve() if Path(path).is_file() else path)


def read_text(path: Path | str) -> str:
    """The characters of a file, or of standard input for "-"; line ends become line feeds, byte order marks go.

    UTF-8; UTF-16 or UTF-32 if the file begins with their mark; any of them gzipped.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file of text, for instance one made by: cat {path}/*.txt")
    raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    if raw.startswith(b"\x1f\x8b"):
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError) as error:
            raise ValueError(f"{path} is gzipped but damaged ({error}); download or pack it again") from error
    kind = next((kind for begin, kind in PACKED.items() if raw.startswith(begin)), None)
    if kind is not None and (kind != "bzip2" or raw[4:10] == b"1AY&SY"):  # a text may begin with those letters
        raise ValueError(f"{path} is a {kind} file, no text; take the text out of it first")
    mark = next((mark for mark in MARKS if raw.startswith(mark)), b"")
    encoding, raw = MARKS.get(mark, "utf-8"), raw[len(mark) :]
    if encoding == "utf-8" and b"\x00" in raw:
        raise ValueError(f"{path} has a zero byte at {raw.index(0)}: {_with_zeros(raw)}")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        at = error.start + len(mark)
        hint = (
            "convert it, for instance with iconv -f latin1 -t utf-8"
            if encoding == "utf-8"
            else "it is damaged or cut short; get it again"
        )
        raise ValueError(f"{path} is not {encoding.upper()}: byte {at} is 0x{raw[error.start]:02x}; {hint}") from error
    text = text.replace("\ufeff", "").replace("\r\n", "\n").replace("\r", "\n")
    if not text:
        raise ValueError(f"{path} is empty; a corpus needs some text")
    return text


def _with_zeros(raw: bytes) -> str:
    """What bytes with zeros among them may be: UTF-16 without its mark, if they can be read as that.

    In the right one of its two orders characters are of few blocks, their first bytes; in the wrong one those are last.
    """
    blocks = {}
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            text = raw[: 1 << 16].decode(encoding)
        except UnicodeDecodeError:
            continue
        if sum(c.isprintable() or c.isspace() for c in text) > 0.95 * len(text):
            blocks[encoding] = len({ord(c) >> 8 for c in text})
    if not blocks:
        return "it is no text; name a file of text"
    return f"it is UTF-16 without its mark; convert it with iconv -f {min(blocks, key=blocks.__getitem__)} -t utf-8"


def with_blanks(codec: Codec, text: str, blank: str) -> tuple[Ints, Bools]:
    """A text with blanks as ids, (L,), and which of them are given: not the blanks, whose ids mean nothing.

    Each `blank` is one token to be filled in. Words and pieces have the space before them in them, so a single one
    before a row of blanks belongs to the first.
    """
    filler = next((token for token in codec.tokens if len(token) == 1 and token.isalnum()), None)
    if filler is not None:  # an error for what is unknown names its place in the whole text
        codec.encode(text.replace(blank, filler))
    ids: list[Ints] = []
    given: list[Bools] = []
    at = 0
    while at < len(text):
        end = at
        if text[at] == blank:
            while end < len(text) and text[end] == blank:
                end += 1
            ids.append(np.zeros(end - at, np.int64))
        else:
            end = text.find(blank, at)
            end = len(text) if end < 0 else end
            known = text[at:end]
            if end < len(text) and codec.unit != "character" and known.endswith(" "):
                known = known[:-1]
            ids.append(codec.encode(known))
        given.append(np.full(len(ids[-1]), text[at] != blank))
        at = end
    return (np.concatenate(ids), np.concatenate(given)) if ids else (np.zeros(0, np.int64), np.zeros(0, bool))
