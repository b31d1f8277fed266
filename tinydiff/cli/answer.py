"""Runs that answer: `tinydiff finetune` and `tinydiff ask`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from .. import data, decoders, learning
from ..learning.finetuning import codec_for, widened
from ..measures import answers
from ..processes import Autoregressive, Bert, MaskedDiffusion
from .common import (
    BlockLength,
    CfgScale,
    Remasking,
    RunFolder,
    Seed,
    Steps,
    Temperature,
    console,
    epilog,
    generator,
    say,
)
from .decoding import decoder_of
from .generate import guided
from .train import follow

app = typer.Typer()
DRAWS = 128


@app.command(
    epilog=epilog(
        "tinydiff finetune runs/docs --pairs questions.jsonl --out runs/answers",
        "tinydiff finetune runs/docs --pairs instructions --rainbow 7 --out runs/follows",
    )
)
def finetune(
    run: RunFolder,
    pairs: Annotated[
        Path, typer.Option(help='A file of lines like {"prompt": "Who?", "answer": "Me."}, or instructions.')
    ],
    out: Annotated[Path, typer.Option(help="Folder to write the new run to.")],
    rainbow: Annotated[
        int, typer.Option(help="How many tokens take turns behind an answer; default 0: its EOS fills up.")
    ] = 0,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 1000,
    batch: Annotated[int, typer.Option(help="Pairs per step.")] = 32,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate; default half of the run's.")] = None,
    seed: Seed = 0,
) -> None:
    """Teach a trained run to answer prompts: the prompt is given, the answer and its end are learnt."""
    model, process, codec, config = learning.load(run)
    if codec is None or not isinstance(process, MaskedDiffusion | Autoregressive) or isinstance(process, Bert):
        raise ValueError(
            f"{run} is a run of {config['process']['process']}, which cannot answer; fine-tune a masked or an "
            "autoregressive one on text"
        )
    refuse_fixed_length(run, config)
    asked = data.load_pairs(str(pairs), rainbow=rainbow)
    grown = codec_for(codec, "".join(text for pair in asked.pairs for text in pair), rainbow)
    corpus = replace(asked, codec=grown)
    corpus.check_length(model.length)
    network, process = widened(model, process, corpus.vocab_size, generator(seed))
    before = learning.Options(**config["training"])
    options = learning.Options(
        steps=steps, batch=batch, lr=before.lr / 2 if lr is None else lr, seed=seed, warmup=min(50, steps),
        evaluate_every=min(250, steps), optimiser=before.optimiser,
        muon_lr=None if before.optimiser == "adamw" else before.relative_rate * (before.lr / 2 if lr is None else lr),
    )  # fmt: skip
    if corpus.vocab_size > codec.vocab_size:
        new = "".join(corpus.codec.tokens[codec.vocab_size :])
        console.print(f"New tokens: {new}")
    follow(learning.Run(corpus, process, network, options, out))


@app.command(
    epilog=epilog(
        'tinydiff ask runs/answers "reverse abc>"',
        'tinydiff ask runs/answers "reverse abc>" --canvas 16 --eos last',
        'tinydiff ask runs/answers "reverse abc>" --block-length 4 --steps 8',
        'tinydiff ask runs/answers "reverse abc>" --answer cba',
    )
)
def ask(
    run: RunFolder,
    prompt: Annotated[str, typer.Argument(help="What to ask.", show_default=False)],
    answer: Annotated[
        str | None, typer.Option(help=f"Say how likely this answer is, in {DRAWS} draws, in place of writing one.")
    ] = None,
    canvas: Annotated[
        int | None,
        typer.Option(help="Tokens that the answer and its end may take; default all that the model has left."),
    ] = None,
    eos: Annotated[
        Literal["free", "never", "last"],
        typer.Option(help="The end of the answer: free, a token like any other; never drawn; or committed last."),
    ] = "free",
    steps: Steps = None,
    remasking: Remasking = None,
    block_length: BlockLength = None,
    temperature: Temperature = None,
    cfg_scale: CfgScale = None,
    seed: Seed = 0,
) -> None:
    """Ask a run that has learnt to answer."""
    model, process, codec, config = learning.load(run)
    if codec is None or codec.eos_id is None or "pairs" not in config["data"]:
        raise ValueError(
            f"{run} has not learnt to answer; teach it with: tinydiff finetune {run} --pairs questions.jsonl --out RUN"
        )
    ids = codec.encode(prompt)
    room = model.length - len(ids) if canvas is None else canvas
    if len(ids) >= model.length:
        raise ValueError(
            f"prompt has {len(ids)} {codec.unit}s, and the model takes {model.length} with the answer: ask something "
            "shorter"
        )
    if not 1 <= room <= model.length - len(ids):
        raise ValueError(f"--canvas is {canvas}; behind this prompt there is room for 1 to {model.length - len(ids)}")
    given = np.arange(len(ids) + room) < len(ids)
    told: Any = guided(model, process, run, given, cfg_scale)
    if answer is not None:
        scored(told, process, codec, ids, answer, room, config, seed)
        return
    decoder = decoder_of(
        process, run, {"temperature": 0.0}, steps=steps, remasking=remasking, block_length=block_length,
        temperature=temperature,
    )  # fmt: skip
    if eos == "last" and not isinstance(decoder, decoders.LowConfidence):
        raise ValueError(f"--eos is last, but {type(decoder).__name__} does not rank what it draws: leave --eos out")
    say(*answers.answers(process, told, codec, [prompt], room, decoder=decoder, eos=eos, rng=generator(seed)))


def scored(
    model: Any, process: Any, codec: data.Codec, ids: Any, answer: str, room: int, config: dict[str, Any], seed: int
) -> None:
    """Print how many bits an answer takes, with what fills the canvas behind it."""
    said = codec.encode(answer)
    if len(said) >= room:
        raise ValueError(
            f"--answer has {len(said)} {codec.unit}s and its end one more, and there is room for {room}: shorten it"
        )
    corpus = data.Pairs(str(config["data"]["name"]), (("", ""), ("", answer)), codec, config["data"].get("rainbow", 0))
    x0 = np.concatenate([ids, said, [codec.eos_id], np.resize(corpus.filling, room - len(said) - 1)])
    bits = answers.nats(process, model, x0, np.arange(len(x0)) < len(ids), DRAWS, generator(seed)) / np.log(2)
    bound = "" if isinstance(process, Autoregressive) else "at most "
    say(f"{bound}{bits.mean():.3f} +- {bits.std(ddof=1) / np.sqrt(len(bits)):.3f} bits")


def refuse_fixed_length(run: Path, config: dict[str, Any]) -> None:
    """ValueError for a run on data that has no characters to add to."""
    if config["data"]["name"] in data.TRANSLATIONS:
        raise ValueError(f"{run} translates words of a list; fine-tune a run on text")
