"""Translating with a trained run: `tinydiff translate`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from .. import data, decoders, learning
from ..data import TRANSLATIONS, Translations
from ..decoders import Frame
from ..learning.files import quoted
from ..processes import Process
from .common import DECODING, TOKENS, RunFolder, Seed, console, epilog, generator, say
from .decoding import foreign, takes_draw

app = typer.Typer()

WAYS: dict[str, type[Any]] = {
    "at_once": decoders.AtOnce,
    "mask_predict": decoders.MaskPredict,
    "low_confidence": decoders.LowConfidence,
    "random": decoders.Random,
    "next_token": decoders.NextToken,
    "beam": decoders.Beam,
    "refine": decoders.Refine,
}
"""Ways to write a target; of each process the first that suits it is its default, but for masks, see `default_way`."""
NAMES = {"passes": "steps"}  # options that a decoder has under another name


@app.command(
    epilog=epilog(
        'tinydiff translate runs/nat "merci bonjour"',
        'tinydiff translate runs/masked "merci bonjour" --passes 2',
        'tinydiff translate runs/masked "merci bonjour" --way random --temperature 1 --batch 5',
        'tinydiff translate runs/left "merci bonjour" --way beam --width 8',
        'tinydiff translate runs/dates "2023 03 05" --lengths 3',
    )
)
def translate(
    run: RunFolder,
    source: Annotated[str, typer.Argument(help="What to translate.", show_default=False)],
    batch: Annotated[int, typer.Option(help="How many times.")] = 1,
    way: Annotated[
        Literal["at_once", "mask_predict", "low_confidence", "random", "next_token", "beam", "refine"] | None,
        typer.Option(
            metavar="WAY",
            help="How to write it: at_once (default of nat), mask_predict (of masked and cmlm), low_confidence, "
            "random; next_token (of autoregressive), beam; refine.",
            rich_help_panel=DECODING,
        ),
    ] = None,
    passes: Annotated[
        int | None, typer.Option(help="Looks at the text; default one per word.", rich_help_panel=DECODING)
    ] = None,
    confidence: Annotated[
        Literal["kept", "fresh"] | None,
        typer.Option(
            help="mask_predict: how sure a word was when it was written (default), or is now.", rich_help_panel=DECODING
        ),
    ] = None,
    width: Annotated[
        int | None, typer.Option(help="beam: how many beginnings are kept.", rich_help_panel=DECODING)
    ] = None,
    lengths: Annotated[
        int | None,
        typer.Option(help="Write that many lengths side by side, and keep the surest.", rich_help_panel=DECODING),
    ] = None,
    length: Annotated[int | None, typer.Option(help="Words of the target.", rich_help_panel=DECODING)] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="Divides the logits; default 0, the likeliest word.", rich_help_panel=TOKENS),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Translate with a run on phrasebook, orders, dates or numbers, pass by pass."""
    model, process, _, config = learning.load(run)
    law = law_of(run, config)
    if batch < 1:
        raise ValueError(f"--batch is {batch}; it must be at least 1")
    if lengths is not None and length is not None:
        raise ValueError(f"--lengths is {lengths} and --length is {length}; leave one of them out")
    options = {"passes": passes, "confidence": confidence, "width": width, "temperature": temperature}
    decoder = decoder_for(process, run, way, options)
    if lengths is not None:
        if not law.counted:
            raise ValueError(f"--lengths is {lengths}, but all targets of {run} are of one length: leave --lengths out")
        if decoders.LengthBeam not in process.decoded_by:
            raise foreign("lengths", lengths, process, run)
        decoder = decoders.LengthBeam(law.fill_id, tuple(law.count_ids.tolist()), lengths, decoder)
    known: dict[str, Any] = dict(zip(("x0", "given"), law.asked(source, length), strict=True))
    if length is not None:
        known["allowed"] = known["given"][:, None] | (np.arange(law.codec.vocab_size) != law.fill_id)  # only words
    frames = list(process.sample(model, law.length, batch, decoder=decoder, rng=generator(seed), **known))
    last = frames[-1]
    for frame in frames[1:]:
        console.print(f"pass {frame.step}: {shown(law, frame)}", highlight=False)
    for ids, place in zip(last.state, law.places(last.state), strict=True):
        say(law.target(ids))
        verdict = f"probability {law.conditional[place]:.2f}" if place >= 0 else "no translation"
        console.print(f"  {verdict}", highlight=False)


def decoder_for(process: Process, run: Path, way: str | None, options: dict[str, Any]) -> Any:
    """The decoder of that name with those of the options that were given; ValueError for what it has not."""
    kind = default_way(process) if way is None else WAYS[way]
    if kind not in process.decoded_by:
        raise foreign("way", way, process, run)
    known, chosen = {field.name for field in fields(kind)}, {}
    for name, value in options.items():
        if value is None:
            continue
        if name == "temperature" and takes_draw(kind):
            chosen["draw"] = decoders.Draw(value)
        elif NAMES.get(name, name) in known:
            chosen[NAMES.get(name, name)] = value
        else:
            raise foreign(name, value, process, run, kind)
    if takes_draw(kind):
        chosen.setdefault("draw", decoders.Draw(temperature=0.0))
    return kind(**chosen)


def default_way(process: Process) -> type[Any]:
    """Mask-Predict for masked diffusion, which has many; for the others the first they have."""
    first: type[Any] = process.decoded_by[0]
    return decoders.MaskPredict if first is decoders.LowConfidence else first


def shown(law: Translations, frame: Frame) -> str:
    """The target of the first text, with what this pass wrote in brackets."""
    words = law.decode(frame.state[0]).split()
    marked = [f"[{word}]" if new else word for word, new in zip(words, frame.committed[0], strict=True)]
    return " ".join(marked[law.begin :])


def law_of(run: Path, config: dict[str, Any]) -> Translations:
    """What the run was trained to translate, or ValueError."""
    name = config["data"]["name"]
    if name not in TRANSLATIONS:
        raise ValueError(
            f"{run} is a run on {name}, which is no translation; train one with: "
            f"tinydiff train --data {next(iter(TRANSLATIONS))}"
        )
    return TRANSLATIONS[name]()


def refuse_translation(run: Path, config: dict[str, Any]) -> None:
    """ValueError for a run that only writes what a source asks for."""
    name = config["data"]["name"]
    if name in data.TRANSLATIONS:
        example = data.TRANSLATIONS[name]().example
        raise ValueError(f'{run} translates; give it a source: tinydiff translate {quoted(run)} "{example}"')
