"""What was answered, kept beside the sheets: one small JSON file, written whole or not at all.

A damaged file is put aside under another name, never overwritten; one of a newer version is left alone.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..learning.files import write_atomically
from .catalogue import QUESTIONS, SERIES

NAME = "progress.json"
VERSION = 1


@dataclass
class Done:
    """What is known about one question: tries, hints taken, whether it is right, whether the solution was shown."""

    tries: int = 0
    hints: int = 0
    right: bool = False
    shown: bool = False

    @property
    def over(self) -> bool:
        return self.right or self.shown


@dataclass
class Progress:
    """All that is known about a learner, and the folder in which it is kept.

    Attributes
    ----------
    notice : what there is to say about the file that was read, empty if it was fine

    """

    folder: Path
    done: dict[str, Done] = field(default_factory=dict)
    notice: str = ""

    def of(self, name: str) -> Done:
        """What is known about a question; nothing yet, if it is new."""
        return self.done.setdefault(name, Done())

    def tried(self, name: str, right: bool) -> None:
        """Another try; what was right once stays so."""
        found = self.of(name)
        found.tries += 1
        found.right = found.right or right

    def following(self, key: str | None = None) -> str | None:
        """The first question that is not over, of a set or of all."""
        names = SERIES[key].ids() if key else list(QUESTIONS)
        return next((name for name in names if not self.of(name).over), None)

    def save(self) -> None:
        """Write the file."""
        kept = {name: asdict(found) for name, found in self.done.items() if found != Done()}
        text = json.dumps({"version": VERSION, "questions": kept}, indent=1)
        write_atomically(self.folder / NAME, (text + "\n").encode())


def load(folder: Path) -> Progress:
    """What is kept in a folder; nothing yet in a new one. ValueError for a file of a newer version."""
    path = folder / NAME
    if not path.exists():
        return Progress(folder)
    try:
        content = json.loads(path.read_text("utf-8"))
        version = content["version"]
        if isinstance(version, int) and version > VERSION:
            raise ValueError(
                f"{path} was written by a newer tinydiff (version {version}, this one knows {VERSION}); update it, "
                "or choose another --folder"
            )
        if version != VERSION:
            raise TypeError(version)
        return Progress(folder, {str(name): _done(entry) for name, entry in content["questions"].items()})
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError, RecursionError):
        aside = _aside(path)
        return Progress(folder, notice=f"{path} is damaged. It was kept as {aside.name}, and a new one is begun.")


def _done(entry: dict[str, Any]) -> Done:
    found = Done(**entry)
    if not all(
        type(value) is type(known) for value, known in zip(asdict(found).values(), asdict(Done()).values(), strict=True)
    ):
        raise TypeError(entry)
    return found


def _aside(path: Path) -> Path:
    """Move a file out of the way, to a name that is free."""
    for i in range(1, 1000):
        other = path.with_name(f"progress.damaged-{i}.json")
        if not other.exists():
            return path.rename(other)
    raise ValueError(f"{path.parent} holds a thousand damaged files; delete some")
