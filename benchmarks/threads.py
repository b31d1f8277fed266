"""Whose threads run the kernels faster, OpenMP's or the team's? `python -m benchmarks.threads [--only TEXT]`.

Both run in processes of their own and take turns, as in `python -m benchmarks`; first with the machine to themselves,
then beside a process that keeps one core busy, as in class. The table gives medians in milliseconds, half the
interquartile range in per cent, and how many times as long as OpenMP the team took.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from tinydiff.kernels.threads import usable_cores

from .__main__ import Worker, measure, summary

POOLS = ("openmp", "team")
CASES = ("train step", "attention", "forward", "layer_norm")


@contextmanager
def neighbours(count: int) -> Iterator[None]:
    """So many other processes that never rest."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def main(
    only: Annotated[str, typer.Option(help="Only cases whose name contains this.")] = "",
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 7,
    threads: Annotated[int, typer.Option(help="Threads of each.")] = usable_cores(),
) -> None:
    """Measure OpenMP's threads against the team's."""
    workers = {
        pool: Worker("ours", {"TINYDIFF_KERNELS": "native", "TINYDIFF_THREADS": pool}, threads) for pool in POOLS
    }
    console = Console()
    for worker in workers.values():
        console.print(worker.describe, highlight=False)
    wanted = [case for case in workers["openmp"].cases if case.startswith(CASES) and only in case]
    for lent in (0, 1):
        title = "one core lent to somebody else" if lent else "the machine to themselves"
        table = Table("case", *POOLS, "team / openmp", title=f"milliseconds, {title}")
        with neighbours(lent):
            for case in wanted:
                times = {pool: summary(seconds) for pool, seconds in measure(workers, case, rounds).items()}
                spread = {pool: 50 * (t["75%"] - t["25%"]) / t["median"] for pool, t in times.items()}
                cells = [f"{times[pool]['median'] * 1e3:.3g} ±{spread[pool]:.0f}%" for pool in POOLS]
                table.add_row(case, *cells, f"{times['team']['median'] / times['openmp']['median']:.3f}")
        console.print(table)
    for worker in workers.values():
        worker.close()


if __name__ == "__main__":
    typer.run(main)
