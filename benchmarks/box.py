"""Make the models in the box: train, log, measure, and write weights and card into tinydiff/box.

    python -m benchmarks.box stories stories_ar prose [--out runs/box]

Runs are resumed where they were stopped. Beside the weights, in half precision, stand CARD.md, what the model is and
how good, with its figures from single and from half precision; and log.jsonl, the log of its training.
"""

from __future__ import annotations

import argparse
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tinydiff import Transformer, box, data, decoders, learning
from tinydiff.cli.demo import DECODER, ORDER, new_run, quality
from tinydiff.processes import Autoregressive, MaskedDiffusion

STEPS = {"stories": 10_000, "stories_ar": 4_000, "prose": 2_000}
PIECES = 2048
SAMPLES = 10
ABOUT = {
    "stories": "Masked diffusion on `tinydiff.data.stories`, very short stories from a grammar.",
    "stories_ar": "An autoregressive model of the same size on the same texts as `stories`, to race against it.",
    "prose": "Masked diffusion on `python_prose`, the sentences of Python's language reference, in pieces of words.",
}
NOT_FOR = {
    "stories": "Nothing but the words of the grammar, and texts of its length.",
    "stories_ar": "Nothing but the words of the grammar; it cannot fill in gaps.",
    "prose": "It sounds like documentation and is not: what it says about Python is made up.",
}


def prose(folder: Path) -> learning.Run:
    """A run on sentences of the documentation in pieces, somewhat larger."""
    text = data.python_prose()
    corpus = data.Corpus("python_prose", text, data.Pieces.of(text, PIECES))
    model = Transformer(
        corpus.vocab_size, 64, d_model=128, layers=3, heads=4, rng=np.random.default_rng(0)
    )  # fmt: skip
    options = learning.Options(
        steps=STEPS["prose"], batch=32, optimiser="muon", lr=0.01, weight_decay=0.1, evaluate_every=250,
        evaluate_windows=512,
    )  # fmt: skip
    return learning.Run(corpus, MaskedDiffusion(corpus.vocab_size, estimator="count"), model, options, folder)


def begun(name: str, folder: Path) -> learning.Run:
    """The run of a model, new or where it was stopped."""
    if (folder / "config.json").exists():
        return learning.Run.resume(folder)
    if name == "prose":
        return prose(folder)
    options: dict[str, Any] = {} if name == "stories" else {"seed": 1}
    return new_run(folder, STEPS[name], "masked" if name == "stories" else "autoregressive", **options)


def card(name: str, run: learning.Run, folder: Path) -> str:
    """What the model is, how it was made, how good it is, and ten samples as they come."""
    model, process, codec, config = learning.load(folder)
    assert codec is not None
    full = learning.evaluate(run.averaged(), run.process, run.corpus, windows=4096)
    half = learning.evaluate(model, run.process, run.corpus, windows=4096)
    size = sum(p.data.size for p in model.params.values())
    lines = [
        f"# {name}", "", ABOUT[name], "",
        f"- {size:,} parameters: {model.layers} layers of {model.d_model}, {model.heads} heads, texts of up to "
        f"{model.length} {codec.unit}s, {codec.vocab_size} of them known",
        f"- trained for {run.step:,} steps of {config['training']['batch']} texts on {run.corpus.description}",
        f"- held-out: {half.mean:.4f} +- {half.error:.4f} bits per character, of which half precision costs "
        f"{half.mean - full.mean:+.5f}",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    if isinstance(run.corpus, data.Examples) and isinstance(run.corpus.law, data.stories.Stories):
        law = run.corpus.law
        ratio = half.per_token * law.length * math.log(2) / law.entropy
        lines.append(
            f"- {half.per_token * law.length:.2f} bits per story, {ratio:.3f} of the law's entropy of "
            f"{law.entropy / math.log(2):.2f}"
        )
        if isinstance(process, MaskedDiffusion):
            for way, named in ((ORDER, "`tinydiff sample`"), (DECODER, f"`--rounds {DECODER.rounds}`")):
                found = quality(model, process, law, way, 2000)
                lines.append(
                    f"- of 2,000 samples of {named} {100 * found.valid:.1f} % keep every rule; those have "
                    f"{found.variety:.3f} of the law's entropy, and {100 * found.different:.1f} % of them are different"
                )
    decoder: decoders.Decoder = ORDER  # what `tinydiff sample` takes
    if isinstance(process, Autoregressive):
        decoder = decoders.NextToken(draw=decoders.Draw(0.7))
    *_, last = process.sample(model, model.length, SAMPLES, decoder=decoder, rng=rng)
    seen = run.corpus.codec.decode(run.corpus.train)
    texts = [codec.decode(ids).strip().rstrip(data.stories.EOS) for ids in last.state]
    lines += [f"- {sum(text in seen for text in texts)} of the {SAMPLES} samples below stand in the training text"]
    lines += ["", f"Not for: {NOT_FOR[name]}", "", f"Made by `python -m benchmarks.box {name}`.", "", "## Samples", ""]
    lines += [f"{i + 1}. {' '.join(text.split())}" for i, text in enumerate(texts)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=box.NAMES)
    parser.add_argument("--out", type=Path, default=Path("runs/box"), help="folder of the runs")
    parser.add_argument("--box", type=Path, default=box.ROOT, help="folder of the models")
    arguments = parser.parse_args()
    for name in arguments.names:
        run = begun(name, arguments.out / name)
        for frame in learning.train(run):
            if frame.held_out:
                print(f"{name} {frame.step}: loss {frame.loss:.3f}, held-out {frame.held_out.mean:.4f}", flush=True)
        folder = arguments.box / name
        box.pack(run, folder)
        (folder / "CARD.md").write_text(card(name, run, folder), "utf-8")
        shutil.copy(arguments.out / name / "log.jsonl", folder / "log.jsonl")
        print((folder / "CARD.md").read_text("utf-8"))


if __name__ == "__main__":
    main()
