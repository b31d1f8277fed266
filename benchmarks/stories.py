"""Quality against variety on stories: which decoder and which options the demo should have.

    python -m benchmarks.stories RUN [--texts 500]      # all decoders
    python -m benchmarks.stories --demo 3               # the demo itself: trained with three seeds, its decoder

One row per decoder: the share of valid stories, and how varied they are: the entropy of their choices over that of as
many real ones. A decoder is on the frontier if none is better in both.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

from tinydiff import box, decoders, learning
from tinydiff.cli import demo
from tinydiff.data.stories import STORIES
from tinydiff.processes import MaskedDiffusion


def candidates() -> dict[str, decoders.Decoder]:
    """Orders, temperatures and noises."""
    found: dict[str, decoders.Decoder] = {}
    for t in (1.0, 0.7, 0.5, 0.3):
        draw = decoders.Draw(t)
        found[f"Random, T {t}"] = decoders.Random(draw=draw)
        for noise in (0.0, 1.0, 1.5, 4.0, 8.0):
            for kind in (decoders.LowConfidence, decoders.Entropy):
                found[f"{kind.__name__}, T {t}, noise {noise:g}"] = kind(draw=draw, choice_temperature=noise)
    for noise in (1.5, 3.0, 8.0):
        for rounds in (0, 2, 4, 6):
            order = decoders.LowConfidence(draw=decoders.Draw(0.7), choice_temperature=noise)
            found[f"T 0.7, noise {noise:g}, {rounds} rounds"] = decoders.Gibbs(order, rounds)
    found["Ancestral in 180 steps"] = decoders.Ancestral(steps=180)
    found["RemaskCap 0.1 in 180 steps"] = decoders.RemaskCap(steps=180, eta=0.1)
    return found


def demos(seeds: int, texts: int, out: Path) -> None:
    """Train the demo with each seed, or go on with it, and say how good its decoder is, with and without rounds."""
    for seed in range(seeds):
        folder = out / f"demo-{seed}"
        known = (folder / "config.json").exists()
        run = learning.Run.resume(folder) if known else demo.new_run(folder, seed=seed)
        start = time.perf_counter()
        for _ in learning.train(run):
            pass
        seconds = time.perf_counter() - start
        bound = learning.evaluate(run.averaged(), run.process, run.corpus, windows=4096).per_token
        ratio = bound * STORIES.length * math.log(2) / STORIES.entropy
        for name, decoder in (("the demo's", demo.DECODER), ("without rounds", demo.ORDER)):
            found = demo.quality(run.averaged(), run.process, STORIES, decoder, texts)
            error = math.sqrt(found.valid * (1 - found.valid) / texts)
            print(
                f"seed {seed}, {seconds:.0f} s, {ratio:.3f} of the best: {name:14} valid {found.valid:.3f} +- "
                f"{error:.3f}  variety {found.variety:.3f}  different {found.different:.3f}", flush=True,
            )  # fmt: skip


def main() -> None:
    """Measure them all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, nargs="?", default="stories", help="a masked run on stories, or in the box")
    parser.add_argument("--demo", type=int, metavar="SEEDS", help="train and measure the demo with so many seeds")
    parser.add_argument("--runs", type=Path, default=Path("runs/stories"), help="folder of those")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--out", type=Path, help="also write the rows to this JSON file")
    arguments = parser.parse_args()
    if arguments.demo:
        demos(arguments.demo, arguments.texts, arguments.runs)
        return
    model, process, _, _ = learning.load(box.found(arguments.run))
    assert isinstance(process, MaskedDiffusion)
    rows = []
    for name, decoder in candidates().items():
        found = demo.quality(model, process, STORIES, decoder, arguments.texts)
        rows.append((name, found.valid, found.variety, dict(found.broken.most_common())))
        print(f"{name:34} valid {found.valid:.3f}  variety {found.variety:.3f}  {rows[-1][3]}", flush=True)
        if arguments.out:
            arguments.out.write_text(json.dumps(rows, indent=1) + "\n")
    print("\non the frontier:")
    for name, valid, variety, _ in sorted(rows, key=lambda row: row[1]):
        if not any(v >= valid and w >= variety and (v, w) != (valid, variety) for _, v, w, _ in rows):
            print(f"{name:34} valid {valid:.3f}  variety {variety:.3f}")


if __name__ == "__main__":
    main()
