"""Many runs: `tinydiff sweep-runs`."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.main import get_command

from ..kernels.threads import usable_cores
from ..learning.checkpoint import make_folder
from ..learning.files import CheckpointError, check_writable, quoted, write_atomically
from ..learning.interrupts import stops_wait
from ..learning.table import Group, Row, groups, read_table, share_of, state_of
from ..views import figures
from . import train
from .common import RUNS, console, epilog, need_matplotlib, say

app = typer.Typer()
OURS = ("out", "resume", "check", "help")
"""Options of `train` that a table does not set."""


@app.command(
    "sweep-runs",
    epilog=epilog(
        "tinydiff sweep-runs sizes.csv",
        "tinydiff sweep-runs sizes.toml --out runs/sizes --jobs 4",
        "sbatch --array=0-7 --wrap 'tinydiff sweep-runs sizes.toml --array $SLURM_ARRAY_TASK_ID/8'",
    ),
)
def sweep_runs(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            show_default=False,
            help="Table of options of train: .csv, a run per line, or .toml, a run per combination of its lists.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs' folders; default runs/ and the name of the table.")
    ] = None,
    jobs: Annotated[
        int | None, typer.Option(help="Runs at a time, which share the cores; default one per core.")
    ] = None,
    array: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Only every N-th run from the I-th on, I from 0: a task of an array."),
    ] = None,
) -> None:
    """Train a table of runs, and compare them: means over seeds with their 95 % intervals.

    Runs that are finished are skipped, runs that were stopped go on, so that the same command ends what was begun.
    """
    command: Any = get_command(train.app)
    command = command.commands["train"]
    options = [option.opts[0].removeprefix("--").replace("-", "_") for option in command.params]
    rows = read_table(file, [name for name in options if name not in OURS])
    out = out or RUNS / file.stem
    mine = rows if array is None else share_of(rows, array)
    jobs = min(usable_cores(), max(1, len(mine))) if jobs is None else jobs
    if jobs < 1:
        raise ValueError(f"--jobs is {jobs}; it must be at least 1")
    figure = out / "runs.png"
    need_matplotlib(figure)
    check_rows(command, file, rows)
    check_writable(out / "runs.csv")

    failed = run_all(mine, out, jobs)
    found = groups(rows, out)
    say(table(found))
    done = sum(len(group.results) for group in found)
    if done == len(rows):
        write_atomically(out / "runs.csv", as_csv(found).encode())
        figure.unlink(missing_ok=True)
        figures.save(figure, figures.seeds([(group.label, group.results, group.mean, group.half) for group in found]))
        console.print(f"All {done} runs are finished; the table is also in {out / 'runs.csv'}, the figure in {figure}.")
    else:
        console.print(f"{done} of {len(rows)} runs are finished; the same command goes on with the others.")
    if failed:
        raise typer.Exit(1)


def check_rows(command: Any, file: Path, rows: list[Row]) -> None:
    """ValueError, naming row and column, unless every run could be trained. Seeds alone make no difference."""
    seen = set()
    for row in rows:
        key = tuple(sorted((name, value) for name, value in row.options.items() if name != "seed"))
        whole = key not in seen
        seen.add(key)
        try:
            if whole:
                command.main([*arguments(row), "--check"], prog_name="train", standalone_mode=False)
            else:
                command.make_context("train", [*arguments(row), "--check"])
        except typer.BadParameter as error:
            column = "" if error.param is None else f", column {error.param.opts[0].removeprefix('--')!r}"
            raise ValueError(f"{file}, {row.where}{column}: {error.message}") from None
        except (ValueError, FileNotFoundError, NotImplementedError) as error:
            raise ValueError(f"{file}, {row.where}: {error}") from None


def arguments(row: Row) -> list[str]:
    """The options as `train` takes them."""
    return [word for name, value in row.options.items() for word in (f"--{name.replace('_', '-')}", value)]


def run_all(rows: list[Row], out: Path, jobs: int) -> int:
    """Train what is not finished, so many at a time, each in a process of its own; how many have failed.

    Ctrl-C and signals to end are passed on: all are saved, and go on next time.
    """
    waiting, running, failed = list(rows), dict[str, Any](), 0
    threads = str(max(1, usable_cores() // jobs))
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads)}
    told = False
    with stops_wait() as stops, contextlib.ExitStack() as opened:
        while waiting or running:
            while waiting and len(running) < jobs and not stops:
                row = waiting.pop(0)
                try:
                    command = next_command(row, out)
                except CheckpointError as error:
                    console.print(f"{row.name}: {error}")
                    failed, command = failed + 1, None
                if command is not None:
                    log = opened.enter_context(open(out / f"{row.name}.txt", "ab"))
                    running[row.name] = subprocess.Popen(
                        command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                    )
            if stops:
                waiting.clear()
                if not told:
                    for process in running.values():
                        process.send_signal(stops[0])
                    told = True
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    if process.returncode and not told:
                        failed += 1
                    report(name, out, process.returncode)
            time.sleep(0.05)
    return failed


def next_command(row: Row, out: Path) -> list[str] | None:
    """What trains a run or goes on with it; None if it is finished."""
    folder = out / row.name
    state = state_of(folder)
    tinydiff = [sys.executable, "-m", "tinydiff", "train"]
    if state is None:
        make_folder(out)
        return [*tinydiff, *arguments(row), f"--out={folder}"]
    if state[0] < state[1]:
        console.print(f"{row.name}: goes on from step {state[0]} of {state[1]}")
        return [*tinydiff, "--resume", str(folder)]
    return None


def report(name: str, out: Path, code: int) -> None:
    """How a run has ended."""
    log = out / f"{name}.txt"
    said = log.read_text("utf-8", "replace").strip().splitlines()
    words = "finished" if code == 0 else f"stopped, see {quoted(log)}: {said[-1] if said else code}"
    console.print(f"{name}: {words}")


def table(found: list[Group]) -> str:
    """The groups, aligned."""
    lines = [["runs", "held-out bits", "95 %", "of"]]
    for group in found:
        mean = f"{group.mean:.4f}" if group.results else "-"
        half = f"+- {group.half:.4f}" if len(group.results) > 1 else "-"
        lines.append([f"{len(group.results)}/{group.runs}", mean, half, group.label])
    widths = [max(len(line[i]) for line in lines) for i in range(3)]
    return "\n".join("  ".join([*(c.rjust(w) for c, w in zip(line, widths, strict=False)), line[3]]) for line in lines)


def as_csv(found: list[Group]) -> str:
    """The groups for other programs, in full precision."""
    names = list(dict.fromkeys(name for group in found for name in group.options))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*names, "runs", "mean", "half_of_95", "results"])
    for group in found:
        results = " ".join(map(repr, group.results))
        cells = [group.options.get(name, "") for name in names]
        writer.writerow([*cells, group.runs, repr(group.mean), repr(group.half), results])
    return text.getvalue()
