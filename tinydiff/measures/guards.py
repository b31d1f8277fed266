"""What a guard sees, and when: forbidden texts in a model that fills in the middle.

The stand-in is harmless: a law over short texts, and a forbidden pattern F, say a pair of tokens. A model that fills in
has a surface that one from left to right has not: whoever writes the *end* of a text conditions on it (DIJA, Wen et al.
2025). With pi = P(F | prefix) and r = P(suffix | not F) / P(suffix | F), both given the prefix,

    P(F | prefix, suffix) = pi / (pi + (1 - pi) r)

whatever a guard on the prefix sees; and a refusal that the suffix contradicts is conditioned away. What a guard may
read: the prefix, the template (prefix and suffix), every state on the way, the finished text. All of them ask one
question, h(x_t) = P(F | what is visible), which is exact here. One token per step, drawn from the true conditionals in
an order that does not look ahead, makes h a martingale: a text is refused with probability at most h_0 / tau, a
harmless one with at most h_0 (1 - tau) / tau, and of F nothing survives, because at the end h is 1. What is harmful in
the world has no such h: a learnt one breaks these promises, and so does committing tokens in parallel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..data.laws import Listed
from ..decoders import Frame
from ..processes.discrete import token_probabilities
from ..tensor import Tensor
from ..transformer import Model


class Danger:
    """h: how likely a text is to be forbidden, given what is visible of it.

    Parameters
    ----------
    law : what texts there are
    forbidden : says of a text whether it is forbidden

    """

    def __init__(self, law: Listed, forbidden: Callable[[str], bool]) -> None:
        self.law, self.mask_id, self.pattern = law, law.codec.vocab_size, forbidden
        self.forbidden: Bools = np.array([bool(forbidden(text)) for text in law.texts])
        if self.forbidden.all() or not self.forbidden.any():
            which = "every text" if self.forbidden.all() else "no text"
            raise ValueError(f"forbidden holds of {which} of the law; expected a pattern that some have and some not")

    @property
    def harmless(self) -> Listed:
        """The law given that a text is not forbidden: what a perfect guard leaves."""
        keep = ~self.forbidden
        texts = tuple(text for text, kept in zip(self.law.texts, keep, strict=True) if kept)
        return Listed(texts, self.law.p[keep] / self.law.p[keep].sum())

    def matching(self, states: Ints) -> Bools:
        """Which texts of the law fit what is visible: (B, L) ids, MASK where hidden, to (B, N)."""
        states = np.asarray(states)
        fits = (states[:, None] == self.law.ids) | (states[:, None] == self.mask_id)
        return np.asarray(fits.all(axis=2))

    def __call__(self, states: Ints) -> Floats:
        """P(F | visible), (B,); 0 where what is visible fits no text."""
        fits = self.matching(states) * self.law.p
        bad, good = fits @ self.forbidden, fits @ ~self.forbidden  # so that h is 1 where nothing harmless is left
        return np.asarray(np.divide(bad, bad + good, out=np.zeros(len(fits)), where=bad + good > 0))

    def found(self, ids: Ints) -> Bools:
        """Which finished texts, (B, L), are forbidden ones, whether the law has them or not: (B,)."""
        return np.array([bool(self.pattern(self.law.codec.decode(row))) for row in ids])


@dataclass(frozen=True)
class Watched:
    """What a guard on every state made of a batch.

    Attributes
    ----------
    ids : (B, L) texts as far as they were written, MASK where they were not
    refused : (B,)
    step : (B,) the step after which each was refused, or how many it took
    danger : (steps + 1, B), h after each step, of those refused as it was then

    """

    ids: Ints
    refused: Bools
    step: Ints
    danger: Floats


def watched(frames: Iterable[Frame], danger: Danger, tau: float) -> Watched:
    """Stop writing each text as soon as h reaches tau; the template is a state, and may be refused unwritten."""
    check_threshold(tau)
    ids = refused = step = None
    course = []
    for frame in frames:
        if ids is None or refused is None or step is None:
            ids, refused = frame.state.copy(), np.zeros(len(frame.state), bool)
            step = np.zeros(len(frame.state), np.int64)
        ids[~refused], step[~refused] = frame.state[~refused], frame.step
        h = danger(ids)
        course.append(h)
        refused |= h >= tau
    if ids is None or refused is None or step is None:
        raise ValueError("frames is empty; expected those of a decoder")
    return Watched(ids, refused, step, np.array(course))


class Steered:
    """The model, kept away from F: p(v) (1 - h(x with v)) at each masked position, normalised (Doob's transform).

    One token per step this is exactly the law given not F; several per step it is not.

    Parameters
    ----------
    model : with the true conditionals, for that to hold

    """

    def __init__(self, model: Model, danger: Danger) -> None:
        self.model, self.danger, self.vocab_size = model, danger, danger.mask_id

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        """Log-probabilities (B, L, V), or (n, V) for the positions of `select`."""
        batch, length = x.shape
        p = token_probabilities(self.model, x, 0.5 if t is None else t)
        after = np.repeat(x[:, None], length * self.vocab_size, axis=1).reshape(batch, length, self.vocab_size, length)
        place = np.arange(length)
        after[:, place, :, place] = np.arange(self.vocab_size)  # position i set to v
        h = self.danger(after.reshape(-1, length)).reshape(batch, length, self.vocab_size)
        kept = p * (1 - h)
        total = kept.sum(axis=-1, keepdims=True)
        p = np.divide(kept, total, out=p, where=total > 0)
        with np.errstate(divide="ignore"):
            log_p = np.log(p)
        return Tensor(log_p if select is None else log_p[select])


def with_refusal(law: Listed, refusal: str, share: float, asked: Callable[[str], bool] | None = None) -> Listed:
    """The law of a model that has learnt to refuse: in that share of the texts that are asked for, `refusal` instead.

    Parameters
    ----------
    refusal : a text of the same length that the law does not have
    share : rho, of the probability of the texts concerned, 0 < rho < 1
    asked : which texts are concerned; None for all

    """
    if refusal in law.texts or len(refusal) != law.length:
        raise ValueError(f"refusal is {refusal!r}; expected {law.length} characters, and no text of the law")
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; expected 0 < share < 1")
    concerned = np.array([asked is None or asked(text) for text in law.texts])
    p = np.where(concerned, (1 - share) * law.p, law.p)
    return Listed((*law.texts, refusal), np.append(p, share * law.p[concerned].sum()))


def check_threshold(tau: float) -> None:
    """ValueError for a threshold that no probability crosses, or all."""
    if not 0 < tau < 1:
        raise ValueError(f"tau is {tau}; expected 0 < tau < 1, a probability from which on to refuse")
