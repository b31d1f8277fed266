"""What is learnt per second: `python -m benchmarks.time_to_quality train|time|report --out runs/quality`.

The rule: an entry (`quality_cases.py`) trains a fixed number of steps on `python_docs` at size S, with three seeds.
It counts if its mean held-out bits per character are at the level or below: what a plain PyTorch model reaches in 3,000
steps with AdamW. Its time is steps x the median time of a step.

- `train` trains whatever is not yet in OUT/bits.json: how busy the machine is does not matter.
- `time` measures a step of every entry, all taking turns, on a machine that should have nothing else to do.
- `report` prints the leaderboard and draws it.

PyTorch has to be installed in the same environment (`pip install torch`).
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.__main__ import Worker, measure
from benchmarks.quality_cases import ENTRIES, MODES, REFERENCE, SEEDS, SIZE, Mode
from tinydiff.learning.files import write_atomically

app = typer.Typer()
Out = Annotated[Path, typer.Option(help="Folder for the results.")]


def read(path: Path) -> dict[str, Any]:
    """What is there already."""
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(values, indent=1).encode())


@app.command(name="train")
def train_all(
    out: Out = Path("runs/quality"), only: Annotated[str, typer.Option(help="Entries whose name contains this.")] = ""
) -> None:
    """Train every entry in both modes with every seed."""
    path = out / "bits.json"
    with Progress(console=Console(stderr=True)) as progress:
        for seed in SEEDS:
            for mode in MODES:
                for name, entry in ENTRIES.items():
                    key = f"{mode} {name} {entry.steps[mode]} {seed}"
                    if only not in name or key in read(path):
                        continue
                    task = progress.add_task(key, total=entry.steps[mode])
                    for done in importlib.import_module(f"benchmarks.{entry.module}").trained(entry, mode, seed):
                        if isinstance(done, tuple):
                            write(path, read(path) | {key: {"bits": done[0], "error": done[1]}})
                        else:
                            progress.update(task, completed=done)


@app.command()
def time(
    out: Out = Path("runs/quality"), rounds: Annotated[int, typer.Option(help="Turns of each entry.")] = 15
) -> None:
    """Measure a step of every entry, taking turns."""
    threads = os.cpu_count() or 1
    workers = {module: Worker(module, {}, threads) for module in ("quality_ours", "quality_torch")}
    seconds: dict[str, Any] = {"threads": threads, "who": {name: worker.describe for name, worker in workers.items()}}
    for mode in MODES:
        cases = {name: f"{mode} {name}" for name in ENTRIES}
        times = measure({name: Case(workers[ENTRIES[name].module], case) for name, case in cases.items()}, mode, rounds)
        seconds[mode] = {name: list(np.percentile(found, [25, 50, 75])) for name, found in times.items()}
    write(out / "seconds.json", seconds)
    for worker in workers.values():
        worker.close()


class Case:
    """One entry of a process that times several, as if it had the process to itself."""

    def __init__(self, worker: Worker, case: str) -> None:
        self.worker, self.case = worker, case

    @property
    def cases(self) -> list[str]:
        return [self.case.split()[0]]

    def run(self, mode: str, calls: int) -> list[float]:
        return self.worker.run(self.case, calls)


@app.command()
def report(
    out: Out = Path("runs/quality"),
    save: Annotated[Path | None, typer.Option(help="Write the leaderboard as JSON here.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw it here.")] = None,
) -> None:
    """Print the leaderboard."""
    bits, seconds = read(out / "bits.json"), read(out / "seconds.json")
    rows: list[dict[str, Any]] = []
    for mode in MODES:
        rows += board(mode, bits, seconds)
    table = Table(title=f"time to quality, size S, {len(SEEDS)} seeds, {seconds['threads']} threads")
    for column in ("mode", "entry", "steps", "bits per character", "ms a step", "seconds", "of PyTorch, AdamW"):
        table.add_column(column, justify="left" if column in ("mode", "entry") else "right")
    for row in rows:
        table.add_row(
            row["mode"], row["entry"], f"{row['steps']:,}",
            f"{row['bits']:.3f} ± {row['spread']:.3f}" + ("" if row["reaches"] else " (not there)"),
            f"{row['ms']:.1f}", f"{row['seconds']:.1f}", f"{row['of_reference']:.2f}",
        )  # fmt: skip
    Console().print(table)
    if save is not None:
        write(save, {"who": seconds["who"], "threads": seconds["threads"], "rows": rows})
    if figure is not None:
        draw(rows, figure)


def board(mode: Mode, bits: dict[str, Any], seconds: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of one mode, the fastest first."""
    rows: list[dict[str, Any]] = []
    for name, entry in ENTRIES.items():
        steps = entry.steps[mode]
        found = [bits[f"{mode} {name} {steps} {seed}"]["bits"] for seed in SEEDS]
        low, middle, high = seconds[mode][name]
        rows.append(
            {
                "mode": mode, "entry": name, "steps": steps, "bits": float(np.mean(found)),
                "spread": float(np.std(found, ddof=1)), "ms": middle * 1e3, "seconds": steps * middle,
                "quartiles": [steps * low, steps * high],
            }
        )  # fmt: skip
    reference = next(row for row in rows if row["entry"] == REFERENCE)
    for row in rows:
        row["reaches"] = row["bits"] <= reference["bits"]
        row["of_reference"] = row["seconds"] / reference["seconds"]
    return sorted(rows, key=lambda row: float(row["seconds"]))


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Bars of seconds, a panel per mode; whoever does not reach the level is left hollow."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, mode in zip(drawing.subplots(1, len(MODES)), MODES, strict=True):
        mine = [row for row in rows if row["mode"] == mode][::-1]
        names = [row["entry"] for row in mine]
        colours = ["#0072B2" if name.startswith("tinydiff") else "#E69F00" for name in names]
        bars = axes.barh(names, [row["seconds"] for row in mine], color=colours, edgecolor=colours, height=0.65)
        for bar, row in zip(bars, mine, strict=True):
            bar.set_fill(row["reaches"])
            axes.annotate(
                f" {row['seconds']:.0f} s, {row['bits']:.2f} bits", (row["seconds"], bar.get_y() + 0.325), va="center",
                fontsize=11,
            )  # fmt: skip
        level = next(row["bits"] for row in mine if row["entry"] == REFERENCE)
        axes.set_title(f"{mode}: seconds to {level:.2f} bits per character", fontsize=12)
        axes.set_xlim(0, 1.45 * max(row["seconds"] for row in mine))
        axes.set_xlabel(f"seconds of training, size S ({SIZE.d_model} wide, {SIZE.layers} layers)", fontsize=11)
        axes.tick_params(labelsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, dpi=150)


if __name__ == "__main__":
    app()
