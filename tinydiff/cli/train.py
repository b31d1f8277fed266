"""Training: `tinydiff demo` and `tinydiff train`."""

from __future__ import annotations

from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from .. import data, kernels, learning
from ..learning.files import quoted
from ..learning.interrupts import stops_wait
from ..learning.ranks import Alone, RankLost, Ranks, launched, together
from ..learning.shards import Shares
from ..processes import Bert, MaskedDiffusion
from ..processes.named import new_process
from ..transformer import Transformer
from ..views import terminal
from . import demo as demonstration
from .common import RUNS, Seed, console, epilog, figure, given, need_end, one_voice, report_untrained

app = typer.Typer()
BESIDE_RESUME = ("--resume", "--steps", "--lr", "--text", "--pairs")
BESIDE_START = (
    "--start-from", "--out", "--process", "--schedule", "--estimator", "--block-length", "--steps", "--batch",
    "--optimiser", "--lr", "--muon-lr", "--random-lengths", "--seed", "--shards", "--check",
)  # fmt: skip
GENERAL: dict[str, Any] = {
    "process": "masked", "optimiser": "muon", "evaluate_every": 250,
}  # fmt: skip
"""Options of `train` for data without a recipe of its own, size S; benchmarks/README.md has what else was tried."""
SIZES: dict[str, dict[str, Any]] = {
    "XS": {"d_model": 32, "layers": 2, "heads": 2, "length": 32, "batch": 32, "steps": 1500},
    "S": {"d_model": 64, "layers": 2, "heads": 4, "length": 64, "batch": 32, "steps": 3000},
    "M": {"d_model": 128, "layers": 4, "heads": 4, "length": 128, "batch": 32, "steps": 3000},
    "L": {"d_model": 192, "layers": 6, "heads": 6, "length": 256, "batch": 16, "steps": 3000},
}
"""One knob for width, depth, context and work: on two cores with AVX-512 S takes a minute, M ten, L half an hour."""
RATES = {"adamw": 2e-3, "muon": 0.02}
"""Peak rates. What Muon leaves to AdamW takes the same one, or it could not keep up."""


@app.command(epilog=epilog("tinydiff demo", "tinydiff demo --steps 6000 --out runs/longer"))
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the run; trained already, it is only shown.")] = RUNS / "demo",
    steps: Annotated[int, typer.Option(help="How long to train.")] = demonstration.STEPS,
) -> None:
    """Train a small masked diffusion model on stories, and watch masks turn into text."""
    known = (out / "config.json").exists()
    if known and "--steps" in given(context):
        raise ValueError(
            f"--steps is {steps}, but {out} holds a run with its own number of steps: leave --steps out, "
            f"choose another --out, or train on with: tinydiff train --resume {quoted(out)} --steps N"
        )
    run = learning.Run.resume(out) if known else demonstration.new_run(out, steps)
    if not isinstance(run.process, MaskedDiffusion) or isinstance(run.process, Bert):
        raise ValueError(
            f"--out is {out}, a run of {run.process.config['process']}, which has no masks to show; choose another "
            "folder"
        )
    if not isinstance(run.corpus, data.Examples) or not isinstance(run.corpus.law, data.stories.Stories):
        raise ValueError(f"--out is {out}, a run on {run.corpus.name}; the demo shows stories: choose another folder")
    if run.step < run.options.steps:
        follow(run)
    else:
        console.print(f"{out} is trained already; delete it to train again.")
    demonstration.show(console, out, run.corpus)


