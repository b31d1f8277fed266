"""How well the continuous processes do, in numbers: `python -m benchmarks.continuous toys|score|glyphs`.

Everything is trained by `tinydiff train` with the data's own recipe, into runs/NAME-PROCESS, as far as it is not yet.
"""

import argparse
import os
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import numpy as np

from tinydiff import conditioned, data, load
from tinydiff.data import toys
from tinydiff.decoders import DDIM, ODE
from tinydiff.learning import CheckpointError
from tinydiff.measures import vectors as quality
from tinydiff.processes import FlowMatching

N = 2000  # points in a sample
REAL, GENERATED = 8, 6  # samples of the law, and of the model
WAYS = {  # what to train, by the options of `tinydiff train --process`, and how to sample it
    "ddpm": [DDIM(100), DDIM(100, eta=0.0)],
    "flow": [ODE(10, "heun"), ODE(10, "euler")],
    "flow --pairing optimal": [ODE(10, "heun"), ODE(10, "euler")],
}


def trained(runs: Path, name: str, process: str):
    """The run, trained now as far as it is not: model and process."""
    folder = runs / f"{name}-{process.replace(' --pairing ', '-')}"
    new = ["--data", name, "--process", *process.split(), "--out", folder]
    options = ["--resume", folder] if (folder / "config.json").exists() else new
    cpu = os.times()
    command = [sys.executable, "-m", "tinydiff", "train", *options]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=True)
    seconds = sum(os.times()[2:4]) - sum(cpu[2:4])  # of children, user and system
    said = done.stderr.splitlines()[-1]
    print(f"train {' '.join(map(str, options))}: {seconds:.0f} s of CPU time; {said}", flush=True)
    model, made, _, _ = load(folder)
    return model, made


def print_toys(runs: Path, names: list[str], processes: list[str]) -> None:
    """Energy distance to the law, as a multiple of that between two samples of the law."""
    for name in names:
        real = [toys.points(name, N, np.random.default_rng(100 + i)) for i in range(REAL)]
        floors = [quality.energy_distance(a, b) for a, b in combinations(real, 2)]
        floor = float(np.mean(floors))
        print(f"{name}: floor {floor:.5f}, single pairs {min(floors):.5f} to {max(floors):.5f}", flush=True)
        for process in processes:
            model, made = trained(runs, name, process)
            for decoder in WAYS[process]:
                found = []
                for seed in range(GENERATED):
                    *_, last = made.sample(model, 2, N, decoder=decoder, rng=np.random.default_rng(seed))
                    found.append(np.mean([quality.energy_distance(last.state, x) for x in real]))
                each = ", ".join(f"{x / floor:.2f}" for x in found)
                print(f"  {process} {decoder}: {np.mean(found) / floor:.2f} times the floor ({each})", flush=True)


def print_score(runs: Path) -> None:
    """Cosine between the learned score and the exact one of the Gaussian mixture, where the data are.

    At equal ratios of noise to signal, 0.1 and less small beside the mixture's own 0.15, 10 noise with little else. A
    score is a guess divided by the noise's scale, so that errors of the guess count most where noise is smallest.
    """
    law, rng = toys.ring(), np.random.default_rng(0)
    for name in ("ddpm", "flow"):
        model, process = trained(runs, "mixture", name)
        for ratio in (0.02, 0.1, 0.3, 1.0, 3.0, 10.0):
            x0 = law.sample(N, rng)[:, :, None]
            if isinstance(process, FlowMatching):
                t = ratio / (1 + ratio)
                a, s, at = 1 - t, t, f"t = {t:.3f}"
                x = process.q_sample(x0, np.full(N, t), rng.standard_normal(x0.shape))
                score = process.score(model, x, t)
            else:
                k = int(np.abs(process.alpha_bar[1:] - 1 / (1 + ratio**2)).argmin()) + 1
                a, s, at = np.sqrt(process.alpha_bar[k]), np.sqrt(1 - process.alpha_bar[k]), f"step {k}"
                x = process.q_sample(x0, k, rng.standard_normal(x0.shape))
                score = process.score(model, x, k)
            ours, exact = score[:, :, 0], law.score(x[:, :, 0], a, s)
            cosine = (ours * exact).sum(axis=1) / np.linalg.norm(ours, axis=1) / np.linalg.norm(exact, axis=1)
            print(f"{name}, noise / signal {s / a:.2f} ({at}): mean cosine {cosine.mean():.4f}", flush=True)


def print_glyphs(runs: Path, process: str, each: int, cfg_scale: float, steps: int) -> None:
    """Whether class-conditional samples read as their class, and how near they are to training pictures."""
    glyphs = data.load("glyphs")
    model, made = trained(runs, "glyphs", process)
    read = quality.train_classifier(glyphs.train, glyphs.train_labels, np.random.default_rng(0))
    accuracy = (read(glyphs.held_out) == glyphs.held_out_labels).mean()
    print(f"classifier: {accuracy:.1%} of {len(glyphs.held_out)} glyphs in fonts it has not seen")
    labels = np.repeat(np.arange(glyphs.classes), each)
    told = conditioned(model, labels, cfg_scale)
    decoder = (DDIM if process == "ddpm" else ODE)(steps)
    start = time.perf_counter()
    *_, last = made.sample(told, glyphs.length, len(labels), decoder=decoder, rng=np.random.default_rng(0))
    seconds = time.perf_counter() - start
    right = read(last.state) == labels
    print(f"{process}, {steps} steps, cfg_scale {cfg_scale}: {right.mean():.1%} of {len(labels)} read as their class")
    wrong = {glyphs.class_names[i]: f"{right[labels == i].mean():.0%}" for i in range(glyphs.classes)}
    print("  worst:", dict(sorted(wrong.items(), key=lambda item: int(item[1][:-1]))[:6]), f"({seconds:.0f} s)")
    ours, at = quality.nearest(last.state, glyphs.train)
    theirs, _ = quality.nearest(glyphs.held_out, glyphs.train)
    for name, distances in (("samples", ours), ("unseen fonts", theirs)):
        low, middle = np.quantile(distances, [0.01, 0.5])
        print(f"  nearest training glyph, {name}, r.m.s.: ", end="")
        print(f"least {distances.min():.3f}, 1 % {low:.3f}, median {middle:.3f}")
    exact = np.abs(last.state - glyphs.train[at]).max(axis=(1, 2)) <= 2 / 255
    print(f"  copies: {exact.sum()} exact (no pixel off by more than {2 / 255:.4f}), ", end="")
    print(f"{(ours < theirs.min()).sum()} nearer than any glyph of an unseen font")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["toys", "score", "glyphs"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", nargs="*", default=list(toys.TOYS))
    parser.add_argument("--process", nargs="*", choices=WAYS, help="default all, for glyphs ddpm and flow")
    parser.add_argument("--each", type=int, default=15, help="glyphs of each class")
    parser.add_argument("--cfg-scale", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=25)
    options = parser.parse_args()
    try:
        if options.what == "toys":
            print_toys(options.runs, options.data, options.process or list(WAYS))
        elif options.what == "score":
            print_score(options.runs)
        else:
            for process in options.process or ("ddpm", "flow"):
                print_glyphs(options.runs, process, options.each, options.cfg_scale, options.steps)
    except CheckpointError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
