"""How the time of a step falls with ranks: `python -m benchmarks.ranks --measure --out docs/ranks.png`.

Measured here: one rank of one thread, one of two, and two of one each, in turns, at three sizes. With two shards they
all train to the same bits.

On paper, for more ranks than there are here. A step of R ranks, S shards and P parameters takes

    S/R shards' products                         FLOPs / rate of a rank
    + draws of the whole batch, on every rank    seconds per token, as measured here
    + passes over P numbers, and over P / R      bytes / bandwidth of memory; Muon's products, whole matrices per rank
    + alltoallv                                  (R - 1) latencies + (S/R) 4P bytes (R - 1)/R / bandwidth
    + two allgatherv and two short messages      4 log2(R) latencies + 8P bytes (R - 1)/R / bandwidth

The factor S/R is the price of the order of the sum: each shard's gradient travels, where a library would add up first.
The figure has S = R; S = 256 for every R is printed beside it.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks import cases, growth
from benchmarks.ours import describe
from tinydiff import MaskedDiffusion, Options, Run, Transformer, data, train
from tinydiff.learning.ranks import launched

RESULTS = Path(__file__).with_name("ranks.json")
SETTINGS = {
    "1 rank of 1 thread": (1, 1, 2),
    "1 rank of 2, one shard": (1, 2, 1),
    "1 rank of 2": (1, 2, 2),
    "2 ranks of 1": (2, 1, 2),
}
"""Ranks, threads of each, shards: two shards, and so the same bits, in all but the second."""
STEPS = {"S": 60, "M": 12, "L": 6}  # timed, per turn
TURNS = 3


def new_run(size: cases.Size, shards: int) -> Run:
    """Masked diffusion on `python_docs` with Muon, as `tinydiff train` would make it."""
    corpus = data.load("python_docs")
    model = Transformer(
        corpus.vocab_size, size.length, d_model=size.d_model, layers=size.layers, heads=size.heads, positions="both",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    options = Options(steps=10**6, batch=size.batch, optimiser="muon", evaluate_every=10**9, shards=shards)
    return Run(corpus, MaskedDiffusion(corpus.vocab_size), model, options)


def worker(name: str, shards: int) -> None:
    """Under mpiexec: the seconds of some steps, and of their draws; rank 0 prints them."""
    ranks, size = launched(), cases.SIZES[name]
    run = new_run(size, shards)
    frames, taken = train(run, ranks), []
    for _ in range(3):
        next(frames)
    for _ in range(STEPS[name]):
        start = time.perf_counter()
        next(frames)
        taken.append(time.perf_counter() - start)
    drawn = []
    for _ in range(20):
        start = time.perf_counter()
        run.process.draw(run.corpus.examples(size.length, size.batch, run.rng), run.rng)
        drawn.append(time.perf_counter() - start)
    frames.close()
    if ranks.rank == 0:
        print(json.dumps({"steps": taken, "draws": drawn, "parameters": run.optimiser.flat.values.size}))


def measure() -> dict[str, dict[str, dict[str, float]]]:
    """Median and quartiles of a step in seconds, by size and setting; of draws, and the number of parameters."""
    mpiexec = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if mpiexec is None:
        raise FileNotFoundError("mpiexec is missing; install it: pip install mpi4py mpich")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in cases.SIZES:
        taken: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
        for _ in range(TURNS):
            for setting, (ranks, threads, shards) in SETTINGS.items():
                command = [mpiexec, "-n", str(ranks), sys.executable, "-m", "benchmarks.ranks"]
                command += ["--worker", name, "--shards", str(shards)]
                environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
                answer = json.loads(subprocess.run(command, env=environment, check=True, capture_output=True).stdout)
                taken[setting] += answer["steps"]
        found[name] = {
            setting: dict(zip(("low", "median", "high"), np.percentile(times, [25, 50, 75]).tolist(), strict=True))
            for setting, times in taken.items()
        }
        found[name]["of it"] = {"draws": float(np.median(answer["draws"])), "parameters": answer["parameters"]}
        print(name, *(f"{s}: {t['median'] * 1e3:.1f} ms" for s, t in found[name].items() if "median" in t), sep="; ")
    return found


# --- on paper ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """What lies between two ranks: seconds until the first byte, bytes per second."""

    name: str
    latency: float
    bandwidth: float


NETWORKS = (
    Network("InfiniBand, 2 us, 25 GB/s", 2e-6, 25e9),
    Network("10 Gbit/s, 20 us", 20e-6, 1.25e9),
    Network("1 Gbit/s, 50 us", 50e-6, 0.125e9),
)
MEMORY = 20e9  # bytes per second
MOST = 256  # ranks, and sequences of a batch
SMALL, LARGE = cases.Size(128, 4, 4, 128, MOST), cases.Size(512, 12, 8, 512, MOST)


def parameters(size: cases.Size) -> int:
    """Those of the blocks' matrices, of the embedding and of the head."""
    return 12 * size.layers * size.d_model**2 + 2 * cases.VOCABULARY * size.d_model