@app.command(
    epilog=epilog(
        "tinydiff train --data python_docs --out runs/docs",
        "tinydiff train --text book.txt --out runs/book --steps 5000 --length 128",
        "tinydiff train --text book.txt --tokens pieces --vocab 2048 --out runs/pieces",
        "tinydiff train --pairs questions.jsonl --out runs/answers",
        "tinydiff train --process block --block-length 8 --out runs/blocks",
        "tinydiff train --start-from runs/left --process masked --steps 500 --out runs/dream",
        "tinydiff train --process autoregressive --middles 0.5 --out runs/middles",
        "tinydiff train --process sedd_uniform --schedule geometric --out runs/scores",
        "tinydiff train --data spiral --process flow --out runs/spiral",
        "tinydiff train --data phrasebook --process nat --out runs/nat",
        "tinydiff train --resume runs/book",
        "mpiexec -n 4 tinydiff train --text book.txt --out runs/book --shards 8",
    )
)
def train(
    context: typer.Context,
    out: Annotated[Path | None, typer.Option(help="Folder to write the run to.")] = None,
    text: Annotated[
        Path | None, typer.Option(help="Train on this file of text, gzipped or not; - for standard input.")
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help='Train on answers to prompts: a file of lines like {"prompt": "Who?", "answer": "Me."}'),
    ] = None,
    data_name: Annotated[
        str | None,
        typer.Option(
            "--data",
            help=f"A corpus ({', '.join([*data.CORPORA, *data.LAWS, *data.INSTRUCTIONS])}), translations "
            f"({', '.join(data.TRANSLATIONS)}) or vectors ({', '.join(data.VECTORS)}).",
        ),
    ] = None,
    tokens: Annotated[
        Literal["characters", "words", "pieces"] | None,
        typer.Option(
            metavar="TOKENS",
            help="What a token is: characters (default), words, or pieces of words (needs tinydiff\\[pieces]).",
        ),
    ] = None,
    vocab: Annotated[
        int | None,
        typer.Option(help="How many tokens: words, default all there are, the rest spelled; pieces, default 1024."),
    ] = None,
    rainbow: Annotated[
        int, typer.Option(help="--pairs: how many tokens take turns behind an answer; default 0: its EOS fills up.")
    ] = 0,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Continue this run, with its own options; --steps and --lr begin a new schedule of the rate. --text "
            "or --pairs say where its data are now.",
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Begin with the network and the data of this run: from left to right to masked or block, say.",
        ),
    ] = None,
    process: Annotated[
        Literal[
            "masked",
            "block",
            "autoregressive",
            "bert",
            "cart",
            "nat",
            "cmlm",
            "refinement",
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
            help="What to learn: for text masked (default), block, autoregressive, bert, cart, d3pm_absorbing, "
            "d3pm_uniform, "
            "d3pm_nearest, sedd_absorbing or sedd_uniform; for translations also nat, cmlm or refinement; for vectors "
            "ddpm (default) or flow.",
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
    estimator: Annotated[
        Literal["time", "count"] | None,
        typer.Option(
            metavar="NAME",
            help="What masked draws for each text, block for each block: how many tokens to mask, count (default), or "
            "a time, and then each token by itself.",
        ),
    ] = None,
    predict: Annotated[
        Literal["eps", "x0", "v"] | None, typer.Option(help="What the network of ddpm predicts; default eps.")
    ] = None,
    pairing: Annotated[
        Literal["independent", "optimal"] | None,
        typer.Option(help="How flow joins data and noise; default independent. optimal: straighter, for Euler steps."),
    ] = None,
    block_length: Annotated[
        int | None, typer.Option(help="Of block: tokens in each, masked together; default 8, 1 goes left to right.")
    ] = None,
    middles: Annotated[
        float,
        typer.Option(
            help="Of autoregressive: share of the windows whose middle is moved to the end: so it learns to fill gaps."
        ),
    ] = 0.0,
    steps: Annotated[int | None, typer.Option(help="Training steps; default 3000 for text.")] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences per step; default 32 for text.")] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens per sequence; default 64, of pairs what the longest takes.")
    ] = None,
    d_model: Annotated[int | None, typer.Option(help="Width of the network; default 64 for text.")] = None,
    layers: Annotated[int | None, typer.Option(help="Depth of the network; default 2 for text.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads; default 4.")] = None,
    size: Annotated[
        Literal["XS", "S", "M", "L"] | None,
        typer.Option(
            metavar="SIZE",
            help="XS, S (default for text), M or L: width, depth, heads, length, batch and steps together; each can "
            "still be set.",
        ),
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(help="Peak learning rate; default 0.02, of adamw 0.002."),
    ] = None,
    optimiser: Annotated[
        Literal["adamw", "muon"] | None,
        typer.Option(
            metavar="NAME",
            help="muon for the matrices of the blocks (default), or adamw for all (default for vectors).",
        ),
    ] = None,
    muon_lr: Annotated[float | None, typer.Option(help="Peak learning rate of muon's matrices; default 0.02.")] = None,
    random_lengths: Annotated[
        float, typer.Option(help="Share of the batches that are cut to a random length; LLaDA's is 0.01.")
    ] = 0.0,
    experts: Annotated[int, typer.Option(help="Feed-forward networks per block, of which a router chooses.")] = 0,
    active: Annotated[int | None, typer.Option(help="--experts: how many work for a token; default 1.")] = None,
    routing: Annotated[
        Literal["token", "expert"] | None,
        typer.Option(help="--experts: tokens choose experts (default), or experts choose tokens of a text."),
    ] = None,
    precision: Annotated[
        Literal["full", "bfloat16"] | None,
        typer.Option(metavar="NAME", help="Of products: full (default), or bfloat16 on CPUs with AVX512_BF16, AMX."),
    ] = None,
    seed: Seed = 0,
    shards: Annotated[
        int,
        typer.Option(
            help="Pieces that a batch is computed in. As many processes can share the work, with the same result: "
            "mpiexec -n N tinydiff train ... (needs tinydiff\\[mpi])."
        ),
    ] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Only see whether this can be trained; write nothing.")
    ] = False,
) -> None:
    """Train a model, with checkpoints, a log and the held-out bits per character or dimension."""
    ranks = launched()
    with one_voice(ranks), together(ranks):
        if resume is not None:
            others = [option for option in given(context) if option not in BESIDE_RESUME]
            if others:
                raise ValueError(
                    f"{', '.join(others)} cannot be changed beside --resume, which continues a run with its own "
                    f"options: leave {'it' if len(others) == 1 else 'them'} out"
                )
            run = learning.Run.resume(resume, moved(resume, text, pairs))
            if ranks.rank:
                run.folder = None
            extend(run, steps, lr)
        else:
            if out is None and not check:
                raise ValueError("--out is missing: the folder to write the run to, for instance --out runs/mine")
            parts = parts_of_blocks(experts, active, routing, precision)
            source = None if start_from is None else started(start_from, given(context))
            corpus: Any = source[1] if source else corpus_named(text, data_name, pairs, tokens, vocab, rainbow)
            if middles:
                corpus = with_middles(corpus, middles, process)
            typed = {
                "process": process, "steps": steps, "batch": batch, "length": length,
                "d_model": d_model, "layers": layers, "heads": heads, "optimiser": optimiser, "lr": lr,
            }  # fmt: skip
            chosen = recipe_for(corpus, size, {name: value for name, value in typed.items() if value is not None})
            options = learning.Options(
                steps=chosen["steps"], batch=chosen["batch"], lr=chosen.get("lr", RATES[chosen["optimiser"]]),
                warmup=min(100, chosen["steps"]), evaluate_every=min(chosen["evaluate_every"], chosen["steps"]),
                optimiser=chosen["optimiser"], muon_lr=muon_lr, random_lengths=random_lengths, seed=seed, shards=shards,
            )  # fmt: skip
            made = new_process(
                chosen["process"], corpus, schedule=schedule, predict=predict, pairing=pairing, estimator=estimator,
                block_length=block_length,
            )  # fmt: skip
            corpus.check_length(source[0].length if source else chosen["length"])
            model = source[0] if source else new_network(corpus, made.needs_time, chosen, seed, parts)
            if model.time != made.needs_time:
                has = "is told the time" if model.time else "is not told the time"
                raise ValueError(
                    f"--process is {chosen['process']}, and the network of {start_from} {has}: choose a --process like "
                    "it"
                )
            run = learning.Run(corpus, made, model, options)
    with one_voice(ranks):
        with together(ranks):
            Shares(run, ranks)  # refuses what cannot be shared out, before anything is written
        with together(ranks):
            if out is not None and not ranks.rank and not check:
                run.write_to(out)
    if check:
        return
    if resume is not None and run.step >= run.options.steps:
        console.print(
            f"{resume} is trained to its {run.options.steps} steps already; train on with: "
            f"tinydiff train --resume {quoted(resume)} --steps {2 * run.options.steps}"
        )
        return
    with one_voice(ranks):
        follow(run, ranks)


