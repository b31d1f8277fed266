"""Files that are whole or not there, on disks as people have them: full, read-only, busy, shared, far away.

A file is written under a temporary name beside its own, pushed to the disk, and renamed. Readers see the old content or
the new one, never a part. What a virus scanner or a network drive refuses for a moment is tried again for a while.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Seconds between attempts at what is refused for a moment: one and a half in all."""
MOMENTARY = (
    errno.EACCES, errno.EPERM, errno.EBUSY, errno.EAGAIN, errno.ETXTBSY, errno.EINTR, errno.EMFILE, errno.ENFILE,
    errno.ESTALE, errno.ETIMEDOUT,
)  # fmt: skip
FULL = (errno.ENOSPC, errno.EDQUOT)
NEW = os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
"""To make a file that nobody else has, and never to follow a link that somebody laid there."""

T = TypeVar("T")


class CheckpointError(Exception):
    """A run or another file that cannot be read or written, with what to do about it."""


def patiently(action: Callable[[], T]) -> T:
    """Do it, again after a pause where the system refuses it for a moment; the last refusal is raised."""
    for pause in PAUSES:
        try:
            return action()
        except OSError as error:
            if error.errno not in MOMENTARY:
                raise
        time.sleep(pause)
    return action()


def write_atomically(path: Path, content: bytes, *, parents: bool = True) -> None:
    """Replace a file's content so that at every moment it is the old or the new one, even if the machine stops.

    Parameters
    ----------
    parents : make the folder if it is missing

    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.new")  # its own: others may write here too
    made = False
    try:
        if parents:
            path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = patiently(lambda: os.open(temporary, NEW | os.O_WRONLY, 0o666))
        made = True
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        patiently(lambda: os.replace(temporary, path))
        made = False
        _sync_folder(path.parent)
    except OSError as error:
        kept = f"; the previous {path.name} is intact" if path.is_file() else ""
        raise cannot_write(path, error, kept) from error
    finally:
        if made:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Push the renaming itself to the disk, where the system knows how."""
    if os.name == "posix":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def remove_leftovers(*paths: Path) -> None:
    """Remove what writers of these files left behind when they were killed; call it where nobody else writes them."""
    for path in paths:
        with suppress(OSError):
            for other in path.parent.iterdir():
                if re.fullmatch(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.new", other.name):
                    other.unlink()


def cannot_write(path: Path, error: OSError, kept: str = "") -> CheckpointError:
    """What to say: the system's own words, and to free some space only if that is what is missing."""
    advice = "free some space or choose another folder" if error.errno in FULL else "choose another folder or try again"
    return CheckpointError(f"cannot write {path}: {error.strerror or error}{kept}; {advice}")


def refuse_existing(*paths: Path | None) -> None:
    """Raise if a file cannot be written there, before the work for it is done; None is not to be written.

    ValueError if there is something already, CheckpointError if the folder cannot be made or written.
    """
    for path in paths:
        if path is None:
            continue
        if os.path.lexists(path):  # a link that leads nowhere is something too
            raise ValueError(f"{path} exists already; choose another name or delete it")
        check_writable(path)


def check_writable(path: Path) -> None:
    """Raise CheckpointError unless the folder that `path` is to be written into takes files, or can be made."""
    folder = path.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    probe = folder / f".{secrets.token_hex(8)}.new"
    try:
        os.close(patiently(lambda: os.open(probe, NEW | os.O_WRONLY, 0o666)))
        patiently(probe.unlink)
    except OSError as error:
        raise cannot_write(path, error) from None


def quoted(word: object) -> str:
    """A word of a command that is printed to be copied, for a shell: as it is, or in quotes if it needs them."""
    text = str(word)
    if text.startswith("-"):
        text = f"./{text}"  # a path: else it would be read as an option
    if text.isprintable():
        return shlex.quote(text)
    return "$'" + "".join(_escaped(c) if not c.isprintable() or c in "\\'" else c for c in text) + "'"


def _escaped(character: str) -> str:
    if character in "\\'":
        return "\\" + character
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def printable(text: str) -> str:
    r"""The text with every character that would move or colour others, or not be seen, in its escaped form (`\x1b`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
