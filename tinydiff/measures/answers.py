"""Does a model follow instructions? What it answers to prompts, and how likely it finds an answer.

An answer is what stands between the prompt and the first EOS. Where there is no EOS it is the whole canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np

from .. import decoders
from ..arrays import Floats, Ints, check_counts
from ..data import Batch, Codec
from ..processes import Autoregressive, Process
from ..transformer import Model

Eos = Literal["free", "never", "last"]
"""EOS is a token like any other; or is never drawn; or is committed last (`LowConfidence.last`)."""
AT_ONCE = 256


def answers(
    process: Process,
    model: Model,
    codec: Codec,
    prompts: Sequence[str],
    canvas: int | None = None,
    *,
    decoder: Any = None,
    eos: Eos = "free",
    rng: np.random.Generator,
) -> list[str]:
    """What the model writes behind each prompt.

    Parameters
    ----------
    canvas : tokens that each answer may take; default what the model's length leaves
    decoder : default greedy: `NextToken` left to right, else `LowConfidence`, a token per step
    eos : "never" forbids it, so that every answer fills its canvas; "last" needs a `LowConfidence`

    """
    check_eos(eos)
    if canvas is not None and canvas < 1:
        raise ValueError(f"canvas is {canvas}; an answer needs at least one token")
    chosen = decoder if decoder is not None else greedy(process)
    if eos == "last":
        chosen = with_eos_last(chosen, codec)
    asked, written = [codec.encode(prompt) for prompt in prompts], [""] * len(prompts)
    most = int(getattr(model, "length", 1 << 30))
    for length in sorted({len(ids) for ids in asked}):
        room = most - length if canvas is None else canvas
        if room < 1 or length + room > most:
            over = next(prompt for prompt, ids in zip(prompts, asked, strict=True) if len(ids) == length)
            raise ValueError(
                f"prompt {over!r} has {length} {codec.unit}s, which leaves {max(most - length, 0)} of the {most} that "
                f"the model takes" + ("" if canvas is None else f", and canvas is {canvas}") + "; ask something shorter"
            )
        of_length = [i for i, ids in enumerate(asked) if len(ids) == length]
        for start in range(0, len(of_length), AT_ONCE):
            rows = of_length[start : start + AT_ONCE]
            x0 = np.zeros((len(rows), length + room), np.int64)
            x0[:, :length] = [asked[i] for i in rows]
            known: dict[str, Any] = {"x0": x0, "given": np.arange(length + room) < length} if length else {}
            if eos == "never":
                known["allowed"] = without(codec, length, room)
            *_, last = process.sample(model, length + room, len(rows), decoder=chosen, rng=rng, **known)
            for i, ids in zip(rows, last.state, strict=True):
                written[i] = answer_of(codec, ids[length:])
    return written


def greedy(process: Process) -> Any:
    """The decoder that takes the likeliest token each time: left to right, or where the process is surest."""
    draw = decoders.Draw(temperature=0.0)
    return decoders.NextToken(draw) if isinstance(process, Autoregressive) else decoders.LowConfidence(draw=draw)


def with_eos_last(decoder: Any, codec: Codec) -> Any:
    """A `LowConfidence` that commits EOS where there is nothing else to commit."""
    if not isinstance(decoder, decoders.LowConfidence):
        raise ValueError(
            f"eos is 'last', but {type(decoder).__name__} does not rank what it draws: use LowConfidence, or 'free'"
        )
    return replace(decoder, last=codec.eos_id)


def without(codec: Codec, length: int, canvas: int) -> Any:
    """What may stand where, (length + canvas, V): anything in the prompt, and behind it anything but EOS."""
    allowed = np.ones((length + canvas, codec.vocab_size), bool)
    allowed[length:, codec.eos_id] = False
    return allowed


def answer_of(codec: Codec, ids: Ints) -> str:
    """The text of (n,) ids up to the first EOS."""
    ends = np.flatnonzero(ids == codec.eos_id)
    return codec.decode(ids[: ends[0]] if len(ends) else ids)


def check_eos(eos: str) -> None:
    """ValueError for a name that is not one of `Eos`."""
    if eos not in get_args(Eos):
        raise ValueError(f"eos is {eos!r}; expected one of {', '.join(get_args(Eos))}")


def exact_match(written: Sequence[str], right: Sequence[str]) -> tuple[float, float]:
    """The share of answers that are right to the letter, and its standard error."""
    if len(written) != len(right) or not right:
        raise ValueError(f"written has {len(written)} answers and right {len(right)}; expected as many, at least one")
    share = float(np.mean([a == b for a, b in zip(written, right, strict=True)]))
    return share, math.sqrt(share * (1 - share) / len(right))


def nats(process: Process, model: Model, x0: Ints, given: Any, draws: int, rng: np.random.Generator) -> Floats:
    """That many unbiased estimates of an upper bound of -log p(answer | prompt), of (L,) ids: (draws,) nats.

    Masked diffusion masks exactly k of the A tokens of the answer, EOS and all, and weighs by A / k (LLaDA, algorithm
    3). k is uniform on 1 .. A for any number of draws, which equally spaced and rounded counts are not. Their mean is
    the estimate; left to right each is the likelihood itself.
    """
    check_counts(draws=draws)
    batch = Batch(np.tile(x0, (draws, 1)), given=np.tile(given, (draws, 1)))
    return process.bound(model, batch, rng)