def recipe_for(corpus: Any, size: str | None, typed: dict[str, Any]) -> dict[str, Any]:
    """What to train and how: what was typed, before the size that was, the data's own recipe, and the default."""
    recipe, sized = dict(getattr(corpus, "recipe", {})), dict(SIZES[size] if size else {})
    if typed.get("optimiser") not in (None, recipe.get("optimiser")):
        recipe.pop("lr", None)  # it is of the recipe's own optimiser
    if isinstance(corpus, data.Examples | data.Vectors):
        sized.pop("length", None)  # whole ones, as long as they are
    return GENERAL | SIZES["S"] | recipe | sized | typed


def parts_of_blocks(experts: int, active: int | None, routing: str | None, precision: str | None) -> dict[str, Any]:
    """What `Transformer` builds its blocks of, by the options that say so."""
    if not experts and (active is not None or routing is not None):
        what = f"--active is {active}" if active is not None else f"--routing is {routing}"
        raise ValueError(f"{what}, but there are no experts: add --experts, or leave it out")
    return {
        "experts": experts, "active": 1 if active is None else active,
        "routing": routing or "token", "precision": precision or "full",
    }  # fmt: skip


def new_network(corpus: Any, time: bool, chosen: dict[str, Any], seed: int, parts: dict[str, Any]) -> Transformer:
    """A network for what the corpus yields, as wide and deep as chosen."""
    whole = isinstance(corpus, data.Examples | data.Vectors)  # or windows, which begin anywhere
    return Transformer(
        getattr(corpus, "vocab_size", None), chosen["length"], features=getattr(corpus, "features", None),
        classes=getattr(corpus, "classes", 0), time=time, positions="learned" if whole else "both",
        d_model=chosen["d_model"], layers=chosen["layers"], heads=chosen["heads"],
        rng=np.random.default_rng(seed), **parts,
    )  # fmt: skip


