"""Vectors from noise to data as moving pictures: an animated GIF, and a small player for notebooks.

Frames are drawn in a few shades of grey, without matplotlib, which keeps them small: a notebook holds all of a
trajectory in some tens of kilobytes. Needs Pillow, which comes with matplotlib.
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
LARGEST = 2000  # pixels of a GIF each way


def shades(frames: Sequence[VectorFrame], patch: int = 0, moments: int = 40) -> Ints:
    """What the frames look like, as (n, H, W) shades from 0, black, to SHADES - 1, white.

    Parameters
    ----------
    patch : side of the patches if these are pictures, shown in a square grid; 0 for points in the plane
    moments : at most so many frames, evenly spaced

    """
    states = [frame.state for frame in evenly(frames, moments)]
    drawn = [grid(pictures(x, patch)) if patch else scatter(x.reshape(len(x), -1)) for x in states]
    ink = np.clip(np.array(drawn), 0, 1)
    return np.asarray(np.round((1 - ink) * (SHADES - 1)), np.int64)


def grid(tiles: Floats) -> Floats:
    """Pictures (N, S, S) in [-1, 1] in rows, as one picture with ink in [0, 1]."""
    across = int(np.ceil(np.sqrt(len(tiles))))
    padded = np.full((across * across, tiles.shape[1] + 2, tiles.shape[2] + 2), -1.0)
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


def save_gif(path: Path, frames: Sequence[VectorFrame], *, patch: int = 0, seconds: float = 4.0) -> None:
    """Write an animated GIF of about that length, which rests on its last picture for two seconds more."""
    check_gif(len(frames[-1].state), patch, frames[-1].state.shape[1])
    drawn = shades(frames, patch)
    scale = max(1, 360 // drawn.shape[2])
    stills = [_image(np.kron(still, np.ones((scale, scale), np.int64))) for still in drawn]
    gif.write(path, stills, [max(20, round(1000 * seconds / len(stills)))] * (len(stills) - 1))


def player(frames: Sequence[VectorFrame], *, patch: int = 0, moments: int = 24, width: int = 320) -> str:
    """HTML of a player with a button, a slider and keys: `IPython.display.HTML(player(frames))`.

    One PNG holds all moments below one another; a window as high as one of them moves over it.
    """
    drawn = shades(frames, patch, moments)
    n, height, _ = drawn.shape
    content = io.BytesIO()
    _image(drawn.reshape(n * height, -1)).save(content, "PNG", optimize=True)
    data = base64.b64encode(content.getvalue()).decode()
    shown = round(width * height / drawn.shape[2])
    view = f"""<div style="width:{width}px;height:{shown}px;border:1px solid #888;image-rendering:pixelated;
background:url(data:image/png;base64,{data}) 0 -{(n - 1) * shown}px / {width}px {n * shown}px"></div>"""
    show = '(view, i) => { view.style.backgroundPositionY = -i * data + "px"; }'
    chosen = evenly(frames, moments)
    return controls(view, show, shown, [0.12 * i for i in range(n)], [f"t = {frame.t:.2f}" for frame in chosen])


def _image(drawn: Ints) -> Any:
    """A picture with a palette of SHADES greys."""
    image = gif.pillow().fromarray(drawn.astype(np.uint8), "P")
    image.putpalette([int(level) for shade in np.linspace(0, 255, SHADES).round() for level in (shade,) * 3])
    return image
