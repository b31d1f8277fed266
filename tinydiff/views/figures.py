"""Figures of trajectories for paper, with matplotlib, which is imported only when one is drawn.

Every function draws into the axes it is given, or into a new figure that it returns; `save` writes one. Colours are
those of the lessons (`views.notebook`), told apart with every kind of colour vision.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.cells import cell_len

from ..arrays import Floats
from ..data.vectors import pictures
from ..learning.files import refuse_existing, write_atomically
from ..processes.paths import VectorFrame
from .animation import REACH, grid
from .fonts import characters_of, fonts_for
from .trajectory import AGAIN, AGAIN_INK, COLOURS, Cell, Trajectory, cells, drawn, evenly, kinds, legend, lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#CC3311", "#999999"
BROWN = "#6B4400"  # the orange of left to right, darker
SHOWN = 1000  # points of a cloud at most


FORMATS = (".pdf", ".png", ".svg")


def save(path: Path, figure: Figure) -> None:
    """Write a figure as PDF, PNG or SVG, whatever the name ends in, and close it."""
    import matplotlib.pyplot as plt

    check_figure(path)
    content = io.BytesIO()
    with (
        plt.rc_context({"pdf.fonttype": 42, "svg.hashsalt": "tinydiff"}),  # text stays text; same figure, same file
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # said once, and for all of them
        none = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix.lower())
        figure.savefig(content, format=path.suffix[1:], dpi=200, bbox_inches="tight", metadata=none)
    plt.close(figure)
    write_atomically(path, content.getvalue())


def check_figure(path: Path) -> None:
    """Raise if no figure can be written there."""
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"{path} ends in {path.suffix!r}; figures end in {', '.join(FORMATS)}")
    refuse_existing(path)


def strip(trajectory: Trajectory, moments: int = 5, columns: int = 64) -> Figure:
    """A trajectory on paper: its first sequence at a few steps, one below the other, 7 inches wide.

    Short lines are drawn larger, so that they fill the width.

    Parameters
    ----------
    columns : characters per line

    """
    import matplotlib.pyplot as plt
    from matplotlib.patches import Rectangle

    frames = evenly(trajectory.frames, moments)
    fonts = fonts_for(characters_of([trajectory]))
    columns = min(columns, trajectory.most_columns)
    rows = trajectory.most_lines(columns)
    meanings = legend(kinds(frames, trajectory.codec.vocab_size), trajectory.colours)
    widths = [sum(cell_len(cell.text) for cell in samples) + len(words) * 0.85 + 2 for samples, words in meanings]
    margin, gap = 9, 0.5  # in characters, for the names of the steps; in lines
    width, height = max(columns, sum(widths) - 1), len(frames) * (rows + gap) + 1.5
    large = (64 + margin) / (width + margin)  # over the size at which 64 columns fill the width
    figure, axes = plt.subplots(figsize=(7, 0.165 * large * height))
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1)
    axes.set(xlim=(-margin, width), ylim=(height, 0))
    axes.axis("off")

    def put(cell: Cell, x: float, y: float) -> float:
        """Draw a cell, and say where the next one begins."""
        across = cell_len(cell.text)
        fill = {"mask": "#e4e4e4", "remasked": AGAIN, "given": "white"}.get(cell.kind, COLOURS[cell.level])
        fresh, usual = cell.kind == "fresh", set(cell.text) <= fonts[0].characters
        if cell.kind == "given":
            axes.plot([x + 0.1, x + across - 0.1], [y + 0.94, y + 0.94], color="black", lw=0.8)
        edge = {"edgecolor": "black", "linewidth": 0.9, "zorder": 2} if fresh else {"edgecolor": "none"}
        axes.add_patch(Rectangle((x + 0.06, y + 0.06), across - 0.12, 0.88, facecolor=fill, **edge))
        axes.text(
            x + across / 2, y + 0.52, drawn(cell).replace("$", r"\$"), ha="center", va="center_baseline",
            family=[font.family for font in fonts[: 1 if usual else None]], fontsize=7.5 * large, zorder=3,
            weight="bold" if fresh and usual else "normal",  # of which not every font has one
            color={"mask": "#5f5f5f", "remasked": AGAIN_INK}.get(cell.kind, "black"),
        )  # fmt: skip
        return x + across

    y = 0.0
    for frame in frames:
        axes.text(-1, y + 0.55, f"step {frame.step}", ha="right", va="center", fontsize=8 * large)
        for i, line in enumerate(lines(cells(trajectory.codec, frame, 0), columns)):
            x = 0.0
            for cell in line:
                x = put(cell, x, y + i)
        y += rows + gap
    x = 0.0
    for samples, words in meanings:
        for cell in samples:
            x = put(cell, x, y)
        axes.text(x + 0.5, y + 0.5, words, ha="left", va="center", fontsize=8 * large)
        x += len(words) * 0.85 + 2
    return figure


def _panels(count: int, size: float = 3.0, **options: Any) -> tuple[Figure, Sequence[Axes]]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, count, figsize=(size * count, size + 0.5), squeeze=False, **options)
    return figure, axes[0]


def _plane(axes: Axes, title: str) -> None:
    axes.set(
        xlim=(-REACH, REACH), ylim=(-REACH, REACH), aspect="equal", title=title, xticks=[-2, 0, 2], yticks=[-2, 0, 2]
    )


def clouds(frames: Sequence[VectorFrame], moments: int = 5) -> Figure:
    """Points at a few times on their way from noise to data, one panel each."""
    chosen = evenly(frames, moments)
    figure, panels = _panels(len(chosen), sharey=True)
    for frame, axes in zip(chosen, panels, strict=True):
        points = frame.state[:SHOWN].reshape(-1, 2)
        axes.plot(points[:, 0], points[:, 1], ".", color=BLUE, ms=3, alpha=0.6)
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
    """The ways of single points from noise (grey disc) to data (red square), and all that arrive; a panel each."""
    figure, panels = _panels(len(ways), size=4.0, sharey=True)
    for (name, frames), axes in zip(ways.items(), panels, strict=True):
        way = np.array([frame.state[:count].reshape(-1, 2) for frame in frames])  # (steps + 1, count, 2)
        end = frames[-1].state[:SHOWN].reshape(-1, 2)
        axes.plot(end[:, 0], end[:, 1], ".", color=ORANGE, ms=3, alpha=0.4)
        axes.plot(way[:, :, 0], way[:, :, 1], color=BLUE, lw=0.8, alpha=0.7)
        axes.plot(*way[0].T, "o", color=GREY, ms=6)
        axes.plot(*way[-1].T, "s", color=RED, ms=6)
        _plane(axes, name)
        axes.set_xlabel("$x_1$")
    panels[0].set_ylabel("$x_2$")
    return figure


def dissolving(frames: Sequence[VectorFrame], patch: int, moments: int = 5) -> Figure:
    """Grids of pictures at a few times on their way from noise to data."""
    chosen = evenly(frames, moments)
    figure, panels = _panels(len(chosen))
    for frame, axes in zip(chosen, panels, strict=True):
        axes.imshow(grid(pictures(frame.state, patch)), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        axes.set(xticks=[], yticks=[], title=f"t = {frame.t:.2f}")
    return figure


def race(report: Mapping[str, Any]) -> Figure:
    """The report of `clock.race`: time over steps at every length, then over length; measured and predicted."""
    import matplotlib.pyplot as plt

    lengths = sorted({entry["length"] for entry in report["one"]})
    looks = {
        "cached": (ORANGE, "s", "left to right, KV-cache"),
        "uncached": (BROWN, "^", "left to right, no cache"),
        "diffusion": (BLUE, "o", "diffusion"),
        "blocks": (GREEN, "D", "block diffusion, KV-cache"),
    }
    count = len(lengths) + 1
    across = count if count < 4 else 2  # so that the letters stay large
    down = -(-count // across)
    figure, grid_ = plt.subplots(
        down, across, figsize=(5 * across, 0.6 + 4 * down), squeeze=False, layout="constrained"
    )
    panels = list(grid_.flat)
    for empty in panels[count:]:
        empty.remove()
    panels = panels[:count]

    def plot(axes: Axes, kind: str, at: Sequence[int], entries: Sequence[Mapping[str, Any]]) -> None:
        color, marker, name = looks[kind]
        seconds, predicted = ([1000 * e[what] for e in entries] for what in ("seconds", "predicted"))
        axes.plot(at, predicted * (len(at) // len(predicted)), "--", color=color, lw=1.5)
        inside = {"mfc": "none", "mew": 2} if kind == "blocks" else {"mec": "white"}  # hollow: what is behind is seen
        axes.plot(at, seconds * (len(at) // len(seconds)), marker, color=color, ms=8, label=name, **inside)

    for length, axes in zip(lengths, panels, strict=False):
        beside = 0  # lines of text, so that the numbers of neighbours do not overprint each other
        at_length = [e for e in report["one"] if e["length"] == length]
        for kind in looks:
            entries = [e for e in at_length if e["kind"] == kind]
            plot(axes, kind, [e["steps"] for e in entries] if kind == "diffusion" else [1, length], entries)
        for crossing in report["crossover_steps"]:
            if crossing["length"] == length and crossing["measured"] is not None:
                axes.axvline(crossing["measured"], color=looks[crossing["against"]][0], lw=1.5, ls=":", zorder=0)
                axes.annotate(
                    f"{crossing['measured']:.0f}", (crossing["measured"], 0.02), (-3, 16 * beside), fontsize=14,
                    ha="right", xycoords=("data", "axes fraction"), textcoords="offset points",
                )  # fmt: skip
                beside += 1
        _log_axes(axes, sorted({4**i for i in range(9) if 4**i < length} | {length}))
        axes.set_xlabel("steps of diffusion", fontsize=14)
        axes.set_title(f"{length} tokens", fontsize=15)
    for kind in looks:
        entries = [
            e for e in report["one"] if e["kind"] == kind and (kind != "diffusion" or e["steps"] == report["steps"])
        ]
        plot(panels[-1], kind, [e["length"] for e in entries], entries)
    _log_axes(panels[-1], lengths)
    panels[-1].set_xlabel("tokens", fontsize=14)
    panels[-1].set_title(f"diffusion in {report['steps']} steps", fontsize=15)
    for axes in panels:
        axes.set_ylabel("ms for one sequence", fontsize=14)
    handles, labels = panels[0].get_legend_handles_labels()
    (line,) = panels[0].plot([], [], "--", color="black")
    figure.legend([*handles, line], [*labels, "predicted"], loc="outside upper center", ncols=3, fontsize=13)
    return figure


def _log_axes(axes: Axes, ticks: Sequence[int]) -> None:
    """Both axes logarithmic, with plain numbers."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.tick_params(labelsize=13)
    axes.grid(color="#dddddd", lw=0.5)


def seeds(groups: Sequence[tuple[str, Sequence[float], float, float]], label: str = "held-out bits") -> Figure:
    """Results of runs, a line per group: a dot for each seed, the mean and its interval beside them.

    Parameters
    ----------
    groups : name, results, their mean, and half of its interval, nan if there is none

    """
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 15}):
        figure, axes = plt.subplots(figsize=(11, 1.6 + 0.6 * len(groups)), layout="constrained")
    for y, (_, results, mean, half) in enumerate(groups):
        axes.plot(results, [y - 0.12] * len(results), "o", color=ORANGE, ms=8, label=None if y else "each seed")
        error = half if np.isfinite(half) else 0.0
        axes.errorbar(
            mean, y + 0.12, xerr=error, fmt="D", color=BLUE, ms=9, lw=3, capsize=6,
            label=None if y else "mean and 95 % interval",
        )  # fmt: skip
    axes.set_yticks(range(len(groups)), [name for name, *_ in groups])
    axes.set(ylim=(len(groups) - 0.4, -0.6), xlabel=label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure
