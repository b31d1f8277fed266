"""The `tinydiff` command: demo, train, sample, infill, evaluate, info."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import typer
from rich.console import Console

from . import __version__, data, kernels, training
from . import demo as demonstration
from .checkpoint import CheckpointError
from .processes import Autoregressive, Bert, MaskedDiffusion, Process
from .samplers import CHOICE_TEMPERATURE, Frame
from .transformer import Transformer
from .views import terminal

RUNS = Path("runs")

app = typer.Typer(
    help="Diffusion and non-autoregressive language models from scratch.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
# What is watched goes to standard error, results to standard output, so that they can be piped. Names and text are
# shown as they are: rich would read "[b]" and ":x:" in them as markup.
console = Console(stderr=True, soft_wrap=True, emoji=False, markup=False)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a trained run.", show_default=False)]
Temperature = Annotated[float, typer.Option(help="Divides the logits; 0 always takes the likeliest token.")]
TopK = Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens only.")]
TopP = Annotated[float | None, typer.Option(help="Draw from the fewest tokens that reach this probability.")]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; default one per masked position.")]
Sampler = Annotated[
    Literal["analytic", "euler"] | None,
    typer.Option(help="How score entropy steps; default analytic.", show_default=False),
]
Remasking = Annotated[
    Literal["low_confidence", "random", "ancestral", "first_hitting"] | None,
    typer.Option(help="Which drawn tokens a step keeps; default low_confidence.", show_default=False),
]
ChoiceTemperature = Annotated[
    float | None,
    typer.Option(help=f"Noise in the order of low_confidence; default {CHOICE_TEMPERATURE}, 0: the surest first."),
]
BlockLength = Annotated[int | None, typer.Option(help="Fill blocks of this length left to right.")]
Seed = Annotated[int, typer.Option(help="Same seed, same machine: same result.")]
Svg = Annotated[Path | None, typer.Option(help="Also write a picture of five moments to this file.")]
Delay = Annotated[float, typer.Option(min=0, help="Seconds to show each step for, on a terminal.")]


def _epilog(*examples: str) -> str:
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  {example}" for example in examples)])


@app.command(epilog=_epilog("tinydiff demo", "tinydiff demo --seconds 300 --out runs/longer"))
def demo(
    out: Annotated[Path, typer.Option(help="Folder of the run; trained already, it is only shown.")] = RUNS / "demo",
    seconds: Annotated[float, typer.Option(help="How long to train, about.")] = 90.0,
) -> None:
    """Train a small masked diffusion model and watch masks turn into text."""
    if not (np.isfinite(seconds) and seconds > 0):
        raise ValueError(f"--seconds is {seconds}; it must be positive")
    known = (out / "config.json").exists()
    run = training.Run.resume(out) if known else demonstration.new_run(out, seconds)
    if not isinstance(run.process, MaskedDiffusion) or isinstance(run.process, Bert):
        raise ValueError(f"--out is {out}, a run that has no masks to show; choose another folder")
    if run.step < run.options.steps:
        speed = follow(run)
    else:
        speed = None
        console.print(f"{out} is trained already; delete it to train again.")
    demonstration.show(console, out, run.corpus, speed)


@app.command(
    epilog=_epilog(
        "tinydiff train --data python_docs --out runs/docs",
        "tinydiff train --text book.txt --out runs/book --steps 5000 --length 128",
        "tinydiff train --process sedd_uniform --schedule geometric --out runs/scores",
        "tinydiff train --resume runs/book",
    )
)
def train(
    out: Annotated[Path | None, typer.Option(help="Folder to write the run to.")] = None,
    text: Annotated[Path | None, typer.Option(help="Train on this UTF-8 file.")] = None,
    data_name: Annotated[
        str | None, typer.Option("--data", help=f"Train on a corpus: {', '.join(data.CORPORA)}.")
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
        ],
        typer.Option(help="What to learn."),
    ] = "masked",
    schedule: Annotated[
        Literal["linear", "cosine", "loglinear", "geometric", "polynomial"] | None,
        typer.Option(help="Noise schedule; default linear, for score entropy (sedd) loglinear.", show_default=False),
    ] = None,
    steps: Annotated[int, typer.Option(help="Training steps.")] = 3000,
    batch: Annotated[int, typer.Option(help="Sequences per step.")] = 32,
    length: Annotated[int, typer.Option(help="Characters per sequence.")] = 64,
    d_model: Annotated[int, typer.Option(help="Width of the network.")] = 64,
    layers: Annotated[int, typer.Option(help="Depth of the network.")] = 2,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 4,
    lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    seed: Seed = 0,
) -> None:
    """Train a model, with checkpoints, a log and the held-out bits per character."""
    if resume is not None:
        if out is not None or text is not None or data_name is not None:
            raise ValueError("--resume continues a run with its own text and folder; leave out --out, --text, --data")
        run = training.Run.resume(resume)
        if run.step >= run.options.steps:
            console.print(f"{resume} is trained to its {run.options.steps} steps already.")
            return
    else:
        if out is None:
            raise ValueError("--out is missing: the folder to write the run to, for instance --out runs/mine")
        if text is not None and data_name is not None:
            raise ValueError("--text and --data are both given; a run has one corpus")
        corpus = data.load(str(text.resolve()) if text is not None else data_name or "python_docs")
        options = training.Options(
            steps=steps, batch=batch, lr=lr, seed=seed, warmup=min(100, steps), evaluate_every=min(250, steps)
        )
        made = training.new_process(process, corpus, schedule)
        corpus.check_length(length)
        model = Transformer(
            corpus.vocab_size, length, d_model=d_model, layers=layers, heads=heads, time=made.needs_time,
            rng=np.random.default_rng(seed),
        )  # fmt: skip
        run = training.Run(corpus, made, model, options, out)
    follow(run)


def follow(run: training.Run) -> float:
    """Train a run to its end while showing it, and return its speed in tokens/s; on Ctrl-C say how to go on."""
    folder = run.folder
    console.print(
        f"{run.corpus.name}: {len(run.corpus.text):,} characters, {run.corpus.vocab_size} distinct; "
        f"model of {run.optimiser.flat.values.size:,} parameters; {kernels.active()} kernels",
    )
    held_out, speeds = None, []
    try:
        with closing(training.train(run)) as frames:  # an interrupt between steps saves before it is announced
            for frame in terminal.show_training(console, frames, start=run.step, steps=run.options.steps):
                held_out = frame.held_out
                speeds.append(frame.tokens_per_second)
    except KeyboardInterrupt:
        console.print(f"Stopped and saved at step {run.step}. Continue with: tinydiff train --resume {folder}")
        raise typer.Exit(130) from None
    if held_out is not None:
        console.print(
            f"Trained {run.step} steps. Held-out: {held_out[0]:.3f} +- {held_out[1]:.3f} bits per character. "
            f"Saved in {folder}.",
            highlight=False,
        )
    return float(np.median(speeds))


@app.command(
    epilog=_epilog(
        "tinydiff sample runs/demo",
        "tinydiff sample runs/demo --steps 16 --remasking random --temperature 1",
        "tinydiff sample runs/demo --batch 4 > samples.txt",
    )
)
def sample(
    run: RunFolder,
    batch: Annotated[int, typer.Option(help="Sequences to generate.")] = 1,
    length: Annotated[int | None, typer.Option(help="Characters of each; default the model's length.")] = None,
    steps: Steps = None,
    remasking: Remasking = None,
    sampler: Sampler = None,
    temperature: Temperature = 0.7,
    top_k: TopK = None,
    top_p: TopP = None,
    block_length: BlockLength = None,
    choice_temperature: ChoiceTemperature = None,
    seed: Seed = 0,
    delay: Delay = 0.05,
    svg: Svg = None,
) -> None:
    """Generate text, from all masks, and watch it appear."""
    model, process, codec, _ = training.load(run)
    length = model.length if length is None else length
    if not 1 <= length <= model.length:
        raise ValueError(f"--length is {length}; this model generates 1 to {model.length} characters")
    rng = generator(seed)
    options = known_options(
        process, run, steps=steps, remasking=remasking, sampler=sampler, block_length=block_length,
        choice_temperature=choice_temperature,
    )  # fmt: skip
    if "choice_temperature" in signature(process.sample).parameters:
        options.setdefault("choice_temperature", CHOICE_TEMPERATURE)
    if options.get("sampler") != "euler":
        options |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    frames = process.sample(model, length, batch, rng=rng, **options)
    for ids in watch(frames, codec, run, delay, svg).state:
        print(codec.decode(ids))


def known_options(process: Process, run: Path, **options: Any) -> dict[str, Any]:
    """The options that were given, refused where this process's sampler has no such option."""
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in signature(process.sample).parameters:
            flag = "--" + name.replace("_", "-")
            kind = str(process.config["process"]).replace("_", "-")
            raise ValueError(f"{flag} is {value}, but {run} is {'an' if kind[0] in 'aeiou' else 'a'} {kind} model, "
                             f"whose sampler has no such option: leave {flag} out")  # fmt: skip
    return given


