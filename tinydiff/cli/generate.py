"""Generating from a trained run: `tinydiff sample` and `tinydiff infill`."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from .. import data, learning
from ..arrays import Bools, Ints
from ..decoders import CHOICE_TEMPERATURE, ORDERS
from ..decoders.guidance import conditioned
from ..processes import Autoregressive, Process
from ..transformer import Transformer
from ..views import terminal
from .common import (
    DECODING,
    TEMPERATURE,
    Allow,
    BlockLength,
    CfgScale,
    ChoiceTemperature,
    Commits,
    Delay,
    Eta,
    Gif,
    Html,
    Remask,
    Remasking,
    RunFolder,
    Seed,
    Steps,
    Strip,
    Temperature,
    Threshold,
    TopK,
    TopP,
    check_views,
    console,
    epilog,
    generator,
    say,
)
from .watch import check_watching, watch, write_views

app = typer.Typer()
DDPM_STEPS = 100
VECTORS = "Points and pictures"  # a heading in the help


@app.command(
    epilog=epilog(
        "tinydiff sample runs/demo",
        "tinydiff sample runs/demo --steps 16 --remasking random --temperature 1",
        "tinydiff sample runs/demo --batch 4 > samples.txt",
        "tinydiff sample runs/demo --html demo.html --gif demo.gif --strip demo.pdf",
        'tinydiff sample runs/demo --prompt "The " --threshold 0.9',
        "tinydiff sample runs/demo --remask cap --eta 0.05 --steps 256",
        "tinydiff sample runs/spiral --gif spiral.gif",
        "tinydiff sample runs/glyphs --label A --cfg-scale 1 --gif letters.gif",
    )
)
def sample(
    run: RunFolder,
    batch: Annotated[
        int | None, typer.Option(help="How many to generate; default 1 text, 1000 points or 36 pictures.")
    ] = None,
    length: Annotated[int | None, typer.Option(help="Characters of each; default the model's length.")] = None,
    steps: Steps = None,
    prompt: Annotated[str | None, typer.Option(help="How the text begins.")] = None,
    remasking: Remasking = None,
    remask: Remask = None,
    eta: Eta = None,
    commits: Commits = None,
    threshold: Threshold = None,
    sampler: Annotated[
        Literal["analytic", "euler"] | None,
        typer.Option(help="How score entropy steps; default analytic.", rich_help_panel=DECODING),
    ] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    block_length: BlockLength = None,
    choice_temperature: ChoiceTemperature = None,
    allow: Allow = None,
    cache: Annotated[
        bool | None, typer.Option("--cache/--no-cache", help="Autoregressive: keep keys and values; default yes.")
    ] = None,
    solver: Annotated[
        Literal["euler", "heun", "rk4"] | None,
        typer.Option(help="flow: how to follow it; default heun.", rich_help_panel=VECTORS),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="With classes: which one; default each in turn.", rich_help_panel=VECTORS)
    ] = None,
    cfg_scale: CfgScale = None,
    seed: Seed = 0,
    delay: Delay = 0.05,
    strip: Strip = None,
    html: Html = None,
    gif: Gif = None,
) -> None:
    """Generate from a run and watch: text from all masks, points and pictures from noise."""
    model, process, codec, config = learning.load(run)
    of_text = {
        "--length": length, "--remasking": remasking, "--temperature": temperature, "--top-k": top_k, "--top-p": top_p,
        "--block-length": block_length, "--choice-temperature": choice_temperature, "--sampler": sampler,
        "--prompt": prompt, "--remask": remask, "--commits": commits, "--threshold": threshold, "--allow": allow,
        "--cache": cache, "--strip": strip, "--html": html,
    }  # fmt: skip
    of_vectors = {"--solver": solver, "--label": label}
    for name, value in (of_text if codec is None else of_vectors).items():
        if value is not None:
            kind = config["process"]["process"]
            raise ValueError(f"{name} is {value}, but {run} is a run of {kind}: leave {name} out")
    if codec is None:
        own: dict[str, Any] = {"steps": steps, "eta": eta, "solver": solver}
        sample_vectors(run, model, process, config, batch, label, cfg_scale, own, seed, gif)
        return
    batch, temperature = 1 if batch is None else batch, TEMPERATURE if temperature is None else temperature
    length = model.length if length is None else length
    if not 1 <= length <= model.length:
        raise ValueError(f"--length is {length}; this model generates 1 to {model.length} characters")
    rng = generator(seed)
    given, allowed = None, None
    if prompt is not None:
        if len(prompt) > length:
            raise ValueError(f"--prompt has {len(prompt)} characters; the text has {length}")
        given = np.full(length, codec.vocab_size)
        given[: len(prompt)] = codec.encode(prompt)
    if allow is not None:
        allowed = allowed_there(codec, allow, np.full(length, codec.vocab_size) if given is None else given)
    options = known_options(
        process, run, steps=steps, remasking=remasking, remask=remask, eta=eta, commits=commits, threshold=threshold,
        sampler=sampler, block_length=block_length, choice_temperature=choice_temperature, cfg_scale=cfg_scale,
        given=given, allowed=allowed, cache=cache,
    )  # fmt: skip
    asks_the_model = remasking in (None, *ORDERS) and remask is None
    if asks_the_model and "choice_temperature" in signature(process.sample).parameters:
        options.setdefault("choice_temperature", CHOICE_TEMPERATURE)
    if options.get("sampler") != "euler":
        options |= {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    check_watching(batch, delay, strip, html, gif)
    shown = watch(process.sample(model, length, batch, rng=rng, **options), codec, run, delay)
    for ids in shown.frames[-1].state:
        say(codec.decode(ids))
    write_views(strip, html, gif, shown)


def sample_vectors(
    run: Path,
    model: Transformer,
    process: Process,
    config: dict[str, Any],
    batch: int | None,
    label: str | None,
    cfg_scale: float | None,
    own: dict[str, Any],
    seed: int,
    gif: Path | None,
) -> None:
    """Generate points, printed as numbers, or pictures, printed in shades; `own` are options of the process."""
    check_views(gif)
    kind, patch, names = config["process"]["process"], config["data"].get("patch", 0), config["data"].get("classes", "")
    for option in {"ddpm": ["solver"], "flow": ["eta"]}[kind]:
        if own.pop(option) is not None:
            raise ValueError(f"--{option} is given, but {run} is a run of {kind}: leave it out")
    own = {"steps": DDPM_STEPS} | own if kind == "ddpm" and own["steps"] is None else own
    batch = (36 if patch else 1000) if batch is None else batch
    if batch < 1:
        raise ValueError(f"--batch is {batch}; it must be at least 1")
    if label is not None and (len(label) != 1 or label not in names):
        raise ValueError(
            f"--label is {label!r}; expected " + (f"one of {names}" if names else "none: there are none here")
        )
    if cfg_scale is not None and not names:
        raise ValueError(f"--cfg-scale is {cfg_scale}, but {run} has no classes: leave it out")
    labels = None
    if names:
        labels = np.full(batch, names.index(label)) if label is not None else np.arange(batch) % len(names)
    told = conditioned(model, labels, cfg_scale or 0.0)
    options = {name: value for name, value in own.items() if value is not None}
    if gif is not None:
        from ..views import animation  # needs Pillow

        animation.check_gif(batch, patch, model.length)
    frames = list(process.sample(told, model.length, batch, rng=generator(seed), **options))
    for vectors in frames[-1].state:
        say(terminal.picture_text(vectors, patch) if patch else " ".join(f"{x:.4f}" for x in vectors.ravel()))
    if gif is not None:
        animation.save_gif(gif, frames, patch=patch)
        console.print(f"{gif}: {len(frames)} frames")


@app.command(
    epilog=epilog(
        'tinydiff infill runs/demo "def ____(self):"',
        'tinydiff infill runs/demo "the ~~~~~ of __init__" --blank "~"',
        'tinydiff infill runs/sums "17+25=__" --allow 0123456789',
    )
)
def infill(
    run: RunFolder,
    text: Annotated[str, typer.Argument(help="Text with blanks to fill in.", show_default=False)],
    blank: Annotated[str, typer.Option(help="The character that stands for a blank.")] = "_",
    steps: Steps = None,
    remasking: Remasking = None,
    remask: Remask = None,
    eta: Eta = None,
    commits: Commits = None,
    threshold: Threshold = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    block_length: BlockLength = None,
    choice_temperature: ChoiceTemperature = None,
    cfg_scale: CfgScale = None,
    allow: Allow = None,
    seed: Seed = 0,
    delay: Delay = 0.1,
    strip: Strip = None,
    html: Html = None,
    gif: Gif = None,
) -> None:
    """Fill the blanks of a text, leaving the rest as it is."""
    model, process, codec, config = learning.load(run)
    if codec is None:
        raise ValueError(
            f"{run} is a run of {config['process']['process']}, which cannot fill in text; use a masked one"
        )
    if isinstance(process, Autoregressive):
        raise ValueError(f"{run} is an autoregressive model, which cannot see what follows a blank; use a masked one")
    if len(blank) != 1:
        raise ValueError(f"--blank is {blank!r}; expected one character")
    if blank not in text:
        raise ValueError(f"text has no {blank!r} to fill in; mark blanks with it or choose another with --blank")
    if len(text) > model.length:
        raise ValueError(f"text has {len(text)} characters; this model takes at most {model.length}")
    if config["data"]["name"] in data.LAWS:
        text = text.ljust(model.length)  # its texts are padded with spaces
    blanks = np.array([character == blank for character in text])
    given = np.where(blanks, codec.vocab_size, codec.encode(text.replace(blank, codec.alphabet[0])))
    check_watching(1, delay, strip, html, gif)
    frames = process.sample(
        model, len(text), rng=generator(seed), temperature=TEMPERATURE if temperature is None else temperature,
        top_k=top_k, top_p=top_p, given=given, **known_options(
            process, run, steps=steps, remasking=remasking, remask=remask, eta=eta, commits=commits,
            threshold=threshold, block_length=block_length, choice_temperature=choice_temperature, cfg_scale=cfg_scale,
            allowed=None if allow is None else allowed_there(codec, allow, given),
        ),
    )  # fmt: skip
    shown = watch(frames, codec, run, delay)
    say(codec.decode(shown.frames[-1].state[0]))
    write_views(strip, html, gif, shown)


def known_options(process: Process, run: Path, **options: Any) -> dict[str, Any]:
    """The options that were given, refused where this process's sampler has no such option."""
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name not in signature(process.sample).parameters:
            flag = {"given": "--prompt", "allowed": "--allow"}.get(name, "--" + name.replace("_", "-"))
            told = "given" if isinstance(value, np.ndarray) else value
            kind = str(process.config["process"]).replace("_", "-")
            raise ValueError(f"{flag} is {told}, but {run} is {'an' if kind[0] in 'aeiou' else 'a'} {kind} model, "
                             f"whose sampler has no such option: leave {flag} out")  # fmt: skip
    return given


def allowed_there(codec: data.Codec, characters: str, given: Ints) -> Bools:
    """The tokens that each position of `given` (L,) may hold, (L, V): these characters wherever it is masked."""
    if not characters:
        raise ValueError("--allow is empty; name the characters that may be generated")
    allowed = np.zeros((len(given), codec.vocab_size), bool)
    allowed[:, codec.encode(characters)] = True
    allowed[given != codec.vocab_size] = True
    return allowed
