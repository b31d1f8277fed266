"""What the commands have in common: the console, a few defaults, and options that mean the same everywhere.

A command is a function under `@app.command`; typer reads its options off the annotations of its parameters. An
annotation that several commands use has a name here, so that an option is explained in one place. Most are None if not
given: the decoder has the default, and not every decoder has every option (`cli.decoding`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import numpy as np
import typer
from rich.console import Console

from .. import box
from ..data import Codec
from ..decoders import CHOICE_TEMPERATURE
from ..learning.files import printable, quoted, refuse_existing
from ..learning.ranks import Ranks

RUNS = Path("runs")
TEMPERATURE = 0.7
LONGEST = 3600.0  # seconds of a delay

CLOSED = 141
"""Exit code if whoever read the output has gone, as of programs that SIGPIPE ends."""


class Terminal(Console):
    """Standard error. Nothing that a model wrote or a folder is called moves the cursor or changes colours there."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*(tame(x) if isinstance(x, str) else x for x in objects), **options)
        except OSError:  # a full disk, a terminal that is gone: the work goes on, the exit code tells
            self.quiet = True

    def on_broken_pipe(self) -> NoReturn:
        raise SystemExit(CLOSED)


def tame(text: str) -> str:
    """The lines with all control characters escaped."""
    return "\n".join(map(printable, text.split("\n")))


def on_terminal(stream: Any) -> bool:
    """Whether a stream is a screen that can be drawn on again; a file or a pipe is not, whatever FORCE_COLOR says."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


# What is watched goes to standard error, results to standard output, so that they can be piped. Names and text are
# shown as they are: rich would read "[b]" and ":x:" in them as markup.
console = Terminal(
    stderr=True, soft_wrap=True, emoji=False, markup=False, force_terminal=None if on_terminal(sys.stderr) else False,
    color_system="truecolor" if os.environ.get("FORCE_COLOR") else "auto",
)  # fmt: skip


def say(text: str = "") -> None:
    """Print a result: as it is into a file or a pipe, without control characters onto a screen."""
    if sys.stdout is None:
        raise OSError("standard output is closed; there is nowhere to print the result")
    try:
        # At once: who waits for the address of a server may read a pipe, which Python fills before it hands it on.
        print(tame(text) if on_terminal(sys.stdout) else text, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"cannot write to standard output: {error.strerror}") from error


DECODING, TOKENS, VIEWS = "Which positions, in which order", "Which token", "What to see"  # headings in the help

RunFolder = Annotated[
    Path,
    typer.Argument(
        metavar="RUN",
        help=f"Folder of a trained run, or a model in the box: {', '.join(box.NAMES)}.",
        show_default=False,
        callback=box.found,
    ),
]
Steps = Annotated[int | None, typer.Option(help="Denoising steps; default one per masked position.")]
CfgScale = Annotated[
    float | None, typer.Option(help="How much to exaggerate the class, or what is given of a text; default 0.")
]
Seed = Annotated[int, typer.Option(help="The same command with the same seed on the same machine: the same result.")]

Remasking = Annotated[
    Literal[
        "low_confidence", "most_likely", "entropy", "margin", "random", "left_to_right", "ancestral", "first_hitting"
    ]
    | None,
    typer.Option(
        metavar="ORDER",
        help="Which drawn tokens a step keeps: low_confidence (default), most_likely, entropy, margin, random, "
        "left_to_right, ancestral or first_hitting.",
        rich_help_panel=DECODING,
    ),
]
ChoiceTemperature = Annotated[
    float | None,
    typer.Option(
        help=f"Noise in the orders that ask the model; default {CHOICE_TEMPERATURE:g} of sample and 0 of infill, which "
        f"is the surest first; {box.CHOICE_TEMPERATURES['stories']:g} of sample for the models in the box.",
        rich_help_panel=DECODING,
    ),
]
Commits = Annotated[
    Literal["linear", "cosine"] | None,
    typer.Option(help="How many tokens per step: as many in each, or few at first.", rich_help_panel=DECODING),
]
Threshold = Annotated[
    float | None,
    typer.Option(
        help="Commit all that is likelier than this, in place of a number per step.", rich_help_panel=DECODING
    ),
]
Gamma = Annotated[
    float | None,
    typer.Option(
        help="Commit as many as lose at most this many nats in a step (entropy-bounded).", rich_help_panel=DECODING
    ),
]
Factor = Annotated[
    float | None,
    typer.Option(
        help="Commit while the doubts sum to at most this; up to 1 the likeliest tokens are jointly the likeliest.",
        rich_help_panel=DECODING,
    ),
]
Drafts = Annotated[
    int | None,
    typer.Option(
        help="Guess so many tokens from one look and check them in the next: the law of one at a time, in fewer calls.",
        rich_help_panel=DECODING,
    ),
]
BlockLength = Annotated[
    int | None,
    typer.Option(
        help="Fill blocks of this length left to right, counted from the end of the prompt.", rich_help_panel=DECODING
    ),
]
Remask = Annotated[
    Literal["cap", "rescale", "confidence"] | None,
    typer.Option(help="Mask committed tokens again (ReMDM), with the strength --eta.", rich_help_panel=DECODING),
]
Eta = Annotated[
    float | None,
    typer.Option(help="--remask: how much, 0 to 1. ddpm: 1 ancestral (default), 0 DDIM.", rich_help_panel=DECODING),
]
Rounds = Annotated[
    int | None,
    typer.Option(
        help="Then mask a third of the text at random and fill it again, this many times.", rich_help_panel=DECODING
    ),
]

Temperature = Annotated[
    float | None,
    typer.Option(
        help=f"Divides the logits; default {TEMPERATURE}, 0 always takes the likeliest token.", rich_help_panel=TOKENS
    ),
]
TopK = Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens only.", rich_help_panel=TOKENS)]
TopP = Annotated[
    float | None,
    typer.Option(help="Draw from the fewest tokens that reach this probability.", rich_help_panel=TOKENS),
]
Allow = Annotated[
    str | None,
    typer.Option(metavar="CHARACTERS", help="Generate only these characters.", rich_help_panel=TOKENS),
]

Delay = Annotated[
    float, typer.Option(min=0, help="Seconds to show each step for, on a terminal.", rich_help_panel=VIEWS)
]
Strip = Annotated[
    Path | None,
    typer.Option(help="Text: also write five moments as a figure: .pdf, .png or .svg.", rich_help_panel=VIEWS),
]
Html = Annotated[
    Path | None,
    typer.Option(help="Text: also write a page to play and scrub through it.", rich_help_panel=VIEWS),
]
Gif = Annotated[
    Path | None,
    typer.Option(help="Also write the way from noise to data as an animated picture.", rich_help_panel=VIEWS),
]


def epilog(*examples: str) -> str:
    """The end of a command's help."""
    return "\n\n".join(["[bold]Examples[/bold]", *(f"  {example}" for example in examples)])


