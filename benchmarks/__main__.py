"""Side by side with what a user would pick instead: `python -m benchmarks [--json FILE] [--only TEXT]`.

Every implementation runs in a process of its own. For each case they take turns in rounds (ours, peer, ours, peer,
...), so that a machine that slows down slows all of them; the table gives medians over all calls, the spread (half the
interquartile range, in per cent) and each peer's median over ours.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

IMPLEMENTATIONS: dict[str, tuple[str, dict[str, str]]] = {
    "native": ("ours", {"TINYDIFF_KERNELS": "native"}),
    "avx2": ("ours", {"TINYDIFF_KERNELS": "native", "TINYDIFF_ISA": "avx2"}),
    "baseline": ("ours", {"TINYDIFF_KERNELS": "native", "TINYDIFF_ISA": "baseline"}),
    "numpy": ("ours", {"TINYDIFF_KERNELS": "numpy"}),
    "torch": ("torch_eager", {}),
    "torch compiled": ("torch_compiled", {}),
    "jax": ("jax_jit", {}),
    "argpartition": ("argpartition", {}),
    "GEMM floor": ("gemm", {}),
}
ROUND_SECONDS = 0.5  # each implementation runs for about this long per round, at least three calls


class Worker:
    """An implementation's process."""

    def __init__(self, module: str, environment: dict[str, str], threads: int) -> None:
        pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
        flags = {"XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'true' if threads > 1 else 'false'}"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | pools | flags | {"BENCHMARK_THREADS": str(threads)} | environment,
        )
        hello = self._answer()
        self.describe: str = hello.get("describe", hello.get("error"))
        self.cases: list[str] = hello.get("cases", [])

    def run(self, case: str, calls: int) -> list[float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"case": case, "calls": calls}) + "\n")
        self.process.stdin.flush()
        return list(self._answer())

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            assert self.process.stderr is not None
            raise RuntimeError(f"a benchmark process died:\n{self.process.stderr.read()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


def measure(workers: dict[str, Worker], case: str, rounds: int) -> dict[str, list[float]]:
    """Times in seconds of each implementation that has this case, taking turns."""
    runners = {name: worker for name, worker in workers.items() if case in worker.cases}
    calls = {}
    for name, worker in runners.items():
        once = min(worker.run(case, 2))
        calls[name] = max(3, min(200, round(ROUND_SECONDS / once)))
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, worker in runners.items():
            times[name] += worker.run(case, calls[name])
    return times


def summary(times: list[float]) -> dict[str, float]:
    """Median and quartiles of times in seconds, to four significant digits, and how many there are."""
    low, middle, high = (float(f"{x:.4g}") for x in np.percentile(times, [25, 50, 75]))
    return {"median": middle, "25%": low, "75%": high, "calls": len(times)}


def document(
    machine: str, threads: int, implementations: dict[str, str], results: dict[str, dict[str, dict[str, float]]]
) -> str:
    """A run as JSON, a line per case and implementation: small enough to commit, and to see what a new run changed."""
    head = json.dumps({"machine": machine, "threads": threads, "implementations": implementations}, indent=1)
    cases = [
        f"  {json.dumps(case)}: {{\n"
        + ",\n".join(f"   {json.dumps(name)}: {json.dumps(entry)}" for name, entry in times.items())
        + "\n  }"
        for case, times in results.items()
    ]
    return head.removesuffix("\n}") + ',\n "seconds": {\n' + ",\n".join(cases) + "\n }\n}\n"


def table_of(results: dict[str, dict[str, dict[str, float]]], names: list[str]) -> Table:
    """Milliseconds, spread and ratio to ours, a row per case."""
    table = Table(title="milliseconds, median ± half the interquartile range; ×: this median over native's")
    table.add_column("case")
    for name in names:
        table.add_column(name, justify="right")
    for case, times in results.items():
        ours = times["native"]["median"]
        row = [case]
        for name in names:
            if name not in times:
                row.append("-")
                continue
            low, middle, high = (times[name][key] for key in ("25%", "median", "75%"))
            ratio = "" if name == "native" else f"  [bold]{middle / ours:.2f}×[/bold]"
            row.append(f"{middle * 1e3:.3g} ±{50 * (high - low) / middle:.0f}%{ratio}")
        table.add_row(*row)
    return table


def steps_of(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Milliseconds of a training step as rows of a Markdown table: the columns of the README."""
    columns = ("native", "torch", "torch compiled", "jax", "GEMM floor")
    rows = []
    for case, times in results.items():
        if case.startswith("train step "):
            cells = [f"{times[name]['median'] * 1e3:.3g}" if name in times else "-" for name in columns]
            rows.append(f"| {case.removeprefix('train step ').replace(' ', ', ')} | {' | '.join(cells)} |")
    return "\n".join(rows)


def main(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Also write medians and quartiles here; other cases in it stay.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Also print the steps as the README has them.")] = False,
    only: Annotated[str, typer.Option(help="Only cases whose name contains this.")] = "",
    rounds: Annotated[int, typer.Option(help="Turns of each implementation.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of every implementation.")] = os.cpu_count() or 1,
    without: Annotated[list[str] | None, typer.Option(help="Leave out an implementation.")] = None,
) -> None:
    """Measure tinydiff against what a user would pick instead."""
    console = Console()
    left_out = without or []
    workers = {
        name: Worker(module, environment, threads)
        for name, (module, environment) in IMPLEMENTATIONS.items()
        if name not in left_out
    }
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {threads} threads used"
    console.print(f"{machine}; Python {platform.python_version()} on {platform.system()}", highlight=False)
    for name, worker in workers.items():
        console.print(f"  {name:15} {worker.describe}", highlight=False)
    wanted = [case for case in workers["native"].cases if only in case]
    earlier = json.loads(json_file.read_text()) if json_file is not None and json_file.exists() else {}
    for what, here in (("machine", machine), ("threads", threads)):
        if earlier.get(what, here) != here:
            sys.exit(
                f"error: {json_file} has cases measured with {what} {earlier[what]}, not {here}; choose another --json"
            )
    results: dict[str, dict[str, dict[str, float]]] = {}
    with Progress(console=Console(stderr=True)) as progress:
        for case in progress.track(wanted, description="measuring"):
            results[case] = {name: summary(times) for name, times in measure(workers, case, rounds).items()}
            if json_file is not None:
                described = {name: worker.describe for name, worker in workers.items()}
                described = earlier.get("implementations", {}) | described
                json_file.write_text(document(machine, threads, described, earlier.get("seconds", {}) | results))
    names = [name for name in workers if any(name in times for times in results.values())]
    Console(width=max(console.width, 40 + 22 * len(names))).print(table_of(results, names))
    if markdown:
        print(steps_of(results))
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    typer.run(main)
