"""Training: `tinydiff demo` and `tinydiff train`."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from .. import data, kernels, learning
from ..processes import Bert, MaskedDiffusion
from ..processes.named import new_process
from ..transformer import Transformer
from ..views import terminal
from . import demo as demonstration
from .common import RUNS, Seed, console, epilog

app = typer.Typer()
GENERAL: dict[str, Any] = {
    "process": "masked", "steps": 3000, "batch": 32, "length": 64, "d_model": 64, "layers": 2,
    "heads": 4, "lr": 2e-3, "evaluate_every": 250,
}  # fmt: skip
"""Options of `train` for data without a recipe of its own."""
MUON_LR = 6e-3
"""Peak rate of AdamW beside Muon: what is not a matrix of a block keeps up with those that are."""


@app.command(epilog=epilog("tinydiff demo", "tinydiff demo --seconds 300 --out runs/longer"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run; trained already, it is only shown.")] = RUNS / "demo",
    seconds: Annotated[float, typer.Option(help="How long to train, about.")] = 90.0,
) -> None:
    """Train a small masked diffusion model and watch masks turn into text."""
    if not (np.isfinite(seconds) and seconds > 0):
        raise ValueError(f"--seconds is {seconds}; it must be positive")
    known = (out / "config.json").exists()
    run = learning.Run.resume(out) if known else demonstration.new_run(out, seconds)
    if (
        not isinstance(run.process, MaskedDiffusion)
        or isinstance(run.process, Bert)
        or not isinstance(run.corpus, data.Corpus)
    ):
        raise ValueError(
            f"--out is {out}, a run of {run.process.config['process']}, which has no masks to show; choose another "
            "folder"
        )
    if run.step < run.options.steps:
        speed = follow(run)
    else:
        speed = None
        console.print(f"{out} is trained already; delete it to train again.")
    demonstration.show(console, out, run.corpus, speed)


@app.command(
    epilog=epilog(
        "tinydiff train --data python_docs --out runs/docs",
        "tinydiff train --text book.txt --out runs/book --steps 5000 --length 128",
        "tinydiff train --process sedd_uniform --schedule geometric --out runs/scores",
        "tinydiff train --data spiral --process flow --out runs/spiral",
        "tinydiff train --resume runs/book",
    )
)
def train(
    out: Annotated[Path | None, typer.Option(help="Folder to write the run to.")] = None,
    text: Annotated[Path | None, typer.Option(help="Train on this UTF-8 file.")] = None,
    data_name: Annotated[
        str | None,
        typer.Option(
            "--data",
            help=f"A corpus ({', '.join([*data.CORPORA, *data.LAWS])}) or vectors ({', '.join(data.VECTORS)}).",
        ),
    ] = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Continue this run, with its own options.")] = None,
    process: Annotated[
        Literal[
            "masked",
            "autoregressive",
            "bert",
            "d3pm_absorbing",
            "d3pm_uniform",
            "d3pm_nearest",
            "sedd_absorbing",
            "sedd_uniform",
            "ddpm",
            "flow",
        ]
        | None,
        typer.Option(
            metavar="PROCESS",
            help="What to learn: for text masked (default), autoregressive, bert, d3pm_absorbing, d3pm_uniform, "
            "d3pm_nearest, sedd_absorbing or sedd_uniform; for vectors ddpm (default) or flow.",
        ),
    ] = None,
    schedule: Annotated[
        Literal["linear", "cosine", "loglinear", "geometric", "polynomial"] | None,
        typer.Option(
            metavar="SCHEDULE",
            help="Noise schedule: linear (default), cosine, geometric, polynomial or loglinear (default of score "
            "entropy, sedd); of ddpm linear or cosine.",
        ),
    ] = None,
    predict: Annotated[
        Literal["eps", "x0", "v"] | None, typer.Option(help="What the network of ddpm predicts; default eps.")
    ] = None,
    pairing: Annotated[
        Literal["independent", "optimal"] | None,
        typer.Option(help="How flow joins data and noise; default independent. optimal: straighter, for Euler steps."),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps; default 3000 for text.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences per step; default 32 for text.")] = None,
    length: Annotated[
        int | None, typer.Option(help="Characters per sequence; default 64. Vectors have theirs.")
    ] = None,
    d_model: Annotated[int | None, typer.Option(help="Width of the network; default 64 for text.")] = None,
    layers: Annotated[int | None, typer.Option(help="Depth of the network; default 2 for text.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads; default 4.")] = None,
    lr: Annotated[
        float | None, typer.Option(help="Peak learning rate; default 0.002, of muon 0.006 (all but its matrices).")
    ] = None,
    optimiser: Annotated[
        Literal["adamw", "muon"] | None,
        typer.Option(metavar="NAME", help="adamw (default), or muon for the matrices of the blocks."),
    ] = None,
    muon_lr: Annotated[
        float | None, typer.Option(help="Peak learning rate of muon's matrices; default 0.02.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Train a model, with checkpoints, a log and the held-out bits per character or dimension."""
    if resume is not None:
        if out is not None or text is not None or data_name is not None:
            raise ValueError("--resume continues a run with its own text and folder; leave out --out, --text, --data")
        run = learning.Run.resume(resume)
        if optimiser not in (None, run.options.optimiser) or muon_lr not in (None, run.options.muon_lr):
            raise ValueError(
                f"--resume continues {resume} with its own optimiser, {run.options.optimiser}; leave out --optimiser "
                "and --muon-lr, or train a new run"
            )
        if run.step >= run.options.steps:
            console.print(f"{resume} is trained to its {run.options.steps} steps already.")
            return
    else:
        if out is None:
            raise ValueError("--out is missing: the folder to write the run to, for instance --out runs/mine")
        if text is not None and data_name is not None:
            raise ValueError("--text and --data are both given; a run has one corpus")
        corpus = data.load(str(text.resolve()) if text is not None else data_name or "python_docs")
        given = {
            "process": process, "steps": steps, "batch": batch, "length": length,
            "d_model": d_model, "layers": layers, "heads": heads, "lr": lr,
        }  # fmt: skip
        of_muon = {"lr": MUON_LR} if optimiser == "muon" else {}
        chosen = GENERAL | corpus.recipe | of_muon | {name: value for name, value in given.items() if value is not None}
        options = learning.Options(
            steps=chosen["steps"], batch=chosen["batch"], lr=chosen["lr"], seed=seed, warmup=min(100, chosen["steps"]),
            evaluate_every=min(chosen["evaluate_every"], chosen["steps"]),
            optimiser=optimiser or "adamw", muon_lr=muon_lr,
        )  # fmt: skip
        made = new_process(chosen["process"], corpus, schedule=schedule, predict=predict, pairing=pairing)
        corpus.check_length(chosen["length"])
        model = Transformer(
            getattr(corpus, "vocab_size", None), chosen["length"], features=getattr(corpus, "features", None),
            classes=getattr(corpus, "classes", 0), time=made.needs_time,
            positions="rotary" if type(corpus) is data.Corpus else "learned",  # windows of a text begin anywhere
            d_model=chosen["d_model"], layers=chosen["layers"], heads=chosen["heads"], rng=np.random.default_rng(seed),
        )  # fmt: skip
        run = learning.Run(corpus, made, model, options, out)
    follow(run)


def follow(run: learning.Run) -> float:
    """Train a run to its end while showing it, and return its speed in tokens/s; on Ctrl-C say how to go on."""
    folder = run.folder
    console.print(
        f"{run.corpus.name}: {run.corpus.description}; "
        f"model of {run.optimiser.flat.values.size:,} parameters; {kernels.active()} kernels",
    )
    held_out, speeds = None, []
    try:
        with closing(learning.train(run)) as frames:  # an interrupt between steps saves before it is announced
            for frame in terminal.show_training(
                console, frames, start=run.step, steps=run.options.steps, unit=run.corpus.short_unit
            ):
                held_out = frame.held_out
                speeds.append(frame.tokens_per_second)
    except KeyboardInterrupt:
        console.print(f"Stopped and saved at step {run.step}. Continue with: tinydiff train --resume {folder}")
        raise typer.Exit(130) from None
    if held_out is not None:
        console.print(
            f"Trained {run.step} steps. Held-out: {held_out[0]:.3f} +- {held_out[1]:.3f} {run.corpus.unit}. "
            f"Saved in {folder}.",
            highlight=False,
        )
    return float(np.median(speeds))
