"""What the decoders cost and what they are worth; processor time on one thread, 95 % bootstrap intervals.

    OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 python -m benchmarks.decoding --sums runs/sums --agreement runs/agreement

Runs made with

    tinydiff train --data sums --out runs/sums --steps 6000 --optimiser adamw --estimator time
    tinydiff train --data agreement --out runs/agreement --steps 1500 --optimiser adamw --estimator time
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tinydiff as td
from benchmarks import cases
from tinydiff import decoders
from tinydiff.arrays import Floats
from tinydiff.measures import texts

V = 103
TEXTS = 800
ORDERS: dict[str, Callable[[int], decoders.Decoder]] = {
    "random": decoders.Random,
    "low_confidence": decoders.LowConfidence,
    "low_confidence, choice_temperature 1": partial(decoders.LowConfidence, choice_temperature=1.0),
    "most_likely": decoders.MostLikely,
}


def arithmetic(batch: int, length: int = 128, turns: int = 60) -> None:
    """A forward pass of model M as a share of what its multiplications take at the speed of a large product."""
    size = replace(cases.SIZES["M"], batch=batch, length=length)
    network = td.Transformer(
        cases.VOCABULARY,
        length,
        d_model=size.d_model,
        layers=size.layers,
        heads=size.heads,
        rng=np.random.default_rng(0),
    )
    products = sum(math.prod(shape) for shape in cases.linear_shapes(size))
    attention = size.layers * batch * 2 * length * length * size.d_model
    x, square = np.zeros((batch, length), dtype=np.int64), np.ones((1024, 1024), np.float32)
    times: dict[str, list[float]] = {"forward": [], "square": []}
    for _ in range(turns):
        for name, call in (("forward", lambda: network(x)), ("square", lambda: td.kernels.matmul(square, square))):
            start = time.perf_counter()
            with td.no_grad():
                call()
            times[name].append(time.perf_counter() - start)
    spent, rate = np.median(times["forward"]), 1024**3 / np.median(times["square"])
    together = products + attention
    print(
        f"forward M, length {length}, batch {batch}: {1e3 * spent:.2f} ms for {together / 1e6:.0f} million "
        f"multiply-adds, {attention / together:.0%} of them of attention; a large product does as many in "
        f"{together / rate / spent:.0%} of this time"
    )


def seconds(network: Any, process: Any, length: int, batch: int, decoder: decoders.Decoder) -> tuple[float, float]:
    """Processor time of generating, and the part of it that the network takes."""
    inside = 0.0

    def timed(*arguments: Any, **named: Any) -> td.Tensor:
        nonlocal inside
        start = time.process_time()
        answer: td.Tensor = network(*arguments, **named)
        inside += time.process_time() - start
        return answer

    start = time.process_time()
    for _ in process.sample(timed, length, batch, decoder=decoder, rng=np.random.default_rng(0)):
        pass
    return time.process_time() - start, inside


def overhead(batch: int) -> None:
    """The decoder's own share, model M at length 128."""
    network = td.Transformer(V, 128, d_model=128, layers=4, heads=4, rng=np.random.default_rng(0))
    turns = max(3, 96 // batch)
    print(f"overhead beyond the network, size M, length 128, batch {batch}, 8 steps (median of {turns})")
    for kind in (
        decoders.LowConfidence, decoders.MostLikely, decoders.Entropy, decoders.Margin, decoders.Random,
        decoders.LeftToRight, decoders.RemaskCap,
    ):  # fmt: skip
        runs = [seconds(network, td.MaskedDiffusion(V), 128, batch, kind(8)) for _ in range(turns)]
        share = np.median([total / inside - 1 for total, inside in runs])
        inside = np.median([inside for _, inside in runs])
        print(f"  {kind.__name__:16} {100 * share:4.1f} %  (network {1e3 * inside / 8:.2f} ms per step)")


def cache() -> None:
    """Autoregressive generation with kept keys and values against reading everything again, length 256."""
    network = td.Transformer(V, 256, d_model=128, layers=4, heads=4, rng=np.random.default_rng(0))
    process = td.Autoregressive(V)
    for batch in (1, 8):
        spent = []
        for kept in (True, False):
            start = time.process_time()
            decoder = decoders.NextToken(cache=kept)
            for _ in process.sample(network, 256, batch, decoder=decoder, rng=np.random.default_rng(0)):
                pass
            spent.append(time.process_time() - start)
        print(f"cache, size M, length 256, batch {batch}: {spent[0]:.2f} s against {spent[1]:.2f} s, "
              f"{spent[1] / spent[0]:.1f} times faster")  # fmt: skip


def orders(run: Path, counts: tuple[int, ...], what: str, **known: Any) -> None:
    """The orders that ask the model against random at equal steps, and the most steps against the fewest."""
    model, process, _, config = td.load(run)
    law = td.data.LAWS[config["data"]["name"]]()
    scores: dict[str, list[Floats]] = {order: [] for order in ORDERS}
    print(what)
    for steps in counts:
        for number, (order, kind) in enumerate(ORDERS.items()):
            rng = np.random.default_rng([1, steps, number])
            *_, last = process.sample(model, law.length, TEXTS, decoder=kind(steps), rng=rng, **known)
            valid = law.log_p(last.state) > -np.inf
            scores[order].append(valid.astype(float))
            line = (
                f"  {steps:3} steps, {order:37} {valid.mean():.3f}, {len(np.unique(last.state[valid], axis=0)):3} kinds"
            )
            if order != "random":
                line += "; more than random by " + interval(scores[order][-1], scores["random"][-1])
            print(line)
    for order, found in scores.items():
        print(f"  {order}: {counts[-1]} steps over {counts[0]} by {interval(found[-1], found[0])}")


def interval(a: Floats, b: Floats) -> str:
    """The difference of two means with its interval."""
    middle, low, high = texts.difference(a, b, np.random.default_rng(0))
    return f"{middle:+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sums", type=Path)
    parser.add_argument("--agreement", type=Path)
    arguments = parser.parse_args()
    for batch in (1, 32):
        overhead(batch)
        arithmetic(batch)
    cache()
    if arguments.agreement:
        orders(arguments.agreement, (5, 10, 20, 40), "agreement: share of valid sentences")
    if arguments.sums:
        corpus = td.data.load("sums")
        asked = {"x0": corpus.held_out.reshape(-1, 9)[:TEXTS], "given": np.arange(9) < 6}
        orders(arguments.sums, (1, 2, 3), "sums: share of right answers to held-out questions, 17+25=...", **asked)
        orders(arguments.sums, (1, 3, 6, 9), "sums: share of valid sums, written from nothing")


if __name__ == "__main__":
    main()