def generator(seed: int) -> np.random.Generator:
    """The source of all chance in a command."""
    if seed < 0:
        raise ValueError(f"--seed is {seed}; it must be 0 or more")
    return np.random.default_rng(seed)


def watch(frames: Iterable[Frame], codec: data.Codec, run: Path, delay: float, svg: Path | None) -> Frame:
    """Show the frames, keep their picture if asked to, and return the last one."""
    shown: list[Frame] = []

    def kept() -> Iterator[Frame]:
        for frame in frames:
            shown.append(frame)
            yield frame

    last = terminal.show_sampling(console, codec, kept(), title=str(run), delay=delay)
    if svg is not None:
        terminal.save_strip(svg, codec, shown, title=f"tinydiff: masks dissolving into text ({run})")
    return last


@app.command(
    epilog=_epilog(
        'tinydiff infill runs/demo "def ____(self):"',
        'tinydiff infill runs/demo "the ~~~~~ of __init__" --blank "~"',
    )
)
def infill(
    run: RunFolder,
    text: Annotated[str, typer.Argument(help="Text with blanks to fill in.", show_default=False)],
    blank: Annotated[str, typer.Option(help="The character that stands for a blank.")] = "_",
    steps: Steps = None,
    remasking: Remasking = None,
    temperature: Temperature = 0.7,
    top_k: TopK = None,
    top_p: TopP = None,
    seed: Seed = 0,
    delay: Delay = 0.1,
    svg: Svg = None,
) -> None:
    """Fill the blanks of a text, leaving the rest as it is."""
    model, process, codec, _ = training.load(run)
    if isinstance(process, Autoregressive):
        raise ValueError(f"{run} is an autoregressive model, which cannot see what follows a blank; use a masked one")
    if len(blank) != 1:
        raise ValueError(f"--blank is {blank!r}; expected one character")
    if blank not in text:
        raise ValueError(f"text has no {blank!r} to fill in; mark blanks with it or choose another with --blank")
    if len(text) > model.length:
        raise ValueError(f"text has {len(text)} characters; this model takes at most {model.length}")
    blanks = np.array([character == blank for character in text])
    given = np.where(blanks, codec.vocab_size, codec.encode(text.replace(blank, codec.alphabet[0])))
    frames = process.sample(
        model, len(text), rng=generator(seed), temperature=temperature, top_k=top_k, top_p=top_p, given=given,
        **known_options(process, run, steps=steps, remasking=remasking),
    )  # fmt: skip
    print(codec.decode(watch(frames, codec, run, delay, svg).state[0]))


