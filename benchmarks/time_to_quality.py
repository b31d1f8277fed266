"""What is learnt per second: `python -m benchmarks.time_to_quality train|time|report --out runs/quality`.

The rule: an entry (`quality_cases.py`) trains a fixed number of steps on `python_docs`, with three seeds. It counts if
its mean held-out bits per character are at the level or below: what a plain PyTorch model reaches with AdamW in 3,000
steps, at size M in 400. Its time is steps x the median time of a step.

- `train` trains whatever is not yet in OUT/bits.json: how busy the machine is does not matter.
- `time` measures a step of every entry, all taking turns, on a machine that should have nothing else to do.
- `report` prints the leaderboard, and what bfloat16 costs; it saves and draws them. What was not trained here has its
  bits from quality.json.

PyTorch has to be installed in the same environment (`pip install torch`).
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.__main__ import Worker, measure
from benchmarks.quality_cases import ENTRIES, REFERENCE, SEEDS, Board
from tinydiff.arrays import Floats
from tinydiff.learning.files import write_atomically

app = typer.Typer()
COMMITTED = Path(__file__).parent / "quality.json"
Out = Annotated[Path, typer.Option(help="Folder for the results.")]


def read(path: Path) -> dict[str, Any]:
    """What is there already."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(values, indent=1).encode())


@app.command(name="train")
def train_all(
    out: Out = Path("runs/quality"),
    only: Annotated[
        str, typer.Option(help='Trainings whose name, like "S masked tinydiff, Muon", contains this.')
    ] = "",
) -> None:
    """Train every entry on every board with every seed."""
    path = out / "bits.json"
    with Progress(console=Console(stderr=True)) as progress:
        for board, seeds in SEEDS.items():
            for seed in seeds:
                for name, entry in ENTRIES.items():
                    case = f"{' '.join(board)} {name}"
                    if only not in case or board not in entry.steps:
                        continue
                    key = key_of(board, name, seed)
                    module = importlib.import_module(f"benchmarks.{entry.module}")
                    if key in read(path) or case not in module.CASES:
                        continue
                    task = progress.add_task(key, total=entry.steps[board])
                    for done in module.trained(entry, board, seed):
                        if isinstance(done, tuple):
                            write(path, read(path) | {key: {"bits": done[0], "error": done[1]}})
                        else:
                            progress.update(task, completed=done)


def key_of(board: Board, name: str, seed: int) -> str:
    """Under which the bits of a training are kept."""
    return f"{' '.join(board)} {name} {ENTRIES[name].steps[board]} {seed}"


def committed() -> dict[str, Any]:
    """The bits of the leaderboard in the repository, as `train` keeps them."""
    return {
        f"{row['board']} {row['entry']} {row['steps']} {seed}": {"bits": bits}
        for row in read(COMMITTED).get("rows", [])
        for seed, bits in enumerate(row["bits"])
    }


@app.command()
def time(
    out: Out = Path("runs/quality"),
    rounds: Annotated[int, typer.Option(help="Turns of each entry.")] = 15,
    only: Annotated[str, typer.Option(help='Boards whose name, like "S masked", contains this.')] = "",
) -> None:
    """Measure a step of every entry, taking turns."""
    threads = os.cpu_count() or 1
    workers = {module: Worker(module, {}, threads) for module in ("quality_ours", "quality_torch")}
    seconds = read(out / "seconds.json")
    seconds |= {"threads": threads, "who": {name: worker.describe for name, worker in workers.items()}}
    for what in filter(lambda board: only in board, map(" ".join, SEEDS)):
        entries = {name: OneCase(workers[entry.module], f"{what} {name}") for name, entry in ENTRIES.items()}
        times = measure(entries, what, rounds)
        seconds[what] = {name: list(np.percentile(found, [25, 50, 75])) for name, found in times.items()}
        write(out / "seconds.json", seconds)
    for worker in workers.values():
        worker.close()


class OneCase:
    """One entry of a process that times several, as if it had the process to itself."""

    def __init__(self, worker: Worker, case: str) -> None:
        self.worker, self.case = worker, case
        self.cases = [" ".join(case.split()[:2])] if case in worker.cases else []

    def run(self, board: str, calls: int) -> list[float]:
        return self.worker.run(self.case, calls)


