"""Training and sampling in the terminal: live where there is one, plain lines in a pipe or a log.

What was filled in is black on colours that run from blue (unsure) to yellow (sure) with rising lightness, so they can
be told apart without colour vision. Everything else has the terminal's own colours, or one that is as far from black as
from white: it is read on dark and on light.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Sequence, Set
from contextlib import nullcontext

import numpy as np
from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from ..arrays import Floats
from ..data import Codec
from ..data.vectors import pictures
from ..decoders import Frame
from ..learning import TrainFrame
from ..learning.files import printable
from ..processes.paths import VectorFrame
from .animation import REACH
from .trajectory import (
    AGAIN,
    AGAIN_INK,
    COLOURS,
    Cell,
    Kind,
    Trajectory,
    caption,
    cells,
    kinds,
    legend,
    lines,
    playback,
    status,
)

PLAIN_EVERY = 10.0  # seconds between lines of training without a terminal
PLAIN_ROWS, PLAIN_FRAMES = 4, 40  # of sampling: how many sequences, at how many steps
MIDDLE = "#767676"  # a contrast of 4.5 with black and with white
STYLES = {"mask": MIDDLE, "remasked": f"{AGAIN_INK} on {AGAIN}", "given": "underline"}


def state_text(codec: Codec, frame: Frame, row: int, width: int) -> Text:
    """One sequence in lines of `width`: masks dim, what is given underlined, tokens on the colour of confidence.

    Line breaks are shown as a sign, not obeyed: characters keep their place from frame to frame.
    """
    text = Text()
    for i, line in enumerate(lines(cells(codec, frame, row), width)):
        text.append("\n" if i else "")
        for cell in line:
            text.append(cell.text, style=_style(cell))
    return text


def _style(cell: Cell) -> str:
    colour = COLOURS[cell.level]
    return STYLES.get(
        cell.kind, f"bold underline #000000 on {colour}" if cell.kind == "fresh" else f"#000000 on {colour}"
    )


def _panel(codec: Codec, frame: Frame, width: int, title: str, subtitle: str = "", height: int | None = None) -> Panel:
    masked = float((frame.state == codec.vocab_size).mean())
    inside = max(width - 6, 1)  # borders and padding
    rows = [state_text(codec, frame, row, inside) for row in range(len(frame.state[:height]))]
    subtitle = subtitle or f"step {frame.step}/{frame.steps} · {masked:4.0%} masked"
    return Panel(Text("\n\n").join(rows), title=Text(printable(title)), subtitle=subtitle, width=width, padding=(1, 2))


def _legend(there: Set[Kind]) -> Text:
    """What the colours mean, in one line."""
    text = Text("  ")
    for samples, words in legend(there):
        for cell in samples:
            text.append(cell.text, style=_style(cell))
        text.append(f" {words}   ")
    return text


def show_sampling(
    console: Console, codec: Codec, frames: Iterable[Frame], *, title: str = "", delay: float = 0.0, width: int = 70
) -> Frame:
    """Show masks dissolving into text, and return the last frame.

    On a terminal as many sequences as fit; in a pipe a line for each of the first few, at PLAIN_FRAMES steps.

    Parameters
    ----------
    delay : seconds that each frame stays at least; only on a live terminal
    width : of the panel in characters

    """
    last: Frame | None = None
    there: set[Kind] = {"fresh"}  # soon, in every film: a line that grows would be unquiet
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            for last in frames:
                there |= kinds([last], codec.vocab_size)
                shown = [_panel(codec, last, min(width, console.width), title, height=console.height)]
                legend_ = _legend(there)
                live.update(Group(*shown, legend_) if console.width >= width else shown[0], refresh=True)
                time.sleep(delay)
    else:
        more = 0
        for last in frames:
            if last.step % -(-last.steps // PLAIN_FRAMES) and last.step != last.steps:
                continue
            more = len(last.state) - PLAIN_ROWS
            for row in range(len(last.state[:PLAIN_ROWS])):
                line = "".join(cell.text for cell in cells(codec, last, row))
                text = Text(f"{last.step:4d}/{last.steps}  {line}")  # a Text is shown as it is, no markup or emoji
                console.print(text, soft_wrap=True)
        if more > 0:
            console.print(f"and {more:,} more sequences", soft_wrap=True, highlight=False)
    if last is None:
        raise ValueError("frames is empty; a sampler yields at least one")
    return last


SHADES = " \u2591\u2592\u2593\u2588"


def picture_text(vectors: Floats, patch: int) -> str:
    """A picture, (L, F) patches in [-1, 1], in lines of shades, two characters per pixel as these are tall."""
    shades = np.clip((pictures(vectors[None], patch)[0] + 1) / 2 * len(SHADES), 0, len(SHADES) - 1)
    return "\n".join("".join(2 * SHADES[int(shade)] for shade in row) for row in shades) + "\n"


def points_text(points: Floats, columns: int = 60) -> str:
    """Points (n, 2) of the part of the plane that all views show, in lines of Braille: 2 x 4 dots in a character."""
    rows = columns // 2  # a character is twice as high as wide
    x, y = np.floor((points * [1, -1] + REACH) / (2 * REACH) * [2 * columns, 4 * rows]).astype(int).T
    inside = (x >= 0) & (x < 2 * columns) & (y >= 0) & (y < 4 * rows)
    dots = np.zeros((4 * rows, 2 * columns), np.int64)
    dots[y[inside], x[inside]] = 1
    weights = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # which bit each dot is
    signs = 0x2800 + (dots.reshape(rows, 4, columns, 2) * weights[:, None, :]).sum(axis=(1, 3))
    return "\n".join("".join(map(chr, row)) for row in signs.tolist())


def show_points(console: Console, frames: Iterable[VectorFrame], *, title: str = "", delay: float = 0.0) -> None:
    """Show points on their way from noise to data, on a terminal that has room for them.

    Parameters
    ----------
    delay : seconds that each frame stays at least

    """
    columns = min(60, console.width - 4, 2 * (console.height - 3))
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for frame in frames:
            plane = Text(points_text(frame.state.reshape(len(frame.state), -1), max(columns // 2 * 2, 2)))
            subtitle = f"t = {frame.t:.2f} · both axes from -{REACH:g} to {REACH:g}"
            live.update(Panel.fit(plane, title=Text(printable(title)), subtitle=subtitle), refresh=True)
            time.sleep(delay)


def show_race(console: Console, trajectories: Sequence[Trajectory], seconds: float = 6.0, width: int = 44) -> None:
    """Show trajectories side by side on their measured clock, see `playback`; in a pipe, only how each ended.

    Parameters
    ----------
    width : of each panel in characters, if the terminal is wide enough

    """
    moments = playback(trajectories, seconds, least=0.04)
    width = min(width, console.width // len(trajectories))
    if not console.is_terminal:
        for k, trajectory in enumerate(trajectories):
            console.print(
                Text(f"{printable(trajectory.title)}: {status(trajectory, moments[-1].frames[k], True)}"),
                soft_wrap=True,
            )
        return
    legend_ = _legend(set().union(*(t.kinds for t in trajectories)))
    start = time.monotonic()
    with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
        for moment in moments:
            time.sleep(max(0.0, start + moment.at - time.monotonic()))
            panels = [
                _panel(t.codec, t.frames[i], width, t.title, status(t, i, True))
                for t, i in zip(trajectories, moment.frames, strict=True)
            ]
            clock = Text("  " + caption(trajectories, moment, seconds), style="bold")
            live.update(Group(Columns(panels, padding=0), clock, legend_), refresh=True)


class _Field(ProgressColumn):
    """A column that shows one preformatted field of the task."""

    def __init__(self, name: str, style: str) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self.name, self.style = name, style

    def render(self, task: Task) -> Text:
        return Text(str(task.fields[self.name]), style=self.style)


def show_training(
    console: Console,
    frames: Iterable[TrainFrame],
    *,
    start: int,
    steps: int,
    unit: str = "bits/char",
    loss_unit: str = "nats/token",
) -> Generator[TrainFrame, None, None]:
    """Pass the frames on while showing step, loss, held-out bits per character and tokens per second.

    Parameters
    ----------
    unit, loss_unit : of the held-out figure and of the loss, which is in nats or a mean square

    """
    loss, speed, held_out = Smooth(0.98), Smooth(0.95), "-"
    progress = Progress(
        TextColumn("[bold]{task.completed:>{task.fields[digits]}.0f}/{task.total:.0f}"),
        BarColumn(bar_width=None, complete_style=COLOURS[0], finished_style=COLOURS[0]),
        _Field("loss", ""),
        _Field("held_out", "bold"),
        _Field("speed", ""),
        TimeRemainingColumn(compact=True),
        console=console,
    )
    spoken = time.monotonic()
    with progress if console.is_terminal else nullcontext():  # a bar into a file would be an empty line
        task = progress.add_task(
            "", total=steps, completed=start, loss="", held_out="", speed="", digits=len(str(steps))
        )
        for frame in frames:
            loss.add(frame.loss)
            speed.add(frame.tokens_per_second)
            if frame.held_out:
                held_out = f"{frame.held_out[0]:.3f}"
            shown = [
                f"loss {loss.value:.3f} {loss_unit}",
                f"held-out {held_out} {unit}",
                f"{speed.value / 1000:.0f}k tokens/s",
            ]
            progress.update(task, completed=frame.step, loss=shown[0], held_out=shown[1], speed=shown[2])
            due = frame.held_out or frame.step == steps or time.monotonic() - spoken > PLAIN_EVERY
            if due and not console.is_terminal:
                spoken = time.monotonic()
                console.print(f"step {frame.step}/{steps}  " + "  ".join(shown), soft_wrap=True)
            yield frame


class Smooth:
    """A running mean with forgetting, unbiased at the start."""

    def __init__(self, decay: float) -> None:
        self.decay, self._total, self._weight = decay, 0.0, 0.0

    def add(self, x: float) -> None:
        self._total = self.decay * self._total + (1 - self.decay) * x
        self._weight = self.decay * self._weight + (1 - self.decay)

    @property
    def value(self) -> float:
        return self._total / self._weight if self._weight else float("nan")