@app.command(epilog=_epilog("tinydiff evaluate runs/demo", "tinydiff evaluate runs/demo --windows 10000"))
def evaluate(
    run: RunFolder,
    text: Annotated[Path | None, typer.Option(help="Use the last tenth of this file instead.")] = None,
    windows: Annotated[int, typer.Option(help="Random windows of held-out text.")] = 3840,
) -> None:
    """Held-out bits per character: exact for autoregressive models, an upper bound for diffusion."""
    model, process, codec, config = training.load(run)
    corpus = data.load(str(text), codec) if text is not None else training.corpus_of(run, config)
    windows = training.EVALUATION_BATCH * -(-windows // training.EVALUATION_BATCH)
    mean, error = training.evaluate(model, process, corpus, windows=windows)
    kind = "exact" if isinstance(process, Autoregressive) else "NELBO, an upper bound"
    print(f"{mean:.4f} +- {error:.4f} bits per character ({kind}; {corpus.name}, {windows} windows of {model.length})")


@app.command(epilog=_epilog("tinydiff info"))
def info() -> None:
    """Say what runs here: kernels, instruction set, threads, versions, folders."""
    native = kernels.native
    rows = {
        "tinydiff": __version__,
        "kernels": kernels.active() if native else "numpy (native ones were not built: install with a C++17 compiler)",
        "instruction set": f"{native.isa()} (of {', '.join(native.isas())})" if native else "-",
        "threads": (f"{native.threads()}" if native.openmp() else "1 (built without OpenMP)") if native else "-",
        "numpy": f"{np.__version__}, BLAS {_blas()}",
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "package": str(Path(__file__).parent),
        "checkpoint folder": str(RUNS.resolve()),
    }
    for name, value in rows.items():
        print(f"{name:18} {value}")


def _blas() -> str:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']}"


def main() -> NoReturn:
    """Run the command; every expected error becomes one line and an exit code, 2 for usage and 1 otherwise."""
    try:
        app()
    except (ValueError, FileNotFoundError) as error:
        _fail(error, 2)
    except (CheckpointError, FloatingPointError, OSError, MemoryError) as error:
        _fail(error, 1)
    sys.exit(0)


def _fail(error: BaseException, code: int) -> NoReturn:
    console.print("error:", style="bold red", end=" ")
    console.print(" ".join(str(error).split()) or type(error).__name__)
    sys.exit(code)
