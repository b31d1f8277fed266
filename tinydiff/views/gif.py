"""Trajectories as animated GIFs, for slides and READMEs. Needs Pillow and a font, which both come with matplotlib."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from rich.cells import cell_len

from ..learning.files import refuse_existing, write_atomically
from .fonts import characters_of, fonts_for
from .trajectory import (
    AGAIN,
    AGAIN_INK,
    COLOURS,
    Cell,
    Moment,
    Trajectory,
    caption,
    cells,
    drawn,
    legend,
    lines,
    playback,
)
from .trajectory import status as status_line

ROWS = 64  # more cannot be read, and a GIF ends at 65,535 pixels
START, REST = 800, 2000  # milliseconds on the first picture, at least, and on the last
LEAST = 0.1  # seconds per picture: browsers slow down what is much faster, and pictures cost bytes
CELL_WIDTH, CELL_HEIGHT, MARGIN = 15, 28, 14
FONT_SIZE, SMALL = 20, 15
INK, PALE = "#111111", "#444444"
PAPER, HOLE, BAR, DONE = "#ffffff", "#d4d4d4", "#dddddd", "#0072b2"


def pillow() -> ModuleType:
    """The library that writes pictures."""
    try:
        from PIL import Image
    except ImportError as error:
        raise FileNotFoundError(
            "Pillow is missing, which writes the pictures; install it: pip install 'tinydiff[figures]'"
        ) from error
    return Image


def write(path: Path, stills: Sequence[Any], durations: Sequence[int]) -> None:
    """Write pictures, each shown for so many milliseconds; for the last, which has no duration, REST."""
    check_name(path)
    refuse_existing(path)
    content = io.BytesIO()
    stills[0].save(
        content, "GIF", save_all=True, append_images=stills[1:], duration=[*durations, REST], loop=0, optimize=False
    )
    write_atomically(path, content.getvalue())


def check_name(path: Path | None) -> None:
    """ValueError for a name that promises another kind of file; None is not to be written."""
    if path is not None and path.suffix.lower() != ".gif":
        raise ValueError(f"{path} ends in {path.suffix!r}; animated pictures end in .gif")


def check_gif(rows: int) -> None:
    """ValueError if so many texts are too many for one picture."""
    if rows > ROWS:
        raise ValueError(f"batch is {rows}; a GIF shows at most {ROWS} texts: leave it out or generate fewer")


def save_gif(path: Path, *trajectories: Trajectory, seconds: float = 6.0, columns: int = 40) -> None:
    """Write an animated GIF of text being made, which rests on masks and on its end; several race side by side.

    Parameters
    ----------
    seconds : that it takes before it rests, at least; see `playback`
    columns : characters per line

    """
    check_gif(max(len(trajectory.frames[0].state) for trajectory in trajectories))
    moments = playback(trajectories, seconds, least=LEAST)
    stills = [still(trajectories, moment, seconds, columns) for moment in moments]
    known = palette()
    gaps = [round(1000 * (after.at - moment.at)) for moment, after in pairwise(moments)]
    gaps[:1] = [max(START, gap) for gap in gaps[:1]]
    write(path, [picture.quantize(palette=known, dither=0) for picture in stills], gaps)


def palette() -> Any:
    """A picture with all the colours there are: each ground, and what the edges of letters on it are drawn in."""
    image = pillow()
    pairs = [(ground, INK) for ground in (*COLOURS, PAPER)] + [
        (AGAIN, AGAIN_INK),
        (PAPER, PALE),
        (HOLE, BAR),
        (DONE, BAR),
    ]
    shades = []
    for pair in pairs:
        ground, ink = (np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) for colour in pair)
        shades += [np.round(ground + share * (ink - ground)) for share in np.linspace(0, 1, 6)]
    picture = image.new("P", (1, 1))
    picture.putpalette(np.array(shades, np.uint8).ravel().tolist())
    return picture


def still(trajectories: Sequence[Trajectory], moment: Moment, seconds: float, columns: int) -> Any:
    """A picture of one moment: the trajectories side by side, a legend and the clock of a race under them."""
    image_library, fonts = pillow(), fonts_for(characters_of(trajectories))
    from matplotlib import get_data_path
    from PIL import ImageDraw, ImageFont

    brought = Path(get_data_path()) / "fonts" / "ttf"
    font, bold, small = (
        ImageFont.truetype(str(brought / f"{name}.ttf"), size)
        for name, size in (("DejaVuSansMono", FONT_SIZE), ("DejaVuSansMono-Bold", FONT_SIZE), ("DejaVuSans", SMALL))
    )
    others = [(found.characters, ImageFont.truetype(found.path, FONT_SIZE)) for found in fonts[1:]]
    race = len(trajectories) > 1
    columns = min(columns, max(t.most_columns for t in trajectories))
    line_counts = [t.most_lines(columns) for t in trajectories]
    heights = [
        len(t.frames[0].state) * (count * CELL_HEIGHT + MARGIN)
        for t, count in zip(trajectories, line_counts, strict=True)
    ]
    titles = max(round(bold.getlength(t.title)) for t in trajectories)
    width = max(columns * CELL_WIDTH, 600 // len(trajectories), titles if race else 0) + 2 * MARGIN
    top = MARGIN + 2 * CELL_HEIGHT + 6
    image = image_library.new("RGB", (width * len(trajectories), top + max(heights) + (2 if race else 1) * CELL_HEIGHT))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, *image.size), fill=PAPER)

    def put(cell: Cell, x: float, y: float) -> float:
        """Draw a cell, and say where the next one begins."""
        across = CELL_WIDTH * cell_len(cell.text)
        fill = {"mask": HOLE, "remasked": AGAIN, "given": PAPER}.get(cell.kind, COLOURS[cell.level])
        box = (x + 1, y + 1, x + across - 2, y + CELL_HEIGHT - 3)
        draw.rectangle(box, fill=fill, outline=INK if cell.kind == "fresh" else fill, width=2)
        if cell.kind == "given":
            draw.rectangle((x + 1, y + CELL_HEIGHT - 4, x + across - 2, y + CELL_HEIGHT - 3), fill=INK)
        ink = AGAIN_INK if cell.kind == "remasked" else INK
        lacking = set(cell.text) - fonts[0].characters
        usual = bold if cell.kind == "fresh" else font
        face = next((other for characters, other in others if lacking & characters), usual) if lacking else usual
        if cell.kind != "mask":  # its sign, a pattern, would be most of the file
            draw.text((x + across / 2, y + CELL_HEIGHT / 2), drawn(cell), ink, face, anchor="mm")
        return x + across

    for k, (trajectory, index) in enumerate(zip(trajectories, moment.frames, strict=True)):
        left = k * width + MARGIN
        draw.text((left, MARGIN), trajectory.title, INK, bold)
        draw.text((left, MARGIN + CELL_HEIGHT), status_line(trajectory, index, race), PALE, small)
        done, end = index / max(len(trajectory.frames) - 1, 1), width - 2 * MARGIN
        draw.rectangle((left, top - 6, left + end, top - 3), fill=BAR)
        draw.rectangle((left, top - 6, left + done * end, top - 3), fill=DONE)
        for row in range(len(trajectory.frames[index].state)):
            y = top + row * (line_counts[k] * CELL_HEIGHT + MARGIN)
            for line in lines(cells(trajectory.codec, trajectory.frames[index], row), columns):
                x = float(left)
                for cell in line:
                    x = put(cell, x, y)
                y += CELL_HEIGHT
    x, y = float(MARGIN), top + max(heights)
    for samples, words in legend(set().union(*(t.kinds for t in trajectories))):
        for cell in samples:
            x = put(cell, x, y)
        draw.text((x + 6, y + 5), words, PALE, small)
        x += small.getlength(words) + 24
    draw.text((MARGIN, y + CELL_HEIGHT), caption(trajectories, moment, seconds), INK, bold)
    return image
