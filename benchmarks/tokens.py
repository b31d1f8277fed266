"""What a token should be, at equal CPU time: `python -m benchmarks.tokens --text FILE --seconds 120`.

The same network (width 64, two layers) learns one text in characters, words and pieces of 512, 1,024 and 2,048, each
for the same CPU time and with windows of about as many characters, so that all see as much context. Bits per
character compare them: a token stands for several characters, and has to say more. Prints a table and a text of
each, and writes both as JSON with --out.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from tinydiff import MaskedDiffusion, Options, Run, Transformer, data, decoders, evaluate, train
from tinydiff.learning.files import write_atomically

CODECS: tuple[tuple[data.Tokens, int | None], ...] = (
    ("characters", None), ("words", 2048), ("pieces", 512), ("pieces", 1024), ("pieces", 2048),
)  # fmt: skip
CHARACTERS = 128  # that a window stands for, about
D_MODEL, LAYERS, HEADS, BATCH = 64, 2, 4, 32
PROBE = 20  # steps whose CPU time says how many fit


def measured(corpus: data.Corpus, seconds: float, seed: int) -> dict[str, Any]:
    """A row of the table."""
    per_token = len(corpus.text) / len(corpus.ids)
    length = max(8, round(CHARACTERS / per_token))

    def new_run(steps: int) -> Run:
        model = Transformer(
            corpus.vocab_size, length, d_model=D_MODEL, layers=LAYERS, heads=HEADS, rng=np.random.default_rng(seed)
        )
        options = Options(steps=steps, batch=BATCH, seed=seed, warmup=min(100, steps), evaluate_every=steps)
        return Run(corpus, MaskedDiffusion(corpus.vocab_size), model, options)

    start = 0.0
    for frame in train(new_run(PROBE + 5)):
        if frame.step == 5:
            start = time.process_time()
        if frame.step == PROBE + 4:  # the last one also evaluates
            break
    steps = max(1, round(seconds / ((time.process_time() - start) / (PROBE - 1))))
    run = new_run(steps)
    start = time.process_time()
    for _ in train(run):
        pass
    spent = time.process_time() - start
    model = run.averaged()
    held_out = evaluate(model, run.process, corpus, windows=3840)
    decoder = decoders.LowConfidence(choice_temperature=4.0)
    *_, last = run.process.sample(model, length, decoder=decoder, rng=np.random.default_rng(seed))
    return {
        "tokens": corpus.codec.unit + "s", "vocab": corpus.vocab_size, "characters per token": round(per_token, 2),
        "length": length, "steps": steps, "cpu seconds": round(spent), "bits per character": held_out.mean,
        "error": held_out.error, "bits per token": held_out.per_token, "sample": corpus.codec.decode(last.state[0]),
    }  # fmt: skip


def main(
    text: Annotated[str, typer.Option(help="A corpus or the path of a text.")] = "python_docs",
    seconds: Annotated[float, typer.Option(help="Of CPU time for each.")] = 120.0,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Write the rows as JSON.")] = None,
) -> None:
    """Compare codecs."""
    console, rows = Console(), []
    table = Table(title=f"{text}, {seconds:g} s of CPU time each")
    for name in ("tokens", "vocab", "characters per token", "length", "steps", "bits per character", "bits per token"):
        table.add_column(name, justify="left" if name == "tokens" else "right")
    for tokens, vocab in CODECS:
        try:
            corpus = data.load(text, tokens=tokens, vocab=vocab)
        except ValueError as error:  # more tokens than the text has
            console.print(f"{tokens}, {vocab}: {error}")
            continue
        assert isinstance(corpus, data.Corpus)
        row = measured(corpus, seconds, seed)
        rows.append(row)
        table.add_row(
            row["tokens"], f"{row['vocab']:,}", f"{row['characters per token']:.2f}", str(row["length"]),
            f"{row['steps']:,}", f"{row['bits per character']:.3f} ± {row['error']:.3f}",
            f"{row['bits per token']:.2f}",
        )  # fmt: skip
        console.print(f"{row['tokens']}, {row['vocab']:,}: {row['bits per character']:.3f} bits per character")
    console.print(table)
    for row in rows:
        console.print(f"[bold]{row['tokens']}, {row['vocab']:,}[/bold]")
        console.print(row["sample"], markup=False, emoji=False, highlight=False)
    if out is not None:
        write_atomically(out, json.dumps(rows, indent=1).encode())


if __name__ == "__main__":
    typer.run(main)
