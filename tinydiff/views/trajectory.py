"""One run of a sampler on text, as every view shows it: frames, the tokens they stand for, and when they came.

A view asks two things. What does a frame look like? `cells` answers, a token per cell, and `lines` breaks them where a
line is full. And which frame is to be seen when? `playback` answers: a single trajectory goes at an even pace; several
race on the clock that was measured, slowed down where they are too fast for the eye.
"""

from __future__ import annotations

import time
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from rich.cells import cell_len, chop_cells

from ..data import Codec
from ..decoders import Frame

MASK, REMASKED = "\u2591", "\u2593"  # light and dark shade
VISIBLE = {"\n": "\u21b5", "\t": "\u21e5"}
NEWLINE = VISIBLE["\n"]
WORD_WIDTH = 4  # columns of the mask of a token that is not a character, a blank among them
COLOURS = ["#6a8dd9", "#4fb0c6", "#5cc8a0", "#b5d65a", "#fde725"]
"""Confidence 0 .. 1: blue to yellow with rising lightness, to be told apart without colour vision or in grey. Each is
light enough for black text on it (contrast 5.7 and more)."""
AGAIN, AGAIN_INK = "#f6b08a", "#7a2e00"  # masked again: an orange that is no step of the scale


Kind = Literal["mask", "remasked", "given", "fresh", "kept"]


class Cell(NamedTuple):
    """What stands at one position of a frame.

    Attributes
    ----------
    text : of the token, with signs for what cannot be seen, or for MASK
    kind : "mask"; "remasked", masked again in this step; "given", known beforehand; "fresh", filled in in this step;
        "kept", filled in before
    level : confidence as an index into COLOURS; 0 for masks

    """

    text: str
    kind: Kind
    level: int


def cells(codec: Codec, frame: Frame, row: int) -> list[Cell]:
    """The positions of one sequence of a frame, in order."""
    shown, before = [], "" if codec.unit == "character" else " "  # so that the masks of words can be told apart
    width = 1 if codec.unit == "character" else WORD_WIDTH - 1
    for i, token in enumerate(frame.state[row].tolist()):
        if token == codec.vocab_size:
            again = bool(frame.remasked[row, i])
            shown.append(Cell(before + width * (REMASKED if again else MASK), "remasked" if again else "mask", 0))
            continue
        level = min(int(frame.confidence[row, i] * len(COLOURS)), len(COLOURS) - 1)
        kind: Kind = "given" if frame.given[row, i] else "fresh" if frame.committed[row, i] else "kept"
        shown.append(Cell(visible(codec.tokens[token]), kind, level))
    return shown


def drawn(cell: Cell) -> str:
    """What to draw in the middle of a cell: a word without the blank before it, which keeps words apart in a line."""
    return cell.text.strip() or cell.text


def visible(text: str) -> str:
    """A token with signs for what would move others about or not be seen; a space stays a space.

    A mark that belongs on the letter before it stands on a dotted circle where that letter is another token.
    """
    shown = "".join(VISIBLE.get(c, c if c.isprintable() else "\ufffd") for c in text)
    return "\u25cc" + shown if unicodedata.category(shown[0]) in ("Mn", "Me") else shown


def lines(row: Sequence[Cell], width: int) -> list[list[Cell]]:
    """Cells in lines that take at most `width` columns of a terminal, in which some characters take two.

    A token that is longer than a line is shown as several cells.
    """
    broken: list[list[Cell]] = [[]]
    used = 0
    for cell in row:
        for text in chop_cells(cell.text, max(width, 2)) if cell_len(cell.text) > width else [cell.text]:
            columns = cell_len(text)
            if used + columns > width and broken[-1]:
                broken.append([])
                used = 0
            broken[-1].append(cell._replace(text=text))
            used += columns
    return broken


SURE = "0 to 100 % sure"
LEGEND: tuple[tuple[tuple[Cell, ...], str], ...] = (
    ((Cell(MASK, "mask", 0),), "masked"),
    ((Cell(REMASKED, "remasked", 0),), "masked again"),
    ((Cell("a", "given", len(COLOURS) - 1),), "given"),
    ((Cell("a", "fresh", len(COLOURS) - 1),), "new"),
    (tuple(Cell(" ", "kept", level) for level in range(len(COLOURS))), SURE),
)
"""What the cells of a view mean."""


def kinds(frames: Iterable[Frame], mask_id: int) -> set[Kind]:
    """Which kinds of cells frames have, beside those that were filled in before."""
    there: set[Kind] = set()
    for frame in frames:
        flags: dict[Kind, Any] = {
            "mask": frame.state == mask_id, "remasked": frame.remasked, "given": frame.given, "fresh": frame.committed,
        }  # fmt: skip
        there |= {kind for kind, where in flags.items() if where.any()}
    return there


def legend(there: Set[Kind], colours: str = SURE) -> list[tuple[tuple[Cell, ...], str]]:
    """What of LEGEND there is to be seen, and what the colours say."""
    shown = [(samples, words) for samples, words in LEGEND[:-1] if samples[0].kind in there]
    return [*shown, (LEGEND[-1][0], colours)]


