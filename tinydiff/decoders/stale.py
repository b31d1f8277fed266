"""Keeping keys and values where it is not exact: a model that sees everything, in blocks (Fast-dLLM, Wu et al. 2025).

The first look at a block reads the whole text. The other looks at it compute only

    "prefix"    the block and what follows it, with keys and values of what is before as they were at the first look
    "both"      the block alone, with those of what follows kept too (their DualCache)

With full attention what is before the block sees the block, and would have changed as it fills: the kept values are out
of date from the second look on. So the law is another one, by how much `exact.total_variation` and `replay` say, and
exact only in one step per block. With the network trained for blocks nothing has to be approximated: `Blocks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..arrays import Bools, Floats, Ints, check_counts
from ..tensor import Tensor, no_grad
from ..transformer import Model, Transformer
from .blocks import BlockByBlock
from .draws import unconstrained

Kept = Literal["nothing", "prefix", "both"]


@dataclass(frozen=True)
class StaleBlocks(BlockByBlock):
    """Fill blocks with a model of full attention, which keeps keys and values within a block: an approximation.

    Attributes
    ----------
    block_length : of blocks, counted from the beginning of the text
    kept : "prefix", "both", or "nothing": every look reads everything, and the law is exact

    """

    block_length: int = 16
    kept: Kept = "prefix"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_counts(block_length=self.block_length)
        if self.kept not in get_args(Kept):
            raise ValueError(f"kept is {self.kept!r}; expected one of {', '.join(get_args(Kept))}")

    def reader(self, process: Any, model: Model) -> StaleReader:
        """One that reads everything once per block."""
        model = unconstrained(model)  # the canvas has the constraints, block by block
        if self.kept != "nothing" and not isinstance(model, Transformer):
            raise ValueError(
                f"kept is {self.kept!r}, but the model is a {type(model).__name__}, which keeps nothing; expected a "
                "Transformer, or kept='nothing'"
            )
        return StaleReader(model, self.block_length, self.kept)


class StaleReader:
    """A model of full attention, asked about one block after another."""

    def __init__(self, model: Model, block_length: int, kept: Kept) -> None:
        self.model, self.block_length, self.kept = model, block_length, kept

    def block(self, state: Ints, start: int, stop: int) -> Model:
        """The model of one block: tokens and masks (B, stop - start) to logits, given the rest of `state` (B, L)."""
        length = state.shape[1]
        cache = self.model.new_cache(len(state)) if isinstance(self.model, Transformer) else None
        first = True

        def told(x: Any, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
            nonlocal first
            whole, where = state.copy(), np.zeros(state.shape, bool)
            whole[:, start:stop], where[:, start:stop] = x, True if select is None else select
            with no_grad():
                if self.kept == "nothing":
                    logits = self.model(whole, t, select=where).data  # (n, V)
                else:
                    assert isinstance(self.model, Transformer)
                    assert cache is not None
                    since, until = (0, length) if first else (start, length if self.kept == "prefix" else stop)
                    cache.length, cache.ahead = since, length - until
                    logits = self.model(whole[:, since:until], t, select=where[:, since:until], cache=cache).data
            first = False
            return Tensor(logits.reshape(*np.shape(x), -1) if select is None else logits)

        return told
