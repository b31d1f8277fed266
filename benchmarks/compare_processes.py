"""Every process on the same text with the same network: `python -m benchmarks.compare_processes --out runs/compare`.

Trains each at size S (width 64, two layers, 64 characters), then writes the held-out bits per character as a table
(table.json, table.txt) and a figure (figure.png). A run that was stopped goes on where it was when the command is given
again, and what is trained already is only evaluated; `--steps`, `--only` and `--scaling` add to the same table.

    python -m benchmarks.compare_processes --out runs/compare --scaling

also trains masked and autoregressive for 1,000 and 10,000 steps, to show how their ratio falls with compute.

For diffusion the figures are upper bounds: of the process itself, and of the same network sampled in 256 and 20 steps.
The last column is of text that was trained on, the tenth before: where it falls and the others do not, text is learnt
by heart. A second table has the bits of a masked character at some masking rates, which say where BERT is good.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from tinydiff import D3PM, Transformer, data, learning, no_grad, ops
from tinydiff.learning import files
from tinydiff.processes import Autoregressive, MaskedDiffusion, Process
from tinydiff.processes.named import new_process
from tinydiff.transformer import Model
from tinydiff.views import terminal

LENGTH, D_MODEL, LAYERS, HEADS = 64, 64, 2, 4
CHAINS = (256, 20)
SCALED, SCALES = ("masked", "autoregressive"), (1000, 10_000)
WINDOWS = 3840
RATES = (0.05, 0.15, 0.3, 0.5, 0.7, 0.85, 1.0)

NAMES = {
    "autoregressive": "autoregressive",
    "masked": "masked",
    "sedd_absorbing": "SEDD absorbing",
    "d3pm_absorbing": "D3PM absorbing",
    "d3pm_nearest": "D3PM nearest",
    "d3pm_uniform": "D3PM uniform",
    "sedd_uniform": "SEDD uniform",
    "bert": "BERT (rate 0.15)",
}


class Chain:
    """A process seen through the bound of its chain of that many steps."""

    def __init__(self, process: Process, steps: int) -> None:
        # The bound of masked diffusion in discrete time is that of absorbing D3PM.
        self.process = D3PM(process.vocab_size, steps=steps) if isinstance(process, MaskedDiffusion) else process
        self.steps = steps

    def bound(self, model: Model, x0: Any, rng: np.random.Generator) -> Any:
        return self.process.bound(model, x0, rng, steps=self.steps)  # only diffusion comes here


def new_run(name: str, steps: int, corpus: data.Corpus, folder: Path, seed: int) -> learning.Run:
    """The run in `folder`, from where it stopped or new."""
    if (folder / "config.json").exists():
        return learning.Run.resume(folder)
    process = new_process(name, corpus)
    model = Transformer(
        corpus.vocab_size, LENGTH, d_model=D_MODEL, layers=LAYERS, heads=HEADS, time=process.needs_time,
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    options = replace(
        learning.Options(), steps=steps, seed=seed, warmup=min(100, steps), evaluate_every=min(250, steps)
    )
    return learning.Run(corpus, process, model, options, folder)


def figures(folder: Path, corpus: data.Corpus) -> dict[str, Any]:
    """Held-out bits per character of a trained run, and of its chains of few steps: mean and standard error.

    "train" is of the last tenth of the text that it was trained on.
    """
    model, process, _, _ = learning.load(folder)
    known = replace(corpus, text=corpus.text[: len(corpus.train)])  # its last tenth was trained on
    row: dict[str, Any] = {
        name: learning.evaluate(model, process, text, windows=WINDOWS)
        for name, text in (("bound", corpus), ("train", known))
    }
    if not isinstance(process, Autoregressive):
        for steps in CHAINS:
            row[str(steps)] = learning.evaluate(model, Chain(process, steps), corpus, windows=WINDOWS)
    if isinstance(process, MaskedDiffusion):  # and BERT
        row["rates"] = by_rate(model, corpus, np.random.default_rng(0))
    return row


def by_rate(model: Model, corpus: data.Corpus, rng: np.random.Generator) -> list[list[float]]:
    """Bits of a held-out character that is masked, at each of RATES: mean and standard error over windows."""
    x0 = corpus.held_out[: len(corpus.held_out) // LENGTH * LENGTH].reshape(-1, LENGTH).astype(np.int64)
    found = []
    for rate in RATES:
        hidden, nll = rng.random(x0.shape) < rate, np.zeros(x0.shape)
        with no_grad():
            for some in (slice(i, i + 64) for i in range(0, len(x0), 64)):  # 64 windows at a time
                masked = hidden[some]
                logits = model(np.where(masked, corpus.vocab_size, x0[some]), select=masked)  # (n, V)
                nll[some][masked] = ops.cross_entropy(logits, x0[some][masked]).data
        number = hidden.sum()
        mean = nll.sum() / number
        spread = (nll.sum(axis=1) - mean * hidden.sum(axis=1)).std() * math.sqrt(len(x0)) / number  # of a ratio
        found.append([float(mean / math.log(2)), float(spread / math.log(2))])
    return found


def show(rows: dict[str, dict[str, Any]]) -> Table:
    """The table for people."""
    table = Table("process", "steps", "bits per character", *(f"in {n} steps" for n in CHAINS), "on training text")
    for key in sorted(rows, key=lambda key: (rows[key]["steps"], rows[key]["bound"][0])):
        row = rows[key]
        cells = (row.get(column) for column in ("bound", *map(str, CHAINS), "train"))
        table.add_row(
            NAMES[row["process"]], f"{row['steps']:,}", *(f"{c[0]:.3f} ± {c[1]:.3f}" if c else "" for c in cells)
        )
    return table


def show_rates(rows: dict[str, dict[str, Any]]) -> Table:
    """Bits of a masked character, a column for each rate."""
    table = Table("process", "steps", *(f"{rate:.0%}" for rate in RATES), title="bits of a masked character, by rate")
    for row in rows.values():
        if "rates" in row:
            cells = (f"{mean:.2f} ± {error:.2f}" for mean, error in row["rates"])
            table.add_row(NAMES[row["process"]], f"{row['steps']:,}", *cells)
    return table


def draw(rows: dict[str, dict[str, Any]], path: Path) -> None:
    """Left: all processes at the most common number of steps. Right: masked over autoregressive against steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 13, "axes.spines.top": False, "axes.spines.right": False})
    all_steps = [row["steps"] for row in rows.values()]
    steps = max(set(all_steps), key=all_steps.count)
    shown = sorted((r for r in rows.values() if r["steps"] == steps), key=lambda r: -r["bound"][0])
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.8), width_ratios=[1.35, 1], layout="constrained")
    for i, row in enumerate(shown):
        for column, marker, colour in (("20", "s", "#E69F00"), ("256", "^", "#56B4E9"), ("bound", "o", "#000000")):
            if column in row:
                mean, error = row[column][:2]
                left.errorbar(mean, i, xerr=2 * error, fmt=marker, color=colour, capsize=3, markersize=8)
    for marker, colour, label in (
        ("o", "#000000", "the process itself"), ("^", "#56B4E9", "256 steps"), ("s", "#E69F00", "20 steps"),
    ):  # fmt: skip
        left.plot([], [], marker, color=colour, label=label)
    left.set_yticks(range(len(shown)), [NAMES[row["process"]] for row in shown])
    left.set_xlabel("held-out bits per character (± 2 standard errors)")
    left.set_title(f"after {steps:,} training steps")
    left.legend(frameon=False, loc="center left")
    left.grid(axis="x", alpha=0.3)
    held_out = {(r["process"], r["steps"]): r["bound"] for r in rows.values()}
    both = sorted(n for name, n in held_out if name == "masked" and ("autoregressive", n) in held_out)
    ratios = [held_out["masked", n][0] / held_out["autoregressive", n][0] for n in both]
    errors = [  # of a ratio, the relative errors added as squares
        2 * ratio * math.hypot(*(held_out[name, n][1] / held_out[name, n][0] for name in SCALED))
        for n, ratio in zip(both, ratios, strict=True)
    ]
    right.errorbar(both, ratios, yerr=errors, fmt="-o", color="#CC3311", capsize=3, markersize=8)
    for n, ratio in zip(both, ratios, strict=True):
        right.annotate(f"{ratio:.2f}", (n, ratio), xytext=(12, 6), textcoords="offset points")
    right.set_xscale("log")
    right.set_xticks(both, [f"{n:,}" for n in both])
    right.minorticks_off()
    right.margins(x=0.2, y=0.2)
    right.set_xlabel("training steps, each a run of its own")
    right.set_ylabel("ratio of bits per character")
    right.set_title("masked over autoregressive")
    right.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main(
    out: Annotated[Path, typer.Option(help="Folder of the runs, the table and the figure.")] = Path("runs/compare"),
    steps: Annotated[int, typer.Option(help="Training steps of each run.")] = 3000,
    only: Annotated[list[str] | None, typer.Option(help="Only this process; may be repeated.")] = None,
    corpus_name: Annotated[str, typer.Option("--data", help="Corpus or UTF-8 file.")] = "python_docs",
    scaling: Annotated[bool, typer.Option(help="Also masked and autoregressive for 1,000 and 10,000 steps.")] = False,
    seconds: Annotated[float, typer.Option(help="Stop, saved, after about this long.")] = float("inf"),
    seed: Annotated[int, typer.Option(help="Of weights, windows and noise.")] = 0,
) -> None:
    """Train and compare all processes."""
    console = Console(stderr=True)
    for name in only or []:
        if name not in NAMES:
            raise typer.BadParameter(f"{name!r}; expected one of {', '.join(NAMES)}", param_hint="--only")
    corpus, deadline = data.load(corpus_name), time.monotonic() + seconds
    jobs = [(name, steps) for name in only or NAMES]
    jobs += [(name, n) for n in SCALES for name in SCALED if scaling and n != steps]
    for name, n in jobs:
        run = new_run(name, n, corpus, out / f"{name}-{n}", seed)
        if run.step < n:
            console.print(f"{NAMES[name]}: from step {run.step}")
            frames = learning.train(run)
            for _ in terminal.show_training(console, frames, start=run.step, steps=n):
                if time.monotonic() > deadline:
                    frames.close()  # saves
                    console.print(f"Stopped at step {run.step}; give the same command again to go on.")
                    return
    rows: dict[str, dict[str, Any]] = {}
    if (out / "table.json").exists():
        rows = json.loads((out / "table.json").read_text())
    for name, n in jobs:
        key = f"{name}-{n}"
        if "train" not in rows.get(key, {}):
            rows[key] = {"process": name, "steps": n, **figures(out / key, corpus)}
            files.write_atomically(out / "table.json", (json.dumps(rows, indent=1) + "\n").encode())
    with (out / "table.txt").open("w") as file:
        Console(file=file, width=130).print(show(rows), show_rates(rows))
    Console().print(show(rows), show_rates(rows))
    if {"masked", "autoregressive"} <= {row["process"] for row in rows.values()}:
        draw(rows, out / "figure.png")


if __name__ == "__main__":
    typer.run(main)
