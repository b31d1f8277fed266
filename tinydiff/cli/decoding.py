"""From the flat options of the command line to a decoder, which has only its own."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from .. import decoders
from ..processes import BlockDiffusion, Process
from .common import TEMPERATURE

CHOICES: dict[str, dict[str, type[Any]]] = {
    "remasking": {
        "low_confidence": decoders.LowConfidence,
        "most_likely": decoders.MostLikely,
        "entropy": decoders.Entropy,
        "margin": decoders.Margin,
        "random": decoders.Random,
        "left_to_right": decoders.LeftToRight,
        "ancestral": decoders.Ancestral,
        "first_hitting": decoders.FirstHitting,
    },
    "remask": {
        "cap": decoders.RemaskCap,
        "rescale": decoders.RemaskRescale,
        "confidence": decoders.RemaskConfidence,
    },
    "sampler": {"analytic": decoders.Tweedie, "euler": decoders.Euler},
}
"""Options whose value names a decoder."""
CHOICES["decoder"] = CHOICES["remasking"]  # what `evaluate` calls it
BY_BEING_THERE = {
    "threshold": decoders.Threshold, "gamma": decoders.EntropyBounded, "factor": decoders.Frechet,
    "drafts": decoders.Speculate,
}  # fmt: skip
"""Options that choose a decoder by being there."""
DRAW = ("temperature", "top_k", "top_p")


def decoder_of(process: Process, run: Path, defaults: dict[str, Any] | None = None, **options: Any) -> Any:
    """The decoder that the options of a command describe, None for those that were not given.

    Parameters
    ----------
    defaults : of options that were not given, where the decoder has them

    """
    if isinstance(process, BlockDiffusion):
        return blocks_of(process, run, defaults, **options)
    if (rounds := options.pop("rounds", None)) is not None:
        if decoders.Gibbs not in process.decoded_by:
            raise foreign("rounds", rounds, process, run)
        if options.get("drafts") is not None:
            raise ValueError(
                f"--rounds is {rounds} and --drafts is {options['drafts']}, but second thoughts are not guessed: leave "
                "one of them out"
            )
        return decoders.Gibbs(decoder_of(process, run, defaults, **options), rounds)
    given = {name: value for name, value in options.items() if value is not None}
    chosen = {name: CHOICES[name][given[name]] for name in CHOICES if name in given}
    chosen |= {name: kind for name, kind in BY_BEING_THERE.items() if name in given}
    for name, named in chosen.items():
        if named not in process.decoded_by:
            raise foreign(name, given[name], process, run)
    if len(chosen) > 1:
        told = " and ".join(f"{flag(name)} is {given[name]}" for name in chosen)
        raise ValueError(f"{told}, but each of them chooses the decoder: leave all but one out")
    kind: type[Any] = next(iter(chosen.values()), process.decoded_by[0])
    known = {field.name for field in fields(kind)} | (set(DRAW) if takes_draw(kind) else set())
    own = {name: value for name, value in given.items() if name not in CHOICES}
    for name, value in own.items():
        if name not in known:
            raise foreign(name, value, process, run, kind)
    own = {name: value for name, value in (defaults or {}).items() if name in known} | own
    if takes_draw(kind):
        draw = {name: own.pop(name) for name in DRAW if name in own}
        own["draw"] = decoders.Draw(**({"temperature": TEMPERATURE} | draw))
    return kind(**own)


def blocks_of(process: BlockDiffusion, run: Path, defaults: dict[str, Any] | None, **options: Any) -> decoders.Blocks:
    """The decoder of blocks, each filled as masked diffusion would be by the same options."""
    if options.get("block_length") is not None:
        raise ValueError(
            f"--block-length is {options['block_length']}, but {run} was trained for blocks of {process.block_length}: "
            "leave --block-length out"
        )
    if options.get("drafts") is not None:
        raise ValueError(
            f"--drafts is {options['drafts']}, but {run} is a block model, which is not asked about several drafts at "
            "once: leave --drafts out"
        )
    cache = options.pop("cache", None)
    return decoders.Blocks(decoder_of(process.inside, run, defaults, **options), cache=True if cache is None else cache)


def takes_draw(kind: type) -> bool:
    """Whether a decoder draws tokens from logits that can be tempered."""
    return "draw" in {field.name for field in fields(kind)}


def foreign(name: str, value: Any, process: Process, run: Path, kind: type | None = None) -> ValueError:
    """The error for an option that the decoder has not."""
    process_name = str(process.config["process"]).replace("_", "-")
    model = f"{'an' if process_name[0] in 'aeiou' else 'a'} {process_name} model"
    why = "whose decoders have no such option" if kind is None else f"and {kind.__name__} has no such option"
    typed, is_it = (flag(f"no_{name}"), "there") if value is False else (flag(name), value)
    return ValueError(f"{typed} is {is_it}, but {run} is {model}, {why}: leave {typed} out")


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")
