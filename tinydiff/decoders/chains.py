"""Sampling any diffusion on tokens: from random tokens down its reverse chain, where every position may change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from ..arrays import Floats, Ints
from ..transformer import Model
from .canvas import Canvas
from .decoder import check_steps
from .draws import Draw, categorical
from .frames import Frame


class Reversible(Protocol):
    """What these decoders need of their process: its times, its noise, and the law of one step back."""

    steps: int | None

    @property
    def prior(self) -> Floats:
        """The noise of random tokens, (S,)."""
        ...

    def grid(self, steps: int) -> Floats:
        """The times of a chain of that many steps, from 0 to 1."""
        ...

    def reverse(self, model: Model, xt: Ints, t: ArrayLike, s: ArrayLike, draw: Draw | None = None) -> Floats:
        """p_theta(x_s^i | x_t) of every position: (B, L, S)."""
        ...


class Jumping(Reversible, Protocol):
    """A process that also knows the rates at which tokens jump."""

    def euler(self, model: Model, xt: Ints, t: ArrayLike, s: ArrayLike) -> Floats:
        """The law of one step along the rates: (B, L, S)."""
        ...


@dataclass(frozen=True)
class Chain:
    """Ancestral sampling of D3PM (Austin et al. 2021): x_s from p_theta(x_s | x_t), the posterior by Bayes' rule.

    Attributes
    ----------
    steps : default all T of the process; fewer take strides
    draw : of the prediction of x_0, see `Draw`

    """

    steps: int | None = None
    draw: Draw = Draw()

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def __call__(self, process: Reversible, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per step."""
        return walk(process, lambda x, t, s: process.reverse(model, x, t, s, self.draw), canvas, self.steps, rng)


@dataclass(frozen=True)
class Tweedie:
    """The analytic sampler of score entropy, Tweedie tau-leaping (SEDD, Lou et al. 2023, theorem 4.2).

    Attributes
    ----------
    steps : default one per position
    draw : of the denoiser behind the score, see `Draw`

    """

    steps: int | None = None
    draw: Draw = Draw()

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def __call__(self, process: Reversible, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per step."""
        return walk(process, lambda x, t, s: process.reverse(model, x, t, s, self.draw), canvas, self.steps, rng)


@dataclass(frozen=True)
class Euler:
    """Euler steps along the rates of score entropy, tau-leaping (Campbell et al. 2022), as they are: no `Draw`.

    Attributes
    ----------
    steps : default one per position

    """

    steps: int | None = None

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def __call__(self, process: Jumping, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per step."""
        return walk(process, lambda x, t, s: process.euler(model, x, t, s), canvas, self.steps, rng)


Reverse: TypeAlias = Callable[[Ints, float, float], Floats]
"""One step back: x_t (B, L) and the times t > s to the law of each position of x_s, (B, L, S)."""


def walk(
    process: Reversible, reverse: Reverse, canvas: Canvas, steps: int | None, rng: np.random.Generator
) -> Iterator[Frame]:
    """Draw every free position of x_s from the law that `reverse` gives, for each pair of neighbouring times.

    Parameters
    ----------
    steps : None for those of the process, or one per position where it has none

    """
    most = process.steps or canvas.start.shape[1]
    times = process.grid(most if steps is None else steps)
    prior = process.prior
    noise = categorical(np.broadcast_to(prior, (*canvas.start.shape, len(prior))), rng)
    return _walk(reverse, np.where(canvas.given, canvas.start, noise), canvas, times, rng)


def _walk(reverse: Reverse, state: Ints, canvas: Canvas, times: Floats, rng: np.random.Generator) -> Iterator[Frame]:
    steps = len(times) - 1
    frame = canvas.first(steps, float(times[-1]), state)
    yield frame
    confidence = frame.confidence
    for step in range(1, steps + 1):
        t, s = float(times[steps - step + 1]), float(times[steps - step])
        law = reverse(state, t, s)
        drawn = np.where(canvas.given, state, categorical(law, rng))
        sure = np.take_along_axis(law, drawn[..., None], axis=-1)[..., 0]
        changed = drawn != state
        confidence = np.where(changed, sure, confidence)
        state = drawn
        yield canvas.frame(step, steps, s, state, confidence, changed)