def figure(mean: float, error: float, unit: str, digits: int = 4) -> str:
    """A measured figure with its standard error, if the data were enough for one."""
    if not np.isfinite(error):
        return f"{mean:.{digits}f} {unit}, too little for an error"
    return f"{mean:.{digits}f} +- {error:.{digits}f} {unit}"


def need_end(codec: Codec, run: Path, pairs: Path) -> None:
    """ValueError unless the tokens of a run have an end, which answers need."""
    if codec.eos_id is None:
        raise ValueError(
            f"--pairs is {pairs}, but {run} was trained on text, whose tokens have no end of an answer; train one "
            f"with: tinydiff train --pairs {quoted(pairs)} --out RUN"
        )


def generator(seed: int) -> np.random.Generator:
    """The source of all chance in a command."""
    if seed < 0:
        raise ValueError(f"--seed is {seed}; it must be 0 or more")
    return np.random.default_rng(seed)


def report_untrained(corpus: Any) -> None:
    """Say which held-out tokens are never trained on, if there are some: the held-out figure counts them too."""
    untrained: dict[str, int] = getattr(corpus, "untrained", {})
    if untrained:
        shown = ", ".join(map(repr, [*untrained][:10])) + (", ..." if len(untrained) > 10 else "")
        console.print(
            f"{sum(untrained.values()):,} of the {len(corpus.held_out):,} held-out {corpus.codec.unit}s are never "
            f"trained on ({shown}); the held-out figure counts them all the same",
            highlight=False,
        )


def given(context: typer.Context) -> list[str]:
    """The options of a command that were typed, in the order of its help: "--steps"."""
    return [
        option.opts[0]
        for option in context.command.params
        if option.name and getattr(context.get_parameter_source(option.name), "name", "") == "COMMANDLINE"
    ]


@contextmanager
def one_voice(ranks: Ranks) -> Iterator[None]:
    """Of several ranks the first speaks for all, and another only if something happens to it alone; then all end."""
    try:
        yield
    except BaseException as error:
        if not (isinstance(error, typer.Exit) or getattr(error, "agreed", False)):
            sys.stderr = sys.__stderr__ if ranks.rank else sys.stderr
            ranks.abort()
        raise


def check_delay(delay: float) -> None:
    """Raise ValueError for a delay that nobody wants to wait for."""
    if not 0 <= delay <= LONGEST:
        raise ValueError(f"--delay is {delay}; expected 0 <= delay <= {LONGEST} seconds")


def check_views(*paths: Path | None) -> None:
    """Raise if one of these pictures and pages cannot be written; None is not to be. Before the work, not after."""
    given = [path for path in paths if path is not None]
    for path in given:
        if given.count(path) > 1:
            raise ValueError(f"{path} is given twice; choose another name for one of them")
    refuse_existing(*given)


def write_all(wanted: list[tuple[Path | None, Callable[[Path], None]]]) -> None:
    """Write each file that has a path, even if one before it could not be; then raise the first error."""
    errors = []
    for path, write in wanted:
        try:
            if path is not None:
                write(path)
        except Exception as error:
            errors.append(error)
    if errors:
        raise errors[0]


def need_matplotlib(*paths: Path | None) -> None:
    """FileNotFoundError if something is to be drawn and nothing can: before the work is done, not after.

    What is drawn goes to files, which needs no screen: MPLBACKEND, which may name one that is not there, is overruled.
    """
    os.environ["MPLBACKEND"] = "agg"
    for path in paths:
        if path is not None and find_spec("matplotlib") is None:
            raise FileNotFoundError(
                f"matplotlib is missing, which draws {path}; install it: pip install 'tinydiff[figures]'"
            )
