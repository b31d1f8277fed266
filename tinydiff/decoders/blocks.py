"""Block after block, each by any decoder of masks, with the finished ones read once (BD3-LM, Arriola et al. 2025).

A block sees itself and those before it, which never change again. So their keys and values are kept, and a look at a
block of b tokens computes b positions, however long the text is. Kept so they are exact, not an approximation: nothing
that comes later could have changed them.

A finished block has to be read once more, as text instead of masks, before the next one can see it. That takes no call
of its own: it is read together with the first look at the next block, so there are as many calls as looks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..tensor import Tensor, no_grad
from ..transformer import Cache, Model, Transformer
from .canvas import Canvas
from .decoder import Masks
from .draws import constrained
from .frames import Frame
from .orders import Order
from .reverse import FirstHitting
from .speculate import Speculate


@dataclass(frozen=True)
class BlockByBlock:
    """Base: fill block after block.

    Attributes
    ----------
    inside : how a block is filled: any decoder of masked diffusion. Its `steps` are those of a block, and of an order
        as many as the block has masks if those are fewer
    eos_id : the token that ends a text. What follows the first one that was generated becomes the same token, and when
        all sequences have ended no more blocks are made; None for texts of the full length

    """

    inside: Any = field(default_factory=FirstHitting)
    eos_id: int | None = None

    def reader(self, process: Any, model: Model) -> BlockReader:
        """What reads the text, and answers for one block after another."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        if isinstance(self.inside, Speculate):
            raise ValueError(
                f"inside is {self.inside!r}, which asks for several canvases at once; expected one that does not"
            )
        if isinstance(self.inside, BlockByBlock) or getattr(self.inside, "block_length", None) is not None:
            raise ValueError(f"inside is {self.inside!r}, which has blocks of its own; expected a decoder without")

    def __call__(self, process: Any, model: Model, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        """A frame per step; `steps` of a frame is how many there may be at most."""
        if self.eos_id is not None and not 0 <= self.eos_id < canvas.mask_id:
            raise ValueError(f"eos_id is {self.eos_id}; expected a token, 0 <= id < {canvas.mask_id}, or None")
        return self._frames(getattr(process, "inside", process), self.reader(process, model), canvas, rng)

    def _frames(self, masks: Masks, reader: BlockReader, canvas: Canvas, rng: np.random.Generator) -> Iterator[Frame]:
        state, given, b = canvas.start, canvas.given, reader.block_length
        most = np.add.reduceat(canvas.free, np.arange(0, state.shape[1], b), axis=1).max(axis=0)  # masks of each block
        frame = canvas.first(int(most.sum()))
        yield frame
        confidence, step = frame.confidence, 0
        ended = np.zeros(len(state), bool)
        for block in np.flatnonzero(most):
            start, stop = int(block) * b, min((int(block) + 1) * b, state.shape[1])
            here = slice(start, stop)
            part = Canvas(state[:, here], given[:, here] | ended[:, None], canvas.mask_id)
            told = reader.block(state, start, stop)
            if canvas.allowed is not None:
                told = constrained(told, canvas.allowed[:, here])
            inside = within(self.inside, part)
            later = int(most[block + 1 :].sum())
            for inner in inside(masks, told, part, rng):
                if inner.step == 0:
                    continue
                step += 1
                state, confidence = state.copy(), confidence.copy()
                state[:, here], confidence[:, here] = inner.state, inner.confidence
                committed, remasked = np.zeros(state.shape, bool), np.zeros(state.shape, bool)
                committed[:, here], remasked[:, here] = inner.committed, inner.remasked
                if inner.step == inner.steps and self.eos_id is not None:  # the block is full
                    over = canvas.free & after_first(canvas.free[:, :stop] & (state[:, :stop] == self.eos_id), state)
                    committed |= over & (state == canvas.mask_id)
                    state, confidence = np.where(over, self.eos_id, state), np.where(over, 1.0, confidence)
                    ended = ~(state == canvas.mask_id).any(axis=1)
                    later = 0 if ended.all() else later
                t = float((state == canvas.mask_id).mean())
                yield canvas.frame(
                    step, step + inner.steps - inner.step + later, t, state, confidence, committed, remasked
                )
            if ended.all():
                return


@dataclass(frozen=True)
class Blocks(BlockByBlock):
    """Fill blocks of the length that the process, `BlockDiffusion`, has.

    Attributes
    ----------
    cache : whether a Transformer keeps the keys and values of finished blocks; without, it reads them for every look

    """

    cache: bool = True

    def reader(self, process: Any, model: Model) -> Reader:
        """One that forgets nothing it needs."""
        return Reader(model, process.block_length, self.cache)


class BlockReader(Protocol):
    """A model of texts, asked about one block after another."""

    @property
    def block_length(self) -> int:
        """b."""
        ...

    def block(self, state: Ints, start: int, stop: int) -> Model:
        """The model of one block: tokens and masks (B, stop - start) to logits, given the rest of `state` (B, L)."""
        ...


class Reader:
    """A model of blocks, asked about one block after another: it reads what is finished once and keeps what it needs.

    A text may be longer than the model was built for. When it would no longer fit, the older half of what was read is
    forgotten, the rest moves to the beginning and is read again, in whole blocks.

    Parameters
    ----------
    model : a Transformer; anything else that takes `causal` is asked without a cache
    block_length : b
    cache : keep keys and values

    """

    def __init__(self, model: Model, block_length: int, cache: bool = True) -> None:
        capacity = getattr(model, "length", None)
        self.model, self.block_length, self.capacity = model, block_length, capacity
        self.keeps = cache and isinstance(model, Transformer)
        self.kept: Cache | None = None
        self.first = 0  # where in the text the window of the model begins

    def block(self, state: Ints, start: int, stop: int) -> Model:
        """The model of the next block: tokens and masks (B, stop - start) to logits, given what `state` has before."""
        if self.capacity is not None and stop - start > self.capacity:
            raise ValueError(
                f"block_length is {self.block_length}, but this model takes at most {self.capacity} positions: ask for "
                "a text no longer than that, which is one block"
            )
        if self.capacity is not None and stop - self.first > self.capacity:
            half = (self.capacity - self.block_length) // 2 // self.block_length * self.block_length
            self.first, self.kept = start - half, None
        before, size = state[:, self.first : start], stop - start  # (B, n)
        if self.keeps and self.kept is None:
            assert isinstance(self.model, Transformer)
            self.kept = self.model.new_cache(len(before))

        def told(x: Any, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
            read = 0 if self.kept is None else self.kept.length
            new = np.concatenate([before[:, read:], x], axis=1)
            where = np.zeros(new.shape, bool)
            where[:, new.shape[1] - size :] = True if select is None else select
            kept: dict[str, Any] = {} if self.kept is None else {"cache": self.kept}
            with no_grad():
                logits = self.model(new, causal=self.block_length, select=where, **kept).data  # (n, V)
            if self.kept is not None:
                self.kept.length = before.shape[1]  # the block itself is not finished
            return Tensor(logits.reshape(len(new), size, -1) if select is None else logits)

        return told


def within(inside: Any, part: Canvas) -> Any:
    """The decoder of a block, in no more steps than this block has masks."""
    if isinstance(inside, Order) and inside.steps is not None and inside.steps > part.most:
        return replace(inside, steps=part.most)
    return inside


def after_first(found: Bools, state: Ints) -> Bools:
    """Everything behind the first True of each row of (B, n), on (B, L): none where there is no True."""
    first = np.where(found.any(axis=1), found.argmax(axis=1), state.shape[1])
    return np.asarray(np.arange(state.shape[1]) > first[:, None])
