"""What a sweep leaves behind: lines while it runs, a table that is complete up to the last cell, and a figure."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..data import Codec
from ..learning.files import printable, write_atomically
from .dial import WAYS, Cell, curves, knee
from .texts import interval, resampled_means

COLOURS = [
    "#0072b2", "#009e73", "#cc79a7", "#d55e00", "#e69f00", "#56b4e9", "#000000", "#777777",  # Okabe and Ito
    "#8b4513", "#332288",
]  # fmt: skip
MARKERS = "osD^vPX*h<"


def follow(console: Console, cells: Iterable[Cell], total: int, out: Path) -> tuple[list[Cell], bool]:
    """Show the cells as they come and keep the table up to date: the cells, and whether Ctrl-C cut them short."""
    done: list[Cell] = []
    progress = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True),
        console=console,
    )  # fmt: skip
    with progress if console.is_terminal else nullcontext():  # a bar into a file would be an empty line
        task = progress.add_task("", total=total)
        try:
            for cell in cells:
                done.append(cell)
                write_table(out, done)
                line = (
                    f"{cell.order}, temperature {cell.temperature:g}, {cell.steps} steps: {cell.scores.mean():.3f}, "
                    f"entropy {cell.columns['entropy']:.2f}"
                )
                progress.update(task, advance=1, description=line)
                if not console.is_terminal:
                    console.print(line, soft_wrap=True, highlight=False)
        except KeyboardInterrupt:
            return done, True
    return done, False


def summary(cells: Sequence[Cell], codec: Codec, label: str) -> str:
    """The knees in words, and what the fewest and the most steps of the first curve wrote."""
    lines = []
    groups = curves(cells)
    for (order, temperature), curve in groups.items():
        first, best = curve[0], max(curve, key=lambda cell: cell.scores.mean())
        at, low, high = knee(curve, np.random.default_rng(0))
        lines.append(
            f"{order}, temperature {temperature:g}: {first.scores.mean():.3f} in {first.steps} steps, "
            f"{best.scores.mean():.3f} in {best.steps}; knee at {at} steps (95 % interval {low:g} to {high:g})"
        )
    lines.append(f"Figures are the {label}; the knee is the fewest steps that make 90 % of the gain.")
    curve = next(iter(groups.values()))
    for cell in (curve[0], curve[-1]) if len(curve) > 1 else curve:
        lines.append(f"In {cell.steps} steps: {codec.decode(cell.example)!r}")
    return "\n".join(lines)


def rows(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """The table: a row per cell, with the knee of its curve so far."""
    knees = {key: knee(curve, np.random.default_rng(0)) for key, curve in curves(cells).items()}
    table = []
    for cell in cells:
        low, high = interval(resampled_means(cell.scores, np.random.default_rng(0)))
        at, first, last = knees[cell.order, cell.temperature]
        table.append(
            {
                "order": cell.order, "temperature": cell.temperature, "steps": cell.steps, "texts": len(cell.scores),
                "quality": float(cell.scores.mean()), "low": low, "high": high, **cell.columns,
                "cpu_seconds": cell.seconds, "knee": at, "knee_low": first, "knee_high": last,
            }
        )  # fmt: skip
    return table


def write_table(path: Path, cells: Sequence[Cell]) -> None:
    """Replace the table, CSV or JSON by its name, by one of these cells."""
    table = rows(cells)
    if path.suffix == ".json":
        plain = [{name: None if x != x else x for name, x in row.items()} for row in table]  # JSON knows no NaN
        content = json.dumps(plain, indent=1, allow_nan=False) + "\n"
    else:
        file = io.StringIO()
        writer = csv.DictWriter(file, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{x:.6g}" if isinstance(x, float) else x for name, x in row.items()} for row in table)
        content = file.getvalue()
    write_atomically(path, content.encode())


def write_figure(path: Path, cells: Sequence[Cell], label: str, title: str) -> None:
    """Draw quality, and the entropy that it may have been bought with, against the steps; knees with their intervals.

    One column per temperature. Needs matplotlib.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    groups = curves(cells)
    temperatures = sorted({temperature for _, temperature in groups})
    figure = Figure(figsize=(1.5 + 4.5 * len(temperatures), 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(
        2, len(temperatures), squeeze=False, sharex=True, sharey="row", gridspec_kw={"height_ratios": [3, 2]}
    )
    for (order, temperature), curve in groups.items():
        top, bottom = axes[:, temperatures.index(temperature)]
        place = list(WAYS).index(order)
        colour, marker = COLOURS[place], MARKERS[place]
        steps = [cell.steps for cell in curve]
        quality = [cell.scores.mean() for cell in curve]
        ends = np.array([interval(resampled_means(cell.scores, np.random.default_rng(0))) for cell in curve])
        top.fill_between(steps, ends[:, 0], ends[:, 1], color=colour, alpha=0.2, linewidth=0)
        top.plot(steps, quality, color=colour, marker=marker, markersize=7, linewidth=2.2, label=order)
        bottom.plot(
            steps, [cell.columns["entropy"] for cell in curve], color=colour, marker=marker, markersize=7, linewidth=2.2
        )
        if len(curve) > 1:
            at, low, high = knee(curve, np.random.default_rng(0))
            height = quality[steps.index(at)]
            top.plot([low, high], [height, height], color=colour, linewidth=1.5, marker="|", markersize=12)
            top.plot(at, height, marker="o", markersize=16, markerfacecolor="none", markeredgecolor=colour, mew=2)
    real = groups[next(iter(groups))][0].columns["entropy_real"]
    ticks = sorted({cell.steps for cell in cells})
    axes[1, 0].set_ylim(0, 1.1 * max(real, *(cell.columns["entropy"] for cell in cells)))
    for column, temperature in enumerate(temperatures):
        top, bottom = axes[:, column]
        top.set_title(f"temperature {temperature:g}", fontsize=13)
        bottom.axhline(real, color="black", linestyle=":", linewidth=1.5, label="as many real texts")
        bottom.set_xlabel("steps (network evaluations per text)", fontsize=13)
        for axis in (top, bottom):
            axis.set_xscale("log", base=2)
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=11)
    axes[0, 0].set_ylabel(label, fontsize=13)
    axes[1, 0].set_ylabel("entropy of the texts (nats)", fontsize=13)
    axes[0, -1].legend(title="order (ring: knee)", fontsize=11, title_fontsize=11)
    axes[1, -1].legend(fontsize=11)
    name = printable(title).replace("$", r"\$")  # which begins a formula
    figure.suptitle(f"{name}: the steps dial, {len(cells[0].scores)} texts per point", fontsize=14)
    file = io.BytesIO()
    figure.savefig(file, dpi=110, format="png")
    write_atomically(path, file.getvalue())