@dataclass(frozen=True)
class Trajectory:
    """All frames of one run of a sampler.

    Attributes
    ----------
    frames : from all masks to text
    codec : reads their token ids
    title : what to call it
    seconds : when each frame was there, on the sampler's own clock; `record` measures it
    colours : what the colours say, where it is not how sure the model was

    """

    frames: Sequence[Frame]
    codec: Codec
    title: str
    seconds: Sequence[float]
    colours: str = SURE

    def __post_init__(self) -> None:
        if not self.frames:
            raise ValueError("frames is empty; a sampler yields at least one")
        if len(self.seconds) != len(self.frames):
            raise ValueError(f"seconds has {len(self.seconds)} entries for {len(self.frames)} frames; expected as many")
        if any(b < a for a, b in zip([0.0, *self.seconds], self.seconds, strict=False)):
            raise ValueError("seconds goes backwards or below 0; expected the times at which the frames came, in order")

    @property
    def most_columns(self) -> int:
        """Columns of the longest sequence of any frame, in one line."""
        return max(
            sum(cell_len(cell.text) for cell in cells(self.codec, frame, row))
            for frame in self.frames
            for row in range(len(frame.state))
        )

    def most_lines(self, width: int) -> int:
        """Lines that a sequence of any frame takes at most."""
        return max(
            len(lines(cells(self.codec, frame, row), width)) for frame in self.frames for row in range(len(frame.state))
        )

    @property
    def kinds(self) -> set[Kind]:
        """Which kinds of cells there are on the way."""
        return kinds(self.frames, self.codec.vocab_size)


def timed(frames: Iterable[Frame]) -> Iterator[tuple[float, Frame]]:
    """Each frame with the seconds that the sampler has worked so far, not counting what is done between frames."""
    worked, source = 0.0, iter(frames)
    while True:
        start = time.perf_counter()
        frame = next(source, None)
        worked += time.perf_counter() - start
        if frame is None:
            return
        yield worked, frame


def record(frames: Iterable[Frame], codec: Codec, title: str = "", colours: str = SURE) -> Trajectory:
    """Run a sampler to its end and keep everything."""
    seconds, kept = [], []
    for second, frame in timed(frames):
        seconds.append(second)
        kept.append(frame)
    return Trajectory(kept, codec, title, seconds, colours)


class Moment(NamedTuple):
    """What is on screen from a moment on.

    Attributes
    ----------
    at : seconds since the view began
    clock : seconds on the samplers' own clock
    frames : the index of the frame of each trajectory

    """

    at: float
    clock: float
    frames: tuple[int, ...]


def playback(trajectories: Sequence[Trajectory], seconds: float = 6.0, least: float = 0.0) -> list[Moment]:
    """When to show what: one trajectory evenly over `seconds`, several on their own clock, side by side.

    A race is slowed down to last `seconds` at least, and never hurried; `slowdown` says how much.

    Parameters
    ----------
    least : seconds between moments; where frames come faster, the latest is shown. The first, of masks, always is

    """
    if not trajectories:
        raise ValueError("trajectories is empty; expected at least one")
    if len(trajectories) == 1:
        n = len(trajectories[0].frames)
        pace = seconds / max(n - 1, 1)
        moments = [Moment(i * pace, second, (i,)) for i, second in enumerate(trajectories[0].seconds)]
    else:
        slow = slowdown(trajectories, seconds)
        stamps = sorted({0.0}.union(*(trajectory.seconds for trajectory in trajectories)))
        moments = [
            Moment(stamp * slow, stamp, tuple(max(bisect_right(t.seconds, stamp) - 1, 0) for t in trajectories))
            for stamp in stamps
        ]
    kept: list[Moment] = []
    for moment in moments:
        if len(kept) > 1 and moment.at - kept[-1].at < least * (1 - 1e-9):
            kept[-1] = moment._replace(at=kept[-1].at)
        elif kept and moment.at - kept[-1].at < least * (1 - 1e-9):
            kept.append(moment._replace(at=kept[-1].at + least))
        else:
            kept.append(moment)
    return kept


def slowdown(trajectories: Sequence[Trajectory], seconds: float = 6.0) -> float:
    """How many times slower than measured a race is shown, at least 1."""
    longest = max(trajectory.seconds[-1] for trajectory in trajectories)
    return max(1.0, seconds / longest) if longest > 0 else 1.0


def caption(trajectories: Sequence[Trajectory], moment: Moment, seconds: float = 6.0) -> str:
    """A line on the moment: the clock of a race and how much it is slowed."""
    if len(trajectories) == 1:
        return ""
    slow = slowdown(trajectories, seconds)
    return f"{1000 * moment.clock:.0f} ms" + ("" if slow < 1.05 else f", shown {float(f'{slow:.2g}'):g} times slower")


def status(trajectory: Trajectory, index: int, race: bool) -> str:
    """How far a trajectory is: its step and the share of masks or, once a race is over for it, its time."""
    frame, done = trajectory.frames[index], index == len(trajectory.frames) - 1
    if race:
        end = f" · done in {1000 * trajectory.seconds[-1]:.0f} ms" if done else ""
    else:
        end = f" · {float((frame.state == trajectory.codec.vocab_size).mean()):.0%} masked"
    return f"step {frame.step}/{frame.steps}{end}"


Item = TypeVar("Item")


def evenly(frames: Sequence[Item], count: int) -> list[Item]:
    """At most `count` of the frames, evenly spaced, with the first and the last."""
    if not frames:
        raise ValueError("frames is empty; a sampler yields at least one")
    last, count = len(frames) - 1, min(count, len(frames))
    return [frames[round(i * last / max(count - 1, 1))] for i in range(count)]