def with_middles(corpus: Any, share: float, process: str | None) -> data.Middles:
    """The same text, with the middle of this share of its windows moved to the end."""
    if not 0 <= share <= 1:
        raise ValueError(f"--middles is {share:g}; expected a share of the windows, 0 to 1")
    if process != "autoregressive" or type(corpus) is not data.Corpus:
        raise ValueError(f"--middles is {share:g}, which is for --process autoregressive on a text; masks need none")
    return data.Middles(corpus, share)


def started(run: Path, typed: list[str]) -> tuple[Transformer, Any]:
    """The network of a run, with its averaged weights, and its data: what `--start-from` begins with.

    START of an autoregressive network becomes MASK, and what answered for the next token is now asked for this one
    (Gong et al. 2025, without the shift; `learning.from_autoregressive` has it).
    """
    others = [option for option in typed if option not in BESIDE_START]
    if others:
        raise ValueError(
            f"{', '.join(others)} cannot be chosen beside --start-from, which takes the network and the data of a run: "
            f"leave {'it' if len(others) == 1 else 'them'} out"
        )
    model, _, _, config = learning.load(run)
    if model.vocab_size is None:
        raise ValueError(f"{run} is a run on vectors; start from one on text")
    return model, learning.corpus_of(run, config)


def corpus_named(
    text: Path | None,
    name: str | None,
    pairs: Path | None,
    tokens: data.Tokens | None,
    vocab: int | None,
    rainbow: int = 0,
) -> data.Corpus | data.Vectors | data.Pairs:
    """What to train on, by the options that say so."""
    options = {"--text": text, "--data": name, "--pairs": pairs}
    chosen = [option for option, value in options.items() if value is not None]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} are both given; a run has one corpus")
    cut: data.Tokens = tokens or "characters"
    if name is not None and name in data.INSTRUCTIONS:
        pairs, name = Path(name), None
    if pairs is not None:
        if str(pairs) in data.INSTRUCTIONS and (tokens is not None or vocab is not None):
            what = f"--tokens is {tokens}" if tokens is not None else f"--vocab is {vocab}"
            raise ValueError(f"{what}, but {pairs} has its own: leave it out")
        return data.load_pairs(str(pairs), tokens=cut, vocab=vocab, rainbow=rainbow)
    if rainbow:
        raise ValueError(f"--rainbow is {rainbow}, but nothing here has an answer: add --pairs, or leave it out")
    if text is not None:
        return data.load(data.absolute(text), tokens=cut, vocab=vocab)  # it may be called like a corpus
    name = name or "python_docs"
    if name in (*data.CORPORA, *data.LAWS, *data.VECTORS) and Path(name).is_file():
        console.print(f"{name} is the corpus of that name; the file is --text {name}")
    return data.load(name, tokens=cut, vocab=vocab)