def muon(d: int) -> list[int]:
    """FLOPs that make one block's matrices orthogonal, five iterations each: q, k, v, out, up and down."""
    return [2 * 5 * (2 * d * d * n + d**3) for n in (d, d, d, d, 4 * d, 4 * d)]


def step_seconds(size: cases.Size, ranks: int, shards: int, network: Network, rate: float, draw: float) -> float:
    """A step of that many ranks.

    Parameters
    ----------
    rate : FLOP/s of a rank
    draw : seconds per token

    """
    numbers, share = 4 * parameters(size), (ranks - 1) / ranks  # bytes of a gradient
    products = 2 * growth.multiply_adds(size) * math.ceil(shards / ranks) / shards / rate
    matrices = muon(size.d_model)
    update = max(size.layers * sum(matrices) / ranks, max(matrices)) / rate
    passes = (3 * numbers + 9 * numbers / ranks + 2 * numbers * math.ceil(shards / ranks)) / MEMORY
    sent = (math.ceil(shards / ranks) + 2) * numbers * share / network.bandwidth if ranks > 1 else 0.0
    waited = (ranks - 1 + 4 * math.log2(ranks)) * network.latency
    return products + size.batch * size.length * draw + update + passes + sent + waited


def pays(size: cases.Size, network: Network, rate: float, draw: float) -> int:
    """The most ranks, of powers of two, that are at work for half of the time at least: speed-up >= R / 2."""
    alone = step_seconds(size, 1, 1, network, rate, draw)
    counts = [2**i for i in range(int(math.log2(MOST)) + 1)]
    return max(r for r in counts if alone / step_seconds(size, r, r, network, rate, draw) >= r / 2)


