"""Measuring: `tinydiff evaluate`, `tinydiff sweep` and `tinydiff race`."""

from __future__ import annotations

import sys
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .. import box, data, learning
from ..arrays import check_counts
from ..decoders.replay import lawless
from ..learning.files import write_atomically
from ..measures import clock as racing
from ..measures import dial as sweeping
from ..measures.decoder_law import DecoderLaw
from ..processes import Autoregressive, Bert, MaskedDiffusion, Process
from ..transformer import Transformer
from ..views import figures, terminal
from ..views.gif import check_name
from ..views.trajectory import record
from .common import (
    TEMPERATURE,
    Factor,
    Gamma,
    Gif,
    Html,
    RunFolder,
    Seed,
    check_views,
    console,
    epilog,
    figure,
    generator,
    need_end,
    need_matplotlib,
    on_terminal,
    report_untrained,
    say,
    write_all,
)
from .decoding import decoder_of
from .translate import refuse_translation
from .watch import write_views

app = typer.Typer()
KINDS = {"autoregressive": "exact", "flow": "exact up to the error of the ODE's solver"}
"""What the held-out figure of a process is; of all others an upper bound."""


@app.command(
    epilog=epilog(
        "tinydiff evaluate runs/demo",
        "tinydiff evaluate runs/demo --windows 10000",
        "tinydiff evaluate runs/demo --decoder entropy --steps 16",
        "tinydiff evaluate runs/demo --gamma 0.1",
    )
)
def evaluate(
    run: RunFolder,
    text: Annotated[
        Path | None, typer.Option(help="Evaluate on this file, all of it, or on the run's own if it is that.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Evaluate on the pairs of this file instead, all of them.")] = None,
    windows: Annotated[int, typer.Option(help="Random windows of held-out text.")] = 3840,
    decoder: Annotated[
        Literal["low_confidence", "most_likely", "entropy", "margin", "random", "left_to_right"] | None,
        typer.Option(
            metavar="ORDER",
            help="Score the law of what is written in this order, exactly, instead of the bound: most_likely, entropy, "
            "margin or left_to_right; low_confidence and random have none.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="--decoder: in so many steps; default one per token.")] = None,
    gamma: Gamma = None,
    factor: Factor = None,
) -> None:
    """Held-out bits per character or dimension: exact for some models, an upper bound for diffusion.

    With --decoder, --gamma or --factor it is exact: of the law of the decoder.
    """
    model, process, codec, config = learning.load(run)
    for option, value in (("--text", text), ("--pairs", pairs)):
        if value is not None and codec is None:
            raise ValueError(f"{option} is {value}, but {run} is not a run on text: leave it out")
    if text is not None and pairs is not None:
        raise ValueError("--text and --pairs are both given; leave one out")
    corpus, length = corpus_there(run, config, codec, text, pairs, model.length), model.length
    if isinstance(corpus, data.Unseen):
        length = min(length, max(corpus.longest, 1))
    report_skipped(corpus, length)
    check_counts(windows=windows)
    windows = learning.EVALUATION_BATCH * -(-windows // learning.EVALUATION_BATCH)
    judged: Any = process
    of_decoder = ""
    if decoder is not None or gamma is not None or factor is not None:
        asked = decoder_of(process, run, decoder=decoder, steps=steps, gamma=gamma, factor=factor, temperature=1.0)
        if decoder is not None and (found := lawless(asked)):
            raise ValueError(
                f"--decoder is {decoder}, which has no exact likelihood: it {found[0]}: use most_likely, entropy, "
                "margin or left_to_right"
            )
        most = min(length, getattr(process, "block_length", length))
        if steps is not None and steps > most:
            raise ValueError(f"--steps is {steps}, but only {most} positions are to be filled; use at most {most}")
        judged = DecoderLaw(process, asked)
        rules = {"": decoder, "gamma ": gamma, "factor ": factor, "steps ": steps}
        named = ", ".join(f"{rule}{value}" for rule, value in rules.items() if value is not None)
        of_decoder = f"exact, of what the decoder writes: {named}"
    elif steps is not None:
        raise ValueError(f"--steps is {steps}, but no --decoder takes them: name one, or leave --steps out")
    held_out = learning.evaluate(model, judged, corpus, windows=windows, length=length)
    kind = of_decoder or KINDS.get(config["process"]["process"], "NELBO, an upper bound")
    figures = figure(held_out.mean, held_out.error, corpus.unit)
    if codec is not None and codec.unit != "character":
        figures += ", " + figure(held_out.per_token, held_out.per_token_error, f"per {codec.unit}")
    say(f"{figures} ({kind}; {corpus.name}, {windows} windows of {length})")


def report_skipped(corpus: data.Dataset, length: int) -> None:
    """Say what of a corpus is not evaluated, or is but was never trained on."""
    if isinstance(corpus, data.Unseen):
        if corpus.unknown:
            unit = "characters" if corpus.codec.spells else "words"
            shown = ", ".join(map(repr, [*corpus.unknown][:10])) + (", ..." if len(corpus.unknown) > 10 else "")
            console.print(
                f"{sum(corpus.unknown.values()):,} {unit} are none that the model knows ({shown}); windows with them "
                "are left out" + (f"; {corpus.other_form}" if corpus.other_form else "")
            )
    elif isinstance(corpus, data.UnseenPairs):
        if corpus.unknown or corpus.over:
            console.print(
                f"{corpus.unknown:,} pairs have something that the model does not know and {corpus.over:,} take more "
                f"than its {length} {corpus.codec.unit}s with their end: they are left out"
            )
    else:
        report_untrained(corpus)


def corpus_there(
    run: Path, config: dict[str, Any], codec: data.Codec | None, text: Path | None, pairs: Path | None, length: int
) -> data.Dataset:
    """The run's own data, of which the last tenth is held out, or else a file that it has never seen."""
    if codec is None or (text is None and pairs is None):
        return learning.corpus_of(run, config)
    if pairs is not None:
        need_end(codec, run, pairs)
        rainbow = config["data"].get("rainbow", 0)
        name, asked = data.absolute(pairs), data.read_pairs(pairs, data.read_text(pairs))
        if data.digest_of(asked) == config["data"]["sha256"]:
            return data.Pairs(name, asked, codec, rainbow)
        return data.UnseenPairs.of(name, asked, codec, length, rainbow)
    assert text is not None
    own = data.Corpus(data.absolute(text), data.read_text(text), codec)
    return own if own.config["sha256"] == config["data"]["sha256"] else data.Unseen(own.name, own.text, codec)


@app.command(
    epilog=epilog(
        "tinydiff sweep runs/sums",
        "tinydiff sweep runs/sums --order low_confidence,random --steps 1,2,4,9 --temperature 0.7,1 --texts 1000",
        "tinydiff sweep runs/book --judge runs/book_ar --choice-temperature 8",
    )
)
def sweep(
    run: RunFolder,
    out: Annotated[
        Path | None,
        typer.Option(help="Table to write, .csv or .json; the figure goes beside it. Default sweep.csv in the run."),
    ] = None,
    steps: Annotated[
        str | None, typer.Option(help="Numbers of steps, as 1,2,4; default powers of two up to the length.")
    ] = None,
    order: Annotated[
        str, typer.Option(help=f"Which orders, with commas: {', '.join(sweeping.WAYS)}.")
    ] = "low_confidence,random",
    temperature: Annotated[str, typer.Option(help="Temperatures, with commas.")] = "1",
    texts: Annotated[int, typer.Option(help="Texts for each point.")] = 256,
    judge: Annotated[
        Path | None, typer.Option(help="Autoregressive run that scores texts whose law is not known.")
    ] = None,
    choice_temperature: Annotated[float, typer.Option(help="Noise in the orders that ask the model.")] = 0.0,
    seed: Seed = 0,
) -> None:
    """Measure quality against steps, order and temperature: a table, a figure and the knee of each curve."""
    from ..measures import dial_report as report

    model, process, codec, config = learning.load(run)
    refuse_translation(run, config)
    if not isinstance(process, MaskedDiffusion) or isinstance(process, Bert) or codec is None:
        raise ValueError(f"{run} is a run of {config['process']['process']}; only masked ones have steps to sweep")
    generator(seed)
    out = run / "sweep.csv" if out is None else out
    if out.suffix not in (".csv", ".json"):
        raise ValueError(f"--out is {out}; expected a name ending in .csv or .json")
    figure = out.with_suffix(".png")
    check_views(out, figure)
    need_matplotlib(figure)
    measure = sweeping.measure_of(run, config, judge, model.length, texts)
    cells = sweeping.plan(
        model.length,
        sweeping.numbers("steps", steps, int) if steps else sweeping.default_steps(model.length),
        order.split(","),
        sweeping.numbers("temperature", temperature, float),
    )
    measured = sweeping.sweep(
        model, process, model.length, measure, cells, texts=texts, seed=seed, choice_temperature=choice_temperature
    )
    done, stopped = report.follow(console, measured, len(cells), out)
    if done:
        say(report.summary(done, codec, measure.label))
        report.write_figure(figure, done, measure.label, str(run))
        console.print(f"Table in {out}, figure in {figure}.")
    if stopped:
        console.print(f"Stopped after {len(done)} of {len(cells)} points; what was measured is kept.")
        raise typer.Exit(130)


@app.command(
    epilog=epilog(
        "tinydiff race",
        "tinydiff race --size S --length 64 --length 128 --steps 8 --json race.json --figure race.pdf",
        "tinydiff race runs/ar runs/masked --html race.html --gif race.gif",
    )
)
def race(
    rival: Annotated[
        Path | None,
        typer.Argument(
            metavar="AUTOREGRESSIVE",
            help="Folder of a run, or stories_ar.",
            show_default=False,
            callback=lambda run: run and box.found(run),
        ),
    ] = None,
    diffusion: Annotated[
        Path | None,
        typer.Argument(
            metavar="MASKED", help="Folder of a run, or stories.", callback=lambda run: run and box.found(run)
        ),
    ] = None,
    size: Annotated[
        Literal["S", "M"], typer.Option(help="Of untrained networks, if no runs are given: 64 wide or 128.")
    ] = "M",
    length: Annotated[
        list[int] | None, typer.Option(help="Characters; may be repeated; default 64, 128 and 256.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Of diffusion, where lengths and batches are compared.")] = 16,
    batch: Annotated[int, typer.Option(help="Sequences at once when throughput is measured.")] = 8,
    repeats: Annotated[int, typer.Option(help="Interleaved runs to take medians of.")] = 7,
    seed: Seed = 0,
    json: Annotated[Path | None, typer.Option(help="Write all measurements to this file.")] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw measured and predicted times: .pdf, .png or .svg.")] = None,
    html: Html = None,
    gif: Gif = None,
) -> None:
    """Left to right, with and without a cache, diffusion and blocks: who is faster, and from how many steps on."""
    if figure is not None:
        figures.check_figure(figure)
    check_name(gif)
    check_views(json, figure, html, gif)
    need_matplotlib(figure, gif)
    rng = generator(seed)
    if rival is None or diffusion is None:
        if rival is not None:
            raise ValueError(f"only one run is given, {rival}; give an autoregressive and a masked one, or none")
        codec = data.load("python_docs").codec
        lengths = length or [64, 128, 256]
        first = second = racing.untrained(size, codec.vocab_size, max(lengths), rng)
        console.print("Untrained networks: as fast as trained ones, but they write noise.")
    else:
        first, codec = racer(rival, Autoregressive, "autoregressive")
        second, other = racer(diffusion, MaskedDiffusion, "masked")
        if other.config != codec.config:
            raise ValueError(f"{rival} and {diffusion} have different alphabets; train both on the same data")
        lengths = length or [n for n in (64, 128, 256) if n <= second.length] or [second.length]
    with console.status("") as status:
        report = racing.race(
            first, second, lengths=lengths, steps=steps, batch=batch, repeats=repeats, rng=rng, progress=status.update
        )
    say(racing.table(report))
    write_all(
        [
            (json, lambda path: write_atomically(path, dumps(report, indent=1).encode())),
            (figure, lambda path: figures.save(path, figures.race(report))),
        ]
    )
    if on_terminal(sys.stderr) or html is not None or gif is not None:
        shown = [
            record(racing.sampler(kind, model, max(lengths), steps, 1, rng, TEMPERATURE), codec, title)
            for (kind, title), model in zip(list(racing.NAMES.items())[:3], (first, first, second), strict=True)
        ]  # neither network was trained for blocks: they are timed only
        shown[-1] = replace(shown[-1], title=f"diffusion, {steps} steps")
        terminal.show_race(console, shown)
        write_views(None, html, gif, *shown)


def racer(run: Path, kind: type[Process], name: str) -> tuple[Transformer, data.Codec]:
    """The network of a run that may enter the race."""
    model, process, codec, config = learning.load(run)
    if not isinstance(process, kind) or codec is None:
        raise ValueError(f"{run} is a run of {config['process']['process']}; expected one of {name}")
    return model, codec
