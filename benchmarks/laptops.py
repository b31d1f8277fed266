"""What a training step would take on more cores: `python -m benchmarks.laptops`.

Every kernel is timed on one thread and on two, taking turns. What the second does not shorten is taken not to shrink
with more (Amdahl 1967), waiting for memory and the handing out of tasks included; nor does what is outside kernels. The
rest is divided by the number of cores. So the clock is taken to stay as it is, and every core to be as fast as every
other: a laptop that lowers its clock when all cores work, or has slower ones among them, gets less.

`python -m benchmarks --only "train step"` measures narrower instruction sets, and NumPy alone, as without a compiler.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from benchmarks import cases, ours
from tinydiff import kernels, ops

STEPS: tuple[tuple[str, ops.Precision], ...] = (("S", "full"), ("M", "full"), ("L", "full"), ("L", "bfloat16"))
CORES = (1, 2, 4, 8)
ELSEWHERE = "outside kernels"


@contextmanager
def timed_kernels(spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds inside each kernel."""
    plain = {name: getattr(kernels, name) for name in kernels.KERNELS}

    def watched(name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            answer = plain[name](*arguments, **named)
            spent[name] += time.perf_counter() - start
            return answer

        return call

    try:
        for name in plain:
            setattr(kernels, name, watched(name))
        yield
    finally:
        for name, kernel in plain.items():
            setattr(kernels, name, kernel)


def parts_of(step: Callable[[], object]) -> dict[str, float]:
    """Seconds of one step in each kernel and elsewhere."""
    spent: dict[str, float] = defaultdict(float)
    with timed_kernels(spent):
        start = time.perf_counter()
        step()
        total = time.perf_counter() - start
    return spent | {ELSEWHERE: total - sum(spent.values())}


def by_threads(step: Callable[[], object], seconds: float) -> dict[int, dict[str, float]]:
    """Median seconds of every part on one thread and on two, taking turns."""
    native = kernels.native
    assert native is not None
    found: dict[int, dict[str, list[float]]] = {n: defaultdict(list) for n in (1, 2)}
    most, end = native.threads(), time.perf_counter() + seconds
    while time.perf_counter() < end:
        for threads, parts in found.items():
            native.set_threads(threads)
            step()  # whoever ran before has filled the caches
            for name, spent in parts_of(step).items():
                parts[name].append(spent)
    native.set_threads(most)
    return {n: {name: float(np.median(spent)) for name, spent in parts.items()} for n, parts in found.items()}


def on_cores(cores: int, found: dict[int, dict[str, float]]) -> float:
    """Seconds of a step: the time of each part is a + b / cores, through what one and two threads took."""
    total = 0.0
    for name, one in found[1].items():
        b = 0.0 if name == ELSEWHERE else min(one, max(0.0, 2 * (one - found[2][name])))
        total += one - b + b / cores
    return total


def main(seconds: Annotated[float, typer.Option(help="How long to time the kernels of each step.")] = 15) -> None:
    """Time every kernel on one thread and on two, and extrapolate to more."""
    console = Console()
    if kernels.active() != "native":
        console.print("No native kernels here: nothing to extrapolate from.")
        return
    console.print(ours.describe(), highlight=False)
    for size, precision in STEPS:
        if precision == "bfloat16" and not kernels.has_bfloat16():
            continue
        what = f"size {size}" + (", bfloat16" if precision == "bfloat16" else "")
        found = by_threads(ours.train_step(cases.SIZES[size], precision), seconds)
        one = sum(found[1].values())
        table = Table("part", "1 thread, ms", "2 threads", "of 1 thread", title=f"a step, {what}")
        for name in sorted(found[1], key=lambda name: -found[1][name]):
            a, b = found[1][name], found[2][name]
            table.add_row(name, f"{a * 1e3:.2f}", f"{b * 1e3:.2f}", f"{a / one:.1%}")
        console.print(table)
        line = ", ".join(
            f"{n} cores {on_cores(n, found) * 1e3:.3g} ms ({one / on_cores(n, found):.2f}×)" for n in CORES
        )
        console.print(f"{what}: measured on 2 {sum(found[2].values()) * 1e3:.3g} ms; extrapolated: {line}")


if __name__ == "__main__":
    typer.run(main)
