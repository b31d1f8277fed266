"""What may go wrong after training: `tinydiff prefer` and `tinydiff ablate`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from .. import data, decoders, learning
from ..learning import checkpoint
from ..learning import preferences as preferring
from ..learning.run import branch
from ..measures import order
from ..processes import Bert, MaskedDiffusion, OnePass
from .common import RunFolder, Seed, console, epilog, generator, say
from .translate import refuse_translation

app = typer.Typer()


@app.command(
    epilog=epilog(
        "tinydiff prefer runs/qa --pairs preferences.jsonl --out runs/liked",
        "tinydiff prefer runs/qa --pairs preferences.jsonl --out runs/liked --beta 0.1 --steps 1000",
        "tinydiff prefer runs/qa --pairs preferences.jsonl --out runs/naive --estimator time --times 1 --apart",
    )
)
def prefer(
    run: RunFolder,
    pairs: Annotated[
        Path,
        typer.Option(help='Preferences: lines like {"prompt": "Who?", "chosen": "Me.", "rejected": "You."}'),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the new run.")],
    reference: Annotated[
        Path | None, typer.Option(metavar="RUN", help="What margins are measured from; default RUN itself.")
    ] = None,
    beta: Annotated[float, typer.Option(help="The smaller, the further from the reference.")] = 0.2,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 300,
    batch: Annotated[int, typer.Option(help="Pairs per step.")] = 16,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-4,
    estimator: Annotated[
        Literal["stratified", "count", "time", "complementary"],
        typer.Option(
            metavar="NAME",
            help="How the bound is estimated: stratified (default), count, time (the naive way) or complementary.",
        ),
    ] = "stratified",
    times: Annotated[int, typer.Option(help="Noise levels for each text.")] = 8,
    masks: Annotated[int, typer.Option(help="Sets of masks at each of them.")] = 1,
    apart: Annotated[bool, typer.Option("--apart", help="Other masks for the reference than for the model.")] = False,
    sft: Annotated[float, typer.Option(help="Weight of the bound of the chosen answers.")] = 0.05,
    seed: Seed = 0,
) -> None:
    """Train a masked run on preferences (DPO through the bound; VRPO) into a new one."""
    generator(seed)
    model, process, codec, _config = masked_run(run)
    checkpoint.refuse_foreign(out)
    objective = preferring.Objective(beta, times, masks, estimator, not apart, sft)
    options = learning.Options(steps=steps, batch=batch, lr=lr, warmup=min(10, steps), seed=seed)
    asked = data.preferences_of(pairs, data.read_text(pairs), codec, model.length)
    if len(asked) < 2:
        raise ValueError(f"{pairs} has {len(asked)} preference; expected at least 2, one to be held out")
    until = min(int(0.9 * len(asked)), len(asked) - 1)
    shown, held_out = asked.at(slice(until)), asked.at(slice(until, None))
    other = copy.deepcopy(model) if reference is None else reference_of(reference, run, codec)
    frames = preferring.prefer(process, model, shown, objective, options, reference=other)
    console.print(f"{len(shown)} pairs to train on, {len(held_out)} held out.", highlight=False)
    largest = 0.0
    for frame in frames:
        largest = max(largest, frame.grad_norm)
        if frame.step % max(1, steps // 10) == 0:
            console.print(
                f"step {frame.step}: loss {frame.loss:.3f}, margin {frame.margin:.2f} nats, gradient "
                f"{frame.grad_norm:.2f}",
                highlight=False,
            )
    branch(run, out, model)
    margins = preferring.judged(process, model, other, held_out, seed=seed + 1)
    say(
        f"held-out margin {margins.mean():.3f} nats, above 0 in {(margins > 0).mean():.1%} of {len(margins)} pairs; "
        f"largest gradient {largest:.2f}"
    )
    console.print(f"Saved in {out}.")


@app.command(
    epilog=epilog(
        "tinydiff ablate runs/demo",
        "tinydiff ablate runs/chain --texts 500",
        "tinydiff ablate runs/demo --remasking low_confidence",
    )
)
def ablate(
    run: RunFolder,
    texts: Annotated[int, typer.Option(help="Held-out texts, and as many generated ones.")] = 64,
    remasking: Annotated[
        Literal["low_confidence", "most_likely", "entropy", "margin", "random", "left_to_right"],
        typer.Option(help="The order to write in, whose direction is measured."),
    ] = "entropy",
    seed: Seed = 0,
) -> None:
    """Does a masked run use what is to the right, and does it write from left to right? The right is hidden to see."""
    rng = generator(seed)
    if texts < 2:
        raise ValueError(f"--texts is {texts}; it must be at least 2")
    model, process, codec, config = masked_run(run)
    refuse_translation(run, config)
    if "pairs" in config["data"]:
        raise ValueError(f"{run} was trained on pairs, whose prompts are all to the left; ablate a run on text")
    corpus = learning.corpus_of(run, config)
    ids = corpus.examples(model.length, texts, rng, held_out=True).x0
    gain = order.right_gain(process, model, ids).sum(axis=1)
    each = gain / model.length
    say(
        f"gain from the right: {each.mean():.4f} +- {each.std(ddof=1) / np.sqrt(texts):.4f} nats per {codec.unit} "
        f"({texts} held-out texts)"
    )
    law = getattr(corpus, "law", None)
    if law is not None:
        true, error = order.gain_of_law(law, ids)
        say(
            f"the true law gains {true / model.length:.4f} +- {error / model.length:.4f}: {gain.mean() / true:.0%} used"
        )
    kind = {
        "low_confidence": decoders.LowConfidence, "most_likely": decoders.MostLikely, "entropy": decoders.Entropy,
        "margin": decoders.Margin, "random": decoders.Random, "left_to_right": decoders.LeftToRight,
    }[remasking]  # fmt: skip
    frames = process.sample(model, model.length, texts, decoder=kind(draw=decoders.Draw(temperature=1.0)), rng=rng)
    local, far = order.ar_ness(order.commit_order(frames))
    by_chance = order.random_ar_ness(model.length)
    say(
        f"AR-ness of {remasking}: local {local.mean():.3f} (by chance {by_chance[0]:.3f}), global {far.mean():.3f} (by "
        f"chance {by_chance[1]:.3f}); left to right {1 - 1 / model.length:.3f} and 1"
    )


def masked_run(run: Path) -> tuple[Any, MaskedDiffusion, data.Codec, dict[str, Any]]:
    """A run of masked diffusion on text, or ValueError."""
    model, process, codec, config = learning.load(run)
    if not isinstance(process, MaskedDiffusion) or isinstance(process, Bert | OnePass) or codec is None:
        raise ValueError(
            f"{run} is a run of {config['process']['process']}; only masked diffusion has a bound over all masks, "
            "train one with --process masked"
        )
    return model, process, codec, config


def reference_of(reference: Path, run: Path, codec: data.Codec) -> Any:
    """The network of the reference, which must read the same tokens."""
    model, _, theirs, _ = masked_run(reference)
    if theirs.config != codec.config:
        raise ValueError(f"--reference is {reference}, whose tokens are others than those of {run}; train both alike")
    return model