@app.command()
def report(
    out: Out = Path("runs/quality"),
    save: Annotated[Path | None, typer.Option(help="Write the leaderboard as JSON here.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw it here.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Also print it as README.md has it.")] = False,
) -> None:
    """Print the leaderboard."""
    bits, seconds = committed() | read(out / "bits.json"), read(out / "seconds.json")
    if not seconds:
        raise typer.BadParameter(f"{out} has no seconds.json; run first: python -m benchmarks.time_to_quality time")
    rows = [row for board in SEEDS for row in rows_of(board, bits, seconds)]
    table = Table(title=f"time to quality, {seconds['threads']} threads")
    for column in ("board", "entry", "steps", "bits per character", "ms a step", "seconds", "of PyTorch, AdamW"):
        table.add_column(column, justify="left" if column in ("board", "entry") else "right")
    for row in rows:
        table.add_row(
            row["board"], row["entry"], f"{row['steps']:,}",
            f"{row['mean']:.3f}" + (f" ± {row['spread']:.3f}" if len(row["bits"]) > 1 else ", one seed")
            + ("" if row["reaches"] else " (not there)"),
            f"{row['ms']:.1f}", f"{row['seconds']:.1f}", f"{row['of_reference']:.2f}",
        )  # fmt: skip
    console = Console(width=max(Console().width, 110))
    console.print(table)
    rounding = [
        found for board in SEEDS if (found := cost_of_rounding([r for r in rows if r["board"] == " ".join(board)]))
    ]
    for found in rounding:
        console.print(
            f"{found['board']}: bfloat16 adds {found['mean']:+.4f} ± {found['error']:.4f} bits per character, "
            f"{len(found['bits'])} seeds, each against float32 with the same windows and masks"
        )
    if markdown:
        print(markdown_of(rows))
    if save is not None:
        write(save, {"who": seconds["who"], "threads": seconds["threads"], "rows": rows, "bfloat16": rounding})
    if figure is not None:
        draw(rows, figure)


def rows_of(board: Board, bits: dict[str, Any], seconds: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one board that are trained and timed, the fastest first; none without the one that sets the level."""
    rows: list[dict[str, Any]] = []
    what, seeds = " ".join(board), SEEDS[board]
    for name, entry in ENTRIES.items():
        if name not in seconds.get(what, {}) or any(key_of(board, name, seed) not in bits for seed in seeds):
            continue
        found = [bits[key_of(board, name, seed)]["bits"] for seed in seeds]
        low, middle, high = seconds[what][name]
        steps = entry.steps[board]
        rows.append(
            {
                "board": what, "entry": name, "steps": steps, "bits": found, "mean": float(np.mean(found)),
                "spread": deviation(found), "ms": middle * 1e3,
                "seconds": steps * middle, "quartiles": [steps * low, steps * high],
            }
        )  # fmt: skip
    reference = next((row for row in rows if row["entry"] == REFERENCE), None)
    if reference is None or len(rows) == 1:
        return []
    for row in rows:
        row["reaches"] = row["mean"] <= reference["mean"]
        row["of_reference"] = row["seconds"] / reference["seconds"]
    return sorted(rows, key=lambda row: float(row["seconds"]))


def markdown_of(rows: list[dict[str, Any]]) -> str:
    """A table for each board."""
    lines: list[str] = []
    for board in dict.fromkeys(row["board"] for row in rows):
        head = f"| {board.replace(' ', ', ')} | steps | bits per character | ms a step | seconds | of PyTorch, AdamW |"
        lines += ["", head, "|---|---|---|---|---|---|"]
        for row in (row for row in rows if row["board"] == board):
            missed = "" if row["reaches"] else " (not there)"
            lines.append(
                f"| {row['entry']} | {row['steps']:,} | {row['mean']:.3f} ± {row['spread']:.3f}{missed} "
                f"| {row['ms']:.1f} | {row['seconds']:.1f} | {row['of_reference']:.2f} |"
            )
    return "\n".join(lines[1:])


def cost_of_rounding(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Bits per character that an entry in bfloat16 has more than the same in float32, paired by seed."""
    by_name = {row["entry"]: row for row in rows}
    for name, row in by_name.items():
        if ENTRIES[name].precision == "bfloat16":
            more = np.subtract(row["bits"], by_name[name.removesuffix(", bfloat16")]["bits"])
            error = deviation(more) / math.sqrt(len(more))
            return {"board": row["board"], "bits": more.tolist(), "mean": float(more.mean()), "error": error}
    return {}


def deviation(found: Sequence[float] | Floats) -> float:
    """Of seeds, 0 for a single one."""
    return float(np.std(found, ddof=1)) if len(found) > 1 else 0.0


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of seconds, a panel per board; whoever does not reach the level is left hollow."""
    from matplotlib.figure import Figure

    boards = list(dict.fromkeys(row["board"] for row in rows))
    drawing = Figure(figsize=(12, 3.4 * math.ceil(len(boards) / 2)), layout="constrained")
    panels = drawing.subplots(math.ceil(len(boards) / 2), 2, squeeze=False).flat
    for axes, board in zip(panels, boards, strict=False):
        mine = [row for row in rows if row["board"] == board][::-1]
        names = [row["entry"] for row in mine]
        colours = ["#0072B2" if name.startswith("tinydiff") else "#E69F00" for name in names]
        bars = axes.barh(names, [row["seconds"] for row in mine], color=colours, edgecolor=colours, height=0.65)
        for bar, row in zip(bars, mine, strict=True):
            bar.set_fill(row["reaches"])
            axes.annotate(
                f" {row['seconds']:.0f} s, {row['mean']:.2f} bits", (row["seconds"], bar.get_y() + 0.325), va="center",
                fontsize=12,
            )  # fmt: skip
        level = next(row["mean"] for row in mine if row["entry"] == REFERENCE)
        axes.set_title(f"{', '.join(board.split())}: {level:.2f} bits per character", fontsize=12)
        axes.set_xlim(0, 1.5 * max(row["seconds"] for row in mine))
        axes.set_xlabel("seconds of training", fontsize=12)
        axes.tick_params(labelsize=12)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)


if __name__ == "__main__":
    app()