def moved(run: Path, text: Path | None, pairs: Path | None) -> data.Dataset | None:
    """The data of a run in another place than where they were; None if that is not said."""
    if text is None and pairs is None:
        return None
    if text is not None and pairs is not None:
        raise ValueError("--text and --pairs are both given; a run has one corpus")
    *_, codec, config = learning.load(run)
    if codec is None:
        raise ValueError(f"{'--text' if text else '--pairs'} is given, but {run} is not a run on text: leave it out")
    if pairs is not None:
        need_end(codec, run, pairs)
        return data.load_pairs(pairs, codec, rainbow=config["data"].get("rainbow", 0))
    assert text is not None
    return data.Corpus(data.absolute(text), data.read_text(text), codec)


def extend(run: learning.Run, steps: int | None, lr: float | None) -> None:
    """Give a run more steps or another rate, and say how its schedule goes on."""
    if run.step >= run.options.steps and lr is not None and steps is None:
        raise ValueError(f"--lr is {lr:g}, but all {run.step} steps are done: add --steps, more than that")
    before = run.options
    run.extend(steps, lr)
    options = run.options
    if options != before:
        console.print(
            f"From step {run.step} on the learning rate begins again: up to {options.lr:g} in {options.warmup} steps, "
            f"then down to a tenth of that at step {options.steps}."
        )


def follow(run: learning.Run, ranks: Ranks | None = None) -> float:
    """Train a run to its end while showing it, and return its speed in tokens/s; when stopped, say how to go on.

    Ctrl-C, a signal to end or a closed terminal wait for the end of a step and until it is saved, and so do more of
    them: what is said to be saved is. Several ranks stop together.
    """
    folder, ranks = run.folder, ranks or Alone()
    console.print(
        f"{run.corpus.name}: {getattr(run.corpus, 'description', 'data of your own')}; "
        f"model of {run.optimiser.flat.values.size:,} parameters; {kernels.active()} kernels"
        + (f"; {ranks.size} ranks, {run.options.shards} shards" if ranks.size > 1 else ""),
    )
    report_untrained(run.corpus)
    held_out, speeds, unit = None, [], getattr(run.corpus, "short_unit", run.corpus.unit)
    loss_unit = "mean square" if getattr(run.corpus, "features", None) else "nats/token"
    with stops_wait() as stops:
        try:
            with closing(learning.train(run, ranks)) as frames, closing(terminal.show_training(
                console, frames, start=run.step, steps=run.options.steps, unit=unit, loss_unit=loss_unit
            )) as shown:  # fmt: skip
                for frame in shown:
                    held_out = frame.held_out
                    speeds.append(frame.tokens_per_second)
                    if stops and ranks.size == 1:  # several end by themselves, after the same step
                        break
        except OSError:
            if not stops:  # the terminal that was closed cannot be written to
                raise
        except RankLost as error:
            on = f"; the last checkpoint is whole: tinydiff train --resume {quoted(folder)}" if folder else ""
            raise RankLost(f"{error}{on}") from None
        except Exception:
            stops.clear()  # it was not saved: that is what is to be said
            raise
        if stops:
            number = stops[0]
            stops.clear()
            on = f"Continue with: tinydiff train --resume {quoted(folder)}" if run.step < run.options.steps else ""
            with suppress(OSError, SystemExit):
                console.print(f"Stopped and saved at step {run.step}. {on}".rstrip())
            raise typer.Exit(128 + number)
    if held_out is not None:
        console.print(
            f"Trained {run.step} steps. Held-out: {figure(held_out.mean, held_out.error, run.corpus.unit, 3)}. "
            f"Saved in {folder}.",
            highlight=False,
        )
    return float(np.median(speeds))
