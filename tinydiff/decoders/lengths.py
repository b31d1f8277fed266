"""How long will it be? Length as a latent variable: the likeliest lengths side by side, the best of them kept.

    p(y | x) = p(N | x) p(y | x, N)

A model that writes left to right ends when it ends. One that writes all at once has to know how many words there are,
and guesses (Gu et al. 2017; Ghazvininejad et al. 2019, section 3.3). Here the number of words is the first token of
what is to be written, and another token fills up what is left of the canvas. So any model of masks can be asked for the
number first, and then for words with number and filling given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import kernels
from ..arrays import Floats, Ints
from ..transformer import Model
from .canvas import Canvas
from .decoder import Decoder, Masks
from .draws import constrained, logits_at, untempered
from .frames import Frame
from .mask_predict import MaskPredict


@dataclass(frozen=True)
class LengthBeam:
    """The `beams` likeliest lengths at the same time, each written by the same decoder; the surest text is kept.

    That is the one whose words have the highest mean log probability, as they had it when they were written.

    Attributes
    ----------
    fill_id : the token that fills up
    counts : the token that says "n words", for n = 1, 2 ..; -1 for lengths that there are not
    beams : how many lengths
    decoder : how each of them is written

    """

    fill_id: int
    counts: tuple[int, ...]
    beams: int = 2
    decoder: Decoder = field(default_factory=MaskPredict)

    def __post_init__(self) -> None:
        there = sum(count >= 0 for count in self.counts)
        if not 1 <= self.beams <= there:
            raise ValueError(f"beams is {self.beams}; there are {there} lengths, expected 1 <= beams <= {there}")

    def __call__(self, process: Any, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """The frames of the lengths that are kept, which is known only when all are written."""
        if canvas.allowed is not None:
            raise ValueError("allowed is there, but a beam of lengths itself says where a text may end: leave it out")
        length = canvas.start.shape[1]
        begin = length - 1 - len(self.counts)
        if begin < 0 or not (canvas.given == (np.arange(length) < begin)).all():
            raise ValueError(
                f"given is True elsewhere than at the first {max(begin, 0)} of {length} positions; a beam of lengths "
                f"writes a number of words and up to {len(self.counts)} words"
            )
        return self._frames(process, model, canvas, begin, rng)

    def _frames(
        self, process: Masks, model: Model, canvas: Canvas, begin: int, rng: np.random.Generator
    ) -> Iterator[Frame]:
        place = np.arange(canvas.start.shape[1])
        law = length_law(process, model, canvas, begin, np.array(self.counts))  # (B, T)
        law = np.where(np.array(self.counts) >= 0, law, -1)  # never one that there is not
        best = kernels.topk(law, self.beams)[1].reshape(-1, 1)  # (B beams, 1): the number of words, less 1
        start = np.repeat(canvas.start, self.beams, axis=0)
        start = np.where(place == begin, np.array(self.counts)[best], start)
        fills = place > begin + 1 + best
        given = fills | (place <= begin)
        words = np.ones((*start.shape, canvas.mask_id), bool)
        words[..., self.fill_id] = given  # no word fills up
        inner = Canvas(np.where(fills, self.fill_id, start), given, canvas.mask_id)
        frames = list(self.decoder(process, constrained(model, words), inner, rng))
        with np.errstate(divide="ignore"):
            score = np.where(given, 0, np.log(frames[-1].confidence)).sum(axis=1) / (~given).sum(axis=1)
        kept = score.reshape(-1, self.beams).argmax(axis=1) + self.beams * np.arange(len(law))
        for frame in frames:
            state, sure, committed, remasked = (
                x[kept] for x in (frame.state, frame.confidence, frame.committed, frame.remasked)
            )
            yield canvas.frame(frame.step, frame.steps, frame.t, state, sure, committed, remasked)


def length_law(process: Masks, model: Model, canvas: Canvas, place: int, counts: Ints) -> Floats:
    """p(N = n | x) for n = 1, 2 .., from the number of words that the model would write at `place`: (B, T).

    Of the tokens `counts`, (T,), whose probabilities are made to sum to 1; -1 has none.
    """
    t = process.schedule.inverse(1 - canvas.free.mean(axis=1))
    here = np.tile(np.arange(canvas.start.shape[1]) == place, (len(canvas.start), 1))
    p = np.where(counts >= 0, untempered(logits_at(model, canvas.start, here, t))[:, counts], 0)
    return np.asarray(p / p.sum(axis=1, keepdims=True))