def draw_figure(found: dict[str, dict[str, dict[str, float]]], cores: int, out: Path) -> None:
    """Left what was measured, right what follows on paper."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 16, "axes.spines.top": False, "axes.spines.right": False})
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(15, 7), layout="constrained", gridspec_kw={"width_ratios": [1, 1.35]}
    )
    colours = ("#999999", "#F0C674", "#E69F00", "#0072B2")
    for i, (setting, colour) in enumerate(zip(SETTINGS, colours, strict=True)):
        times = [found[name][setting] for name in cases.SIZES]
        base = np.array([found[name]["1 rank of 1 thread"]["median"] for name in cases.SIZES])
        middle, low, high = (base / [each[key] for each in times] for key in ("median", "high", "low"))
        x = np.arange(len(times)) + (i - 1.5) * 0.21
        left.bar(x, middle, 0.2, color=colour, label=setting)
        left.errorbar(x, middle, [middle - low, high - middle], fmt="none", color="black", lw=2)
    left.set_xticks(
        range(len(cases.SIZES)),
        [f"{n}\n{found[n]['1 rank of 1 thread']['median'] * 1e3:.0f} ms" for n in cases.SIZES],
    )
    left.set(ylabel="times as fast as one thread", title="measured, two cores", ylim=(0, 3))
    left.axhline(2, color="#777777", ls=":")
    left.legend(frameon=False, loc="upper left")

    rate, draw = paper(found, cores)
    counts = 2 ** np.arange(int(math.log2(MOST)) + 1)
    right.plot(counts, counts, ":", color="#777777", label="R times as fast")
    for size, style in ((LARGE, "-"), (SMALL, "--")):
        for network, colour in zip(NETWORKS, ("#0072B2", "#E69F00", "#D55E00"), strict=True):
            alone = step_seconds(size, 1, 1, network, rate, draw)
            speed = [alone / step_seconds(size, int(r), int(r), network, rate, draw) for r in counts]
            label = network.name if size is LARGE else None
            right.plot(counts, speed, style, color=colour, lw=3, label=label)
            last = pays(size, network, rate, draw)
            right.plot(last, speed[int(math.log2(last))], "o", color=colour, markersize=11)
    right.plot([], [], "-", color="black", lw=3, label=f"d {LARGE.d_model}, {LARGE.layers} layers, L {LARGE.length}")
    right.plot([], [], "--", color="black", lw=3, label=f"d {SMALL.d_model}, {SMALL.layers} layers, L {SMALL.length}")
    right.plot([], [], "o", color="black", markersize=11, label="beyond, more than half is waiting")
    right.set(
        xscale="log", yscale="log", xlabel=f"ranks of {cores} cores", ylabel="times as fast as one rank",
        title=f"on paper: {MOST} sequences, a shard for each rank", ylim=(0.8, 400),
    )  # fmt: skip
    right.set_xticks(counts, [str(n) for n in counts])
    right.set_yticks([1, 4, 16, 64, 256], ["1", "4", "16", "64", "256"])
    right.minorticks_off()
    right.grid(alpha=0.3)
    right.legend(frameon=False, loc="upper left", fontsize=13)
    figure.savefig(out, dpi=80)


def paper(found: dict[str, dict[str, dict[str, float]]], cores: int) -> tuple[float, float]:
    """FLOP/s of a rank of that many cores, each as fast as one here at size M, and seconds to draw a token."""
    size, measured = cases.SIZES["M"], found["M"]
    rate = cores * 2 * growth.multiply_adds(size) / measured["1 rank of 1 thread"]["median"]
    return rate, measured["of it"]["draws"] / (size.batch * size.length)


def main(
    out: Annotated[Path, typer.Option(help="The figure, a PNG.")] = Path("docs/ranks.png"),
    cores: Annotated[int, typer.Option(help="On paper: of each rank.")] = 16,
    again: Annotated[bool, typer.Option("--measure", help="Measure; else benchmarks/ranks.json is drawn.")] = False,
    of: Annotated[str, typer.Option("--worker", hidden=True)] = "",
    shards: Annotated[int, typer.Option(hidden=True)] = 2,
) -> None:
    """Measure a step on one and two ranks, and draw it beside what more of them would take."""
    if of:
        worker(of, shards)
        return
    if again:
        RESULTS.write_text(json.dumps({"machine": describe(), "sizes": measure()}, indent=1) + "\n")
    found = json.loads(RESULTS.read_text())["sizes"]
    rate, draw = paper(found, cores)
    print(f"on paper: {rate / 1e9:.0f} GFLOP/s per rank of {cores} cores; {draw * 1e9:.0f} ns to draw a token")
    for size in (SMALL, LARGE):
        print(f"d {size.d_model}, {parameters(size) / 1e6:.1f} M parameters, {MOST} sequences of {size.length}")
        for network in NETWORKS:
            seconds = {r: step_seconds(size, r, r, network, rate, draw) for r in (1, 16, MOST)}
            whole = step_seconds(size, 16, MOST, network, rate, draw)
            print(
                f"  {network.name}: {', '.join(f'R = {r}: {s * 1e3:.1f} ms' for r, s in seconds.items())}; "
                f"up to {pays(size, network, rate, draw)} are at work for half of the time or more; "
                f"R = 16 with {MOST} shards: {whole * 1e3:.1f} ms"
            )
    draw_figure(found, cores, out)


if __name__ == "__main__":
    typer.run(main)
