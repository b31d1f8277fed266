"""What a decoder is: a small value that knows how to get from masks to text, and nothing of any other way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeVar

import numpy as np

from ..arrays import check_counts
from ..schedules import Schedule
from ..transformer import Model
from .canvas import Canvas
from .frames import Frame

Value = TypeVar("Value")


class Decoder(Protocol):
    """Called by `process.sample` with the process itself, of which each decoder needs only a little."""

    def __call__(self, process: Any, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """The frames from the empty canvas to the full one; ValueError, before any of them, for what cannot be done."""
        ...


class Masks(Protocol):
    """What decoders of masked diffusion need of their process: when how much is masked."""

    @property
    def schedule(self) -> Schedule:
        """alpha(t)."""
        ...


def suited(decoder: Value | None, kinds: tuple[type[Value], ...], process: str) -> Value:
    """The decoder, by default the first kind with its default options; ValueError for one of another kind."""
    if decoder is None:
        return kinds[0]()
    if not isinstance(decoder, kinds):
        names = ", ".join(f"{kind.__name__}()" for kind in kinds)
        raise ValueError(f"decoder is {decoder!r}, which is not made for {process}; expected one of {names}")
    return decoder


def check_steps(steps: int | None) -> None:
    """ValueError for a number of steps that is none."""
    if steps is not None:
        check_counts(steps=steps)
