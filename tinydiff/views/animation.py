"""Vectors from noise to data as moving pictures: an animated GIF, and a small player for notebooks.

Frames are drawn in a few shades of grey, without matplotlib, which keeps them small: a notebook holds all of a
trajectory in some tens of kilobytes. Needs Pillow and a font, which come with matplotlib.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..arrays import Floats, Ints
from ..data.vectors import pictures
from ..processes.paths import VectorFrame
from . import gif
from .html import controls
from .trajectory import evenly

REACH = 3.0  # the part of the plane that is shown: -3 to 3 both ways
PIXELS = 150  # of a picture of points, each way
SHADES = 8
MOMENTS = 40
LARGEST = 2000  # pixels of a GIF each way
LEFT, TOP, BOTTOM = 36, 28, 28  # pixels around a picture


def shades(frames: Sequence[VectorFrame], patch: int = 0, moments: int = MOMENTS) -> Ints:
    """What the frames look like, as (n, H, W) shades from 0, black, to SHADES - 1, white.

    Parameters
    ----------
    patch : side of the patches if these are pictures, shown in a square grid; 0 for points in the plane
    moments : at most so many frames, evenly spaced

    """
    return np.array([_shades(_drawn(frame.state, patch)) for frame in evenly(frames, moments)])


def _drawn(x: Floats, patch: int) -> Floats:
    return grid(pictures(x, patch)) if patch else scatter(x.reshape(len(x), -1))


def _shades(ink: Floats) -> Ints:
    return np.asarray(np.round((1 - np.clip(ink, 0, 1)) * (SHADES - 1)), np.int64)


def grid(tiles: Floats) -> Floats:
    """Pictures (N, S, S) in [-1, 1] in rows, as one picture with ink in [0, 1]."""
    across = int(np.ceil(np.sqrt(len(tiles))))
    down = -(-len(tiles) // across)
    padded = np.full((down * across, tiles.shape[1] + 2, tiles.shape[2] + 2), -1.0)
    padded[: len(tiles), 1:-1, 1:-1] = tiles
    n, height, width = padded.shape
    rows = padded.reshape(n // across, across, height, width).transpose(0, 2, 1, 3)
    return np.asarray((rows.reshape(n // across * height, across * width) + 1) / 2)


def scatter(points: Floats) -> Floats:
    """Points (n, 2) as ink in [0, 1], each a dot of 2 x 2 pixels; the second coordinate points up."""
    if points.shape[1] != 2:
        raise ValueError(f"points has {points.shape[1]} coordinates; only points in the plane can be shown")
    ink = np.zeros((PIXELS, PIXELS))
    column, row = np.floor((points * [1, -1] + REACH) / (2 * REACH) * PIXELS).astype(int).T
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        inside = (row + down >= 0) & (row + down < PIXELS) & (column + right >= 0) & (column + right < PIXELS)
        np.add.at(ink, (row[inside] + down, column[inside] + right), 0.4)
    return ink


def check_gif(count: int, patch: int, length: int) -> None:
    """ValueError if so many pictures, of `length` patches of that side, are too many for one GIF; points never are."""
    side = (round(length**0.5) * patch + 2) * int(np.ceil(np.sqrt(count)))  # see `grid`
    if patch and side > LARGEST:
        raise ValueError(
            f"batch is {count}, which makes a GIF of {side} x {side} pixels; generate fewer, so that it has at most "
            f"{LARGEST} each way"
        )


def save_gif(
    path: Path, frames: Sequence[VectorFrame], *, patch: int = 0, data: Floats | None = None, seconds: float = 4.0
) -> None:
    """Write an animated GIF of about that length, which rests on its last picture for two seconds more.

    Parameters
    ----------
    data : (n, L, F), what is true, to be shown beside it

    """
    check_gif(len(frames[-1].state), patch, frames[-1].state.shape[1])
    drawn, chosen = shades(frames, patch), evenly(frames, MOMENTS)
    beside = [] if data is None else [_panel(_shades(_drawn(data, patch)), "data", not patch)]
    stills = []
    for still, frame in zip(drawn, chosen, strict=True):
        panels = [_panel(still, f"t = {frame.t:.2f}", not patch), *beside]
        stills.append(_image(np.concatenate(panels, axis=1)))
    gif.write(path, stills, [max(20, round(1000 * seconds / len(stills)))] * (len(stills) - 1))


def _panel(drawn: Ints, title: str, plane: bool) -> Ints:
    """The shades, larger, under a title and in a frame; with the numbers of its axes if it is the plane."""
    from matplotlib import get_data_path
    from PIL import ImageDraw, ImageFont

    scale = max(1, 360 // drawn.shape[1])
    large = np.kron(drawn, np.ones((scale, scale), np.int64))
    height, width = large.shape
    image = gif.pillow().new("L", (width + LEFT + 12, height + TOP + (BOTTOM if plane else 12)), SHADES - 1)
    image.paste(gif.pillow().fromarray(large.astype(np.uint8)), (LEFT, TOP))
    draw = ImageDraw.Draw(image)
    draw.fontmode = "1"  # there are too few shades for soft edges
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 15)
    draw.rectangle((LEFT - 1, TOP - 1, LEFT + width, TOP + height), outline=0)
    draw.text((LEFT, 6), title, 0, font)
    for tick in (-2, 0, 2) if plane else ():
        x, y = (round((REACH + sign * tick) / (2 * REACH) * side) for sign, side in ((1, width), (-1, height)))
        draw.line((LEFT + x, TOP + height, LEFT + x, TOP + height + 4), 0)
        draw.line((LEFT - 5, TOP + y, LEFT - 1, TOP + y), 0)
        draw.text((LEFT + x, TOP + height + 6), str(tick), 0, font, anchor="ma")
        draw.text((LEFT - 8, TOP + y), str(tick), 0, font, anchor="rm")
    return np.asarray(image, np.int64)


def player(frames: Sequence[VectorFrame], *, patch: int = 0, moments: int = 24, width: int = 320) -> str:
    """HTML of a player with a button, a slider and keys: `IPython.display.HTML(player(frames))`.

    One PNG holds all moments below one another; it moves behind a window as high as one of them, which shows the last
    where no scripts run.
    """
    drawn = shades(frames, patch, moments)
    n, height, _ = drawn.shape
    content = io.BytesIO()
    _image(drawn.reshape(n * height, -1)).save(content, "PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    shown = round(width * height / drawn.shape[2])
    chosen, what = evenly(frames, moments), f"pictures of {patch}-pixel patches" if patch else "points in the plane"
    alternative = f"{len(chosen[-1].state):,} {what}, from noise to data in {n} moments"
    view = f"""<div style="width:{width}px;height:{shown}px;border:1px solid #888;overflow:hidden;max-width:100%">
<img alt="{alternative}" src="data:image/png;base64,{data}" style="display:block;max-width:none;width:{width}px;
height:{n * shown}px;margin-top:-{(n - 1) * shown}px;image-rendering:pixelated"></div>"""
    show = '(view, i) => { view.firstElementChild.style.marginTop = -i * data + "px"; }'
    return controls(view, show, shown, [0.12 * i for i in range(n)], [f"t = {frame.t:.2f}" for frame in chosen])


def _image(drawn: Ints) -> Any:
    """A picture with a palette of SHADES greys."""
    image = gif.pillow().fromarray(drawn.astype(np.uint8), "P")
    image.putpalette([int(level) for shade in np.linspace(0, 255, SHADES).round() for level in (shade,) * 3])
    return image
