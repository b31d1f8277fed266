"""Figures of vectors on their way from noise to data, with matplotlib, which is imported only when one is drawn.

Every function draws into the axes it is given, or into a new figure that it returns. Colours are Okabe and Ito's, told
apart with every kind of colour vision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Floats
from ..data.vectors import pictures
from ..processes.paths import VectorFrame
from .animation import REACH, grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#999999"
SHOWN = 1000  # points of a cloud at most


def _panels(count: int, size: float = 3.0, **options: Any) -> tuple[Figure, Sequence[Axes]]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(size * count, size + 0.5), squeeze=False, **options)
    return figure, axes[0]


def _plane(axes: Axes, title: str) -> None:
    axes.set(
        xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", title=title, xticks=[-2, 0, 2], yticks=[-2, 0, 2]
    )


def _moments(frames: Sequence[VectorFrame], count: int) -> list[VectorFrame]:
    if not frames:
        raise ValueError("frames is empty; a sampler yields at least one")
    return [frames[i] for i in np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]


def clouds(frames: Sequence[VectorFrame], moments: int = 5) -> Figure:
    """Points at a few times on their way from noise to data, one panel each."""
    chosen = _moments(frames, moments)
    figure, panels = _panels(len(chosen), sharey=True)
    for frame, axes in zip(chosen, panels, strict=True):
        points = frame.state[:SHOWN].reshape(-1, 2)
        axes.plot(points[:, 0], points[:, 1], ".", color=BLUE, ms=2, alpha=0.5)
        _plane(axes, f"t = {frame.t:.2f}")
        axes.set_xlabel("$x_1$")
    panels[0].set_ylabel("$x_2$")
    return figure


def field(
    axes: Axes, vectors: Callable[[Floats], Floats], title: str = "", color: str = BLUE, across: int = 19
) -> None:
    """Arrows of a vector field over the plane, for instance a score; their lengths are the square roots of the field's.

    Parameters
    ----------
    vectors : (n, 2) places to (n, 2) vectors

    """
    line = np.linspace(-0.9 * REACH, 0.9 * REACH, across)
    at = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    arrows = vectors(at)
    length = np.linalg.norm(arrows, axis=1, keepdims=True)
    arrows = arrows / np.sqrt(np.maximum(length, 1e-12))
    arrows = arrows / np.abs(arrows).max() * 1.5 * (line[1] - line[0])
    axes.quiver(*at.T, *arrows.T, color=color, angles="xy", scale_units="xy", scale=1, width=0.006)
    _plane(axes, title)


def trajectories(ways: Mapping[str, Sequence[VectorFrame]], count: int = 40) -> Figure:
    """The ways that single points take from noise (grey) to data (orange), one panel per sampler."""
    figure, panels = _panels(len(ways), size=4.0, sharey=True)
    for (name, frames), axes in zip(ways.items(), panels, strict=True):
        way = np.array([frame.state[:count].reshape(-1, 2) for frame in frames])  # (steps + 1, count, 2)
        end = frames[-1].state[:SHOWN].reshape(-1, 2)
        axes.plot(end[:, 0], end[:, 1], ".", color=ORANGE, ms=2, alpha=0.4)
        axes.plot(way[:, :, 0], way[:, :, 1], color=BLUE, lw=0.8, alpha=0.7)
        axes.plot(*way[0].T, "o", color=GREY, ms=4)
        axes.plot(*way[-1].T, "o", color=RED, ms=4)
        _plane(axes, name)
        axes.set_xlabel("$x_1$")
    panels[0].set_ylabel("$x_2$")
    return figure


def dissolving(frames: Sequence[VectorFrame], patch: int, moments: int = 5) -> Figure:
    """Grids of pictures at a few times on their way from noise to data."""
    chosen = _moments(frames, moments)
    figure, panels = _panels(len(chosen))
    for frame, axes in zip(chosen, panels, strict=True):
        axes.imshow(grid(pictures(frame.state, patch)), cmap="gray_r", vmin=0, vmax=1)
        axes.set(xticks=[], yticks=[], title=f"t = {frame.t:.2f}")
    return figure
