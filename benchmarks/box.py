"""Make the models in the box: train, log, measure, and write weights and card into tinydiff/box.

    python -m benchmarks.box stories stories_ar prose [--out runs/box]
    python -m benchmarks.box stories --card             # measure what is in the box again

Runs are resumed where they were stopped. Beside the weights, in half precision, stand log.jsonl, the log of the
training, and CARD.md, what the model is and how good. All in the card is measured from what is in the box, but what it
was in single precision, which the last line of the log says.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from tinydiff import Transformer, box, data, decoders, learning
from tinydiff.cli.demo import DECODER, ORDER, new_run, quality
from tinydiff.processes import Autoregressive, MaskedDiffusion

STEPS = {"stories": 10_000, "stories_ar": 4_000, "prose": 5_000}
PIECES = 2048
SAMPLES = 10
ABOUT = {
    "stories": "Masked diffusion on `tinydiff.data.stories`, very short stories from a grammar.",
    "stories_ar": "An autoregressive model of the same size on the same texts as `stories`, to race against it.",
    "prose": "Masked diffusion on `python_prose`, the sentences of Python's language reference and docstrings, in "
    "pieces of words.",
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


def card(name: str, folder: Path) -> str:
    """What the model is, how it was made, how good it is, and ten samples as they come."""
    model, process, codec, config = learning.load(folder)
    assert codec is not None
    corpus: Any = data.load(config["data"]["name"], codec)
    held_out = learning.evaluate(model, process, corpus, windows=4096)
    last = json.loads((folder / "log.jsonl").read_text("utf-8").splitlines()[-1])
    same = learning.evaluate(model, process, corpus, windows=config["training"]["evaluate_windows"])
    size = sum(p.data.size for p in model.params.values())
    lines = [
        f"# {name}", "", ABOUT[name], "",
        f"- {size:,} parameters: {model.layers} layers of {model.d_model}, {model.heads} heads, texts of up to "
        f"{model.length} {codec.unit}s, {codec.vocab_size} of them known",
        f"- trained for {last['step']:,} steps of {config['training']['batch']} texts on {corpus.description}",
        f"- held-out: {held_out.mean:.4f} +- {held_out.error:.4f} bits per character, of which half precision costs "
        f"{round(same.mean - last['held_out'][0], 4) + 0.0:+.4f}",
    ]  # fmt: skip
    rng = np.random.default_rng(0)
    if isinstance(corpus, data.Examples) and isinstance(corpus.law, data.stories.Stories):
        law = corpus.law
        ratio = held_out.per_token * law.length * math.log(2) / law.entropy
        lines.append(
            f"- {held_out.per_token * law.length:.2f} bits per story, {ratio:.3f} of the law's entropy of "
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
    *_, end = process.sample(model, model.length, SAMPLES, decoder=decoder, rng=rng)
    seen = corpus.codec.decode(corpus.train)
    texts = [codec.decode(ids).strip().rstrip(data.stories.EOS) for ids in end.state]
    lines += [f"- {sum(text in seen for text in texts)} of the {SAMPLES} samples below stand in the training text"]
    lines += ["", f"Not for: {NOT_FOR[name]}", "", f"Made by `python -m benchmarks.box {name}`.", "", "## Samples", ""]
    lines += [f"{i + 1}. {' '.join(text.split())}" for i, text in enumerate(texts)]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make those that are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=box.NAMES)
    parser.add_argument("--out", type=Path, default=Path("runs/box"), help="folder of the runs")
    parser.add_argument("--card", action="store_true", help="only measure what is in the box, and write its card")
    parser.add_argument("--box", type=Path, default=box.ROOT, help="folder of the models")
    arguments = parser.parse_args()
    for name in arguments.names:
        folder = arguments.box / name
        if not arguments.card:
            run = begun(name, arguments.out / name)
            for frame in learning.train(run):
                if frame.held_out:
                    print(f"{name} {frame.step}: loss {frame.loss:.3f}, held-out {frame.held_out.mean:.4f}", flush=True)
            box.pack(run, folder)
            shutil.copy(arguments.out / name / "log.jsonl", folder / "log.jsonl")
        (folder / "CARD.md").write_text(card(name, folder), "utf-8")
        print((folder / "CARD.md").read_text("utf-8"))


if __name__ == "__main__":
    main()
