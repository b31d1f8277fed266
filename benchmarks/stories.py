"""Quality against variety on stories: which decoder and which options the demo should have.

    python -m benchmarks.stories RUN [--texts 500]

One row per decoder: the share of valid stories, and how varied they are: the entropy of their choices over that of as
many real ones. A decoder is on the frontier if none is better in both.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tinydiff import box, decoders, learning
from tinydiff.cli.demo import quality
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
    found["Ancestral in 180 steps"] = decoders.Ancestral(steps=180)
    found["RemaskCap 0.1 in 180 steps"] = decoders.RemaskCap(steps=180, eta=0.1)
    return found


def main() -> None:
    """Measure them all and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a masked run on stories, or a model in the box")
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--out", type=Path, help="also write the rows to this JSON file")
    arguments = parser.parse_args()
    model, process, _, _ = learning.load(box.found(arguments.run))
    assert isinstance(process, MaskedDiffusion)
    rows = []
    for name, decoder in candidates().items():
        found = quality(model, process, STORIES, decoder, arguments.texts)
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
