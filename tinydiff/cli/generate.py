"""Generating from a trained run: `tinydiff sample` and `tinydiff infill`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from .. import box, data, learning
from ..arrays import Bools, Ints
from ..decoders import Blocks, conditioned, prompted
from ..processes import Autoregressive, Bert, BlockDiffusion, MaskedDiffusion, Process
from ..transformer import Model, Transformer
from ..views import terminal
from ..views.gif import check_name
from ..views.trajectory import evenly
from .common import (
    DECODING,
    Allow,
    BlockLength,
    CfgScale,
    ChoiceTemperature,
    Commits,
    Delay,
    Drafts,
    Eta,
    Factor,
    Gamma,
    Gif,
    Html,
    Remask,
    Remasking,
    Rounds,
    RunFolder,
    Seed,
    Steps,
    Strip,
    Temperature,
    Threshold,
    TopK,
    TopP,
    check_delay,
    check_views,
    console,
    epilog,
    generator,
    on_terminal,
    say,
)
from .decoding import decoder_of, foreign
from .translate import refuse_translation
from .watch import check_watching, watch, write_views

app = typer.Typer()
DDPM_STEPS = 100
VECTORS = "Points and pictures"  # a heading in the help


@app.command(
    epilog=epilog(
        "tinydiff sample stories",
        "tinydiff sample runs/demo --steps 16 --remasking random --temperature 1",
        "tinydiff sample runs/demo --batch 4 > samples.txt",
        "tinydiff sample runs/demo --html demo.html --gif demo.gif --strip demo.pdf",
        'tinydiff sample runs/demo --prompt "The " --threshold 0.9',
        "tinydiff sample runs/demo --gamma 0.1",
        "tinydiff sample runs/demo --drafts 4",
        "tinydiff sample runs/demo --rounds 6",
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
    length: Annotated[int | None, typer.Option(help="Tokens of each; default the model's length.")] = None,
    steps: Steps = None,
    prompt: Annotated[str | None, typer.Option(help="How the text begins.")] = None,
    remasking: Remasking = None,
    remask: Remask = None,
    eta: Eta = None,
    rounds: Rounds = None,
    commits: Commits = None,
    threshold: Threshold = None,
    gamma: Gamma = None,
    factor: Factor = None,
    drafts: Drafts = None,
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
        bool | None,
        typer.Option("--cache/--no-cache", help="Autoregressive, block: keep keys and values; default yes."),
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
    refuse_translation(run, config)
    of_text = {"--length": length, "--prompt": prompt, "--allow": allow, "--strip": strip, "--html": html}
    for name, value in (of_text if codec is None else {"--label": label}).items():
        if value is not None:
            kind = config["process"]["process"]
            raise ValueError(f"{name} is {value}, but {run} is a run of {kind}: leave {name} out")
    defaults = {"steps": DDPM_STEPS} if codec is None else {"choice_temperature": box.choice_temperature(config)}
    decoder = decoder_of(
        process, run, defaults, steps=steps, remasking=remasking, remask=remask, eta=eta, rounds=rounds,
        commits=commits, threshold=threshold, gamma=gamma, factor=factor, drafts=drafts, sampler=sampler,
        temperature=temperature,
        top_k=top_k, top_p=top_p, block_length=block_length, choice_temperature=choice_temperature, cache=cache,
        solver=solver,
    )  # fmt: skip
    if codec is None:
        sample_vectors(run, model, process, config, batch, label, cfg_scale, decoder, seed, delay, gif)
        return
    batch, length = 1 if batch is None else batch, model.length if length is None else length
    if not 1 <= length <= model.length and not (isinstance(process, BlockDiffusion) and length >= 1):
        raise ValueError(f"--length is {length}; this model generates 1 to {model.length} {codec.unit}s")
    rng = generator(seed)
    known: dict[str, Any] = {}
    if prompt is not None:
        ids = codec.encode(begun(config, prompt))
        if len(ids) >= length:
            raise ValueError(f"--prompt has {len(ids)} {codec.unit}s; the text has {length}, so that none are left")
        known = {"x0": np.pad(ids, (0, length - len(ids))), "given": np.arange(length) < len(ids)}
    given = known.get("given", np.zeros(length, bool))
    if allow is not None:
        known["allowed"] = allowed_there(codec, allow, given)
    if "middles" in config["data"]:  # text only, none of the sentinels
        allowed = known.get("allowed", np.ones((length, codec.vocab_size), bool))
        known["allowed"] = np.pad(allowed, ((0, 0), (0, data.SENTINELS)))
    told = guided(model, process, run, given, cfg_scale)
    if isinstance(decoder, Blocks):
        decoder = replace(decoder, eos_id=codec.eos_id)
    check_watching(batch, delay, strip, html, gif)
    frames = process.sample(told, length, batch, decoder=decoder, rng=rng, **known)
    if "middles" in config["data"]:  # what is not written yet is the first id behind the text, as everywhere
        frames = (replace(frame, state=np.minimum(frame.state, codec.vocab_size)) for frame in frames)
    shown = watch(frames, codec, run, delay)
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
    decoder: Any,
    seed: int,
    delay: float,
    gif: Path | None,
) -> None:
    """Generate points, drawn on a terminal and printed as numbers into a file, or pictures, printed in shades."""
    check_delay(delay)
    check_name(gif)
    check_views(gif)
    patch, names = config["data"].get("patch", 0), config["data"].get("classes", "")
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
    if gif is not None:
        from ..views import animation  # needs Pillow

        animation.check_gif(batch, patch, model.length)
    frames = list(process.sample(told, model.length, batch, decoder=decoder, rng=generator(seed)))
    plane = model.length * (model.features or 0) == 2
    if plane and console.is_terminal:
        terminal.show_points(console, evenly(frames, 60), title=str(run), delay=delay)
    for vectors in frames[-1].state if not (plane and console.is_terminal and on_terminal(sys.stdout)) else ():
        say(terminal.picture_text(vectors, patch) if patch else " ".join(f"{x:.4f}" for x in vectors.ravel()))
    if gif is not None:
        name = config["data"]["name"]
        true = data.VECTORS[name]().held_out[:batch] if name in data.VECTORS and not patch else None
        animation.save_gif(gif, frames, patch=patch, data=true)
        console.print(f"{gif}: {len(frames)} frames")


@app.command(
    epilog=epilog(
        'tinydiff infill stories "In the park, _ found a red kite. Her _ Tom came to play."',
        'tinydiff infill runs/book "the ~~~~~ of __init__" --blank "~"',
        'tinydiff infill runs/sums "17+25=__" --allow 0123456789',
        'tinydiff infill runs/middles "def __init__(____, name):"',
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
    rounds: Rounds = None,
    commits: Commits = None,
    threshold: Threshold = None,
    gamma: Gamma = None,
    factor: Factor = None,
    drafts: Drafts = None,
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
    refuse_translation(run, config)
    if codec is None:
        raise ValueError(
            f"{run} is a run of {config['process']['process']}, which cannot fill in text; use a masked one"
        )
    if isinstance(process, Autoregressive) and "middles" not in config["data"]:
        raise ValueError(
            f"{run} is an autoregressive model, which cannot see what follows a blank; use a masked one, or one "
            "trained with --middles"
        )
    if len(blank) != 1:
        raise ValueError(f"--blank is {blank!r}; expected one character")
    if blank not in text:
        raise ValueError(f"text has no {blank!r} to fill in; mark blanks with it or choose another with --blank")
    if config["data"]["name"] in data.LAWS and codec.unit == "character":
        text = text.ljust(model.length)  # its texts are padded with spaces
    x0, given = data.with_blanks(codec, begun(config, text), blank)
    if "middles" in config["data"] and isinstance(process, Autoregressive):
        decoder = decoder_of(
            process, run, steps=steps, remasking=remasking, remask=remask, eta=eta, commits=commits,
            threshold=threshold, gamma=gamma, factor=factor, drafts=drafts, temperature=temperature, top_k=top_k,
            top_p=top_p, block_length=block_length, choice_temperature=choice_temperature, cfg_scale=cfg_scale,
        )  # fmt: skip
        for option, value in {"--allow": allow, "--strip": strip, "--html": html, "--gif": gif}.items():
            if value is not None:
                raise ValueError(
                    f"{option} is {value}, but {run} writes the middle behind the rest: leave {option} out"
                )
        say(codec.decode(with_middle(model, process, decoder, x0, given, codec, generator(seed))))
        return
    if len(x0) > model.length:
        raise ValueError(f"text has {len(x0)} {codec.unit}s; this model takes at most {model.length}")
    if config["data"]["name"] in data.LAWS:  # whole texts are all it knows: what is missing at the end is a blank too
        rest = model.length - len(x0)
        x0, given = np.pad(x0, (0, rest)), np.pad(given, (0, rest))
    decoder = decoder_of(
        process, run, steps=steps, remasking=remasking, remask=remask, eta=eta, rounds=rounds, commits=commits,
        threshold=threshold, gamma=gamma, factor=factor, drafts=drafts, temperature=temperature, top_k=top_k,
        top_p=top_p, block_length=block_length, choice_temperature=choice_temperature,
    )  # fmt: skip
    known: dict[str, Any] = {"x0": x0, "given": given}
    if allow is not None:
        known["allowed"] = allowed_there(codec, allow, given)
    told = guided(model, process, run, given, cfg_scale)
    check_watching(1, delay, strip, html, gif)
    frames = process.sample(told, len(x0), decoder=decoder, rng=generator(seed), **known)
    shown = watch(frames, codec, run, delay)
    say(codec.decode(shown.frames[-1].state[0]))
    write_views(strip, html, gif, shown)


def with_middle(
    model: Model,
    process: Autoregressive,
    decoder: Any,
    x0: Ints,
    given: Bools,
    codec: data.Codec,
    rng: np.random.Generator,
) -> Ints:
    """The text with its one gap filled by a model that was trained with middles at the end: as long as it likes."""
    start, stop = int(given.argmin()), len(given) - int(given[::-1].argmin())
    if given[start:stop].any():
        raise ValueError("text has more than one gap; this model moves one middle to the end: fill in one at a time")
    v, length, known = codec.vocab_size, getattr(model, "length", 0), len(x0) - (stop - start)
    rest = length - known - data.SENTINELS
    if rest < 1:
        raise ValueError(
            f"text has {known} {codec.unit}s beside its gap; this model takes at most {length - data.SENTINELS - 1}"
        )
    x0 = np.concatenate([x0[:start], np.zeros(rest, np.int64), x0[stop:]])
    moved = data.middle_last(x0, start, start + rest, v)
    there = np.arange(length) < known + data.SENTINELS - 1
    allowed = np.arange(v + data.SENTINELS) < v
    allowed[-1] = True  # END
    allowed = np.where(there[:, None], True, allowed)
    for frame in process.sample(model, length, decoder=decoder, x0=moved, given=there, allowed=allowed, rng=rng):
        middle = data.middle_of(frame.state[0], v)
        if middle is not None:
            return np.concatenate([x0[:start], middle, x0[start + rest :]])
    raise ValueError(f"the middle did not end within the {length} {codec.unit}s of this model: try another --seed")


def begun(config: dict[str, Any], text: str) -> str:
    """A text as the data of a run has it: stories have a blank before every word, the first too, and none behind."""
    if config["data"]["name"] != "stories":
        return text
    text = text.rstrip(" ")
    return " " + text if text[:1].isalpha() else text


def guided(model: Model, process: Process, run: Path, given: Bools, cfg_scale: float | None) -> Model:
    """The model that exaggerates what is given (L,), if that is asked for."""
    if cfg_scale is None:
        return model
    if not isinstance(process, MaskedDiffusion) or isinstance(process, Bert):
        raise foreign("cfg_scale", cfg_scale, process, run)
    return prompted(model, given, process.mask_id, cfg_scale)


def allowed_there(codec: data.Codec, characters: str, given: Bools) -> Bools:
    """The tokens that each position may hold, (L, V): those of these characters wherever nothing is `given` (L,)."""
    if not characters:
        raise ValueError("--allow is empty; name the characters that may be generated")
    codec.encode(characters)  # an error for what it does not have
    made = np.array([set(token) <= set(characters) for token in codec.tokens])
    return np.asarray(made | given[:, None])
