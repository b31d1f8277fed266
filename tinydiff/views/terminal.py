"""Training and sampling in the terminal: live where there is one, plain lines in a pipe or a log.

Colours run from blue (unsure) to yellow (sure) with rising lightness, so they can be told apart without colour vision.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from ..arrays import Floats
from ..checkpoint import write_atomically
from ..data import Codec
from ..data.vectors import pictures
from ..samplers import Frame
from ..training import TrainFrame

MASK = "\u2591"
NEWLINE = "\u21b5"
PLAIN_EVERY = 10.0  # seconds between lines of training without a terminal
STRIP_WIDTH = 70  # characters per line of a saved picture, frame included
COLOURS = ["#6a8dd9", "#4fb0c6", "#5cc8a0", "#b5d65a", "#fde725"]  # confidence 0 .. 1


def state_text(codec: Codec, frame: Frame, row: int, width: int) -> Text:
    """One sequence in lines of `width`: masks dim, characters coloured by confidence, fresh ones on that colour.

    Positions keep their place from frame to frame: line breaks are shown as a sign, not obeyed.
    """
    ids, text = frame.state[row], Text()
    for i, character in enumerate(codec.decode(ids, MASK)):
        if i > 0 and i % width == 0:
            text.append("\n")
        if ids[i] == codec.vocab_size:
            text.append(MASK, style="grey42")
            continue
        colour = COLOURS[min(int(frame.confidence[row, i] * len(COLOURS)), len(COLOURS) - 1)]
        style = f"bold black on {colour}" if frame.committed[row, i] else colour
        text.append(NEWLINE if character == "\n" else character, style=style)
    return text


def _panel(codec: Codec, frame: Frame, width: int, title: str) -> Panel:
    masked = float((frame.state == codec.vocab_size).mean())
    inside = max(width - 6, 1)  # borders and padding
    rows = [state_text(codec, frame, row, inside) for row in range(len(frame.state))]
    subtitle = f"step {frame.step}/{frame.steps} · {masked:4.0%} masked"
    return Panel(Text("\n\n").join(rows), title=Text(title), subtitle=subtitle, width=width, padding=(1, 2))


def show_sampling(
    console: Console, codec: Codec, frames: Iterable[Frame], *, title: str = "", delay: float = 0.0, width: int = 70
) -> Frame:
    """Show masks dissolving into text, and return the last frame.

    Parameters
    ----------
    delay : seconds that each frame stays at least; only on a live terminal
    width : of the panel in characters

    """
    last: Frame | None = None
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, vertical_overflow="crop") as live:
            for last in frames:
                live.update(_panel(codec, last, min(width, console.width), title), refresh=True)
                time.sleep(delay)
    else:
        for last in frames:
            for ids in last.state:
                line = codec.decode(ids, MASK).replace("\n", NEWLINE)
                text = Text(f"{last.step:4d}/{last.steps}  {line}")  # a Text is shown as it is, no markup or emoji
                console.print(text, soft_wrap=True)
    if last is None:
        raise ValueError("frames is empty; a sampler yields at least one")
    return last


SHADES = " \u2591\u2592\u2593\u2588"


def picture_text(vectors: Floats, patch: int) -> str:
    """A picture, (L, F) patches in [-1, 1], in lines of shades, two characters per pixel as these are tall."""
    shades = np.clip((pictures(vectors[None], patch)[0] + 1) / 2 * len(SHADES), 0, len(SHADES) - 1)
    return "\n".join("".join(2 * SHADES[int(shade)] for shade in row) for row in shades) + "\n"


def save_strip(path: Path, codec: Codec, frames: Sequence[Frame], *, title: str, moments: int = 5) -> None:
    """Write an SVG picture of a trajectory: `moments` frames from first to last, one below the other."""
    if path.exists():
        raise ValueError(f"{path} exists already; choose another name or delete it")
    width = STRIP_WIDTH
    console = Console(record=True, file=StringIO(), width=width, force_terminal=True, color_system="truecolor")
    for at in np.linspace(0, len(frames) - 1, moments).round().astype(int):
        console.print(_panel(codec, frames[at], width, ""))
    write_atomically(path, console.export_svg(title=title).encode())


class _Field(ProgressColumn):
    """A column that shows one preformatted field of the task."""

    def __init__(self, name: str, style: str) -> None:
        super().__init__(table_column=Column(no_wrap=True))
        self.name, self.style = name, style

    def render(self, task: Task) -> Text:
        return Text(str(task.fields[self.name]), style=self.style)


def show_training(
    console: Console, frames: Iterable[TrainFrame], *, start: int, steps: int, unit: str = "bits/char"
) -> Iterator[TrainFrame]:
    """Pass the frames on while showing step, loss, held-out bits per character and tokens per second."""
    loss, speed, held_out = Smooth(0.98), Smooth(0.95), "-"
    progress = Progress(
        TextColumn("[bold]{task.completed:>{task.fields[digits]}.0f}/{task.total:.0f}"),
        BarColumn(bar_width=None, complete_style="#4fb0c6", finished_style="#fde725"),
        _Field("loss", "white"),
        _Field("held_out", "bold #fde725"),
        _Field("speed", "white"),
        TimeRemainingColumn(compact=True),
        console=console,
        disable=not console.is_terminal,
    )
    spoken = time.monotonic()
    with progress:
        task = progress.add_task(
            "", total=steps, completed=start, loss="", held_out="", speed="", digits=len(str(steps))
        )
        for frame in frames:
            loss.add(frame.loss)
            speed.add(frame.tokens_per_second)
            if frame.held_out:
                held_out = f"{frame.held_out[0]:.3f}"
            shown = [
                f"loss {loss.value:.3f}",
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
