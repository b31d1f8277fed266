"""The exact likelihood of a decoder: how probable is it that it writes this very text? (DUEL, Turok et al. 2026.)

If which positions a step commits depends on the state alone, and not on what was drawn or on chance, then there is one
way only to a text x, and it can be walked: let the decoder choose, and put the tokens of x where it does.

    log p(x) = sum over steps of sum over the positions i committed of log p_theta(x^i | state)

These probabilities sum to one over all x. So fewer steps can be weighed in nats, on held-out text, in as many looks as
the decoder takes, where generative perplexity needs another model and rewards repetition. For a model of random order
there is a bound only; this is no bound but the law of what the decoder writes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..tensor import Tensor
from ..transformer import Model
from .blocks import BlockByBlock, within
from .canvas import Canvas
from .certified import AsManyAs
from .draws import Draw
from .one_pass import AtOnce
from .orders import LowConfidence, Order, Random
from .threshold import Threshold


def replay(process: Any, model: Model, decoder: Any, x0: Ints, given: Bools | None = None) -> Floats:
    """Exact -log p of texts (B, L) under a decoder of masks or of blocks, of what is not `given` (B, L): (B,) nats.

    ValueError for a decoder without a likelihood, saying why.
    """
    check_law(decoder)
    known = np.zeros(x0.shape, bool) if given is None else given
    if not isinstance(decoder, BlockByBlock):
        return _replayed(process, model, decoder, x0, known)
    reader, total = decoder.reader(process, model), np.zeros(len(x0))
    for start in range(0, x0.shape[1], reader.block_length):
        stop = min(start + reader.block_length, x0.shape[1])
        here = slice(start, stop)
        if not known[:, here].all():
            state = np.where(known | (np.arange(x0.shape[1]) < start), x0, process.mask_id)
            told, masks = reader.block(state, start, stop), getattr(process, "inside", process)
            total += _replayed(masks, told, decoder.inside, x0[:, here], known[:, here])
    return total


def check_law(decoder: Any) -> None:
    """ValueError for a decoder that has no exact likelihood that could be computed by walking to the text."""
    if found := lawless(decoder):
        why, remedy = found
        raise ValueError(f"decoder is {decoder!r}, which has no exact likelihood: it {why}: {remedy}")


def lawless(decoder: Any) -> tuple[str, str] | None:
    """Why a decoder has no exact likelihood, and what to do about it; None if it has one."""
    if isinstance(decoder, BlockByBlock):
        if decoder.eos_id is None:
            return lawless(decoder.inside)
        return "cuts texts at their end, so that many draws lead to one text", "leave eos_id out"
    if isinstance(decoder, LowConfidence | Threshold):
        why = "looks at the tokens that were drawn to choose positions, so what it could have drawn elsewhere counts"
        return why, "use MostLikely, Entropy or EntropyBounded"
    if isinstance(decoder, Random) or getattr(decoder, "choice_temperature", 0) > 0:
        why = "chooses positions by chance, so there are many ways to a text"
        return why, "take `process.bound`, which averages over them"
    if not isinstance(decoder, Order | AsManyAs | AtOnce):
        return "leads to a text in many ways", "use MostLikely, Entropy, Margin, LeftToRight, EntropyBounded or Frechet"
    if decoder.draw != Draw():
        why = f"draws with {decoder.draw}, which is not the law of the model"
        return why, "use Draw(), temperature 1 and no cut"
    return None


def _replayed(process: Any, model: Model, decoder: Any, x0: Ints, given: Bools) -> Floats:
    """The same in one canvas."""
    told = _Listening(model, x0)
    canvas = Canvas(np.where(given, x0, process.mask_id), given, process.mask_id)
    *_, last = within(replace(decoder, draw=_Dictated(dictation=told)), canvas)(
        process, told, canvas, np.random.default_rng(0)
    )
    return np.asarray(-np.log(last.confidence).sum(axis=1))


class _Listening:
    """The model, remembering where it was asked last, and the text that is to be written there."""

    def __init__(self, model: Model, text: Ints) -> None:
        self.model, self.text = model, text

    def __call__(self, x: Any, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        self.where = select
        return self.model(x, t, causal=causal, select=select)


@dataclass(frozen=True)
class _Dictated(Draw):
    """Draws what the text says."""

    dictation: Any = None

    def tokens(self, logits: Floats, p: Floats, rng: np.random.Generator) -> Ints:
        return np.asarray(self.dictation.text[self.dictation.where])
