"""Block diffusion by enumeration: the exact likelihood and bound, block by block with the oracles of masks.

    -log p(x) = sum_b -log p(x^b | x^{<b}),    NELBO(x) = sum_b NELBO(x^b | x^{<b})

each of which is masked diffusion of the block with what comes before given (Arriola et al. 2025, eq. 3 and 8).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..processes.block import BlockDiffusion
from ..tensor import Tensor, no_grad
from ..transformer import Model
from .masked import any_order_nll, nelbo_by_count


def block_nll(process: BlockDiffusion, model: Model, x0: Ints) -> Floats:
    """Exact -log p(x0) of sequences (n, L), positions of each block being revealed in random order: (n,) nats."""
    return _sum_over_blocks(process, model, x0, any_order_nll)


def block_nelbo(process: BlockDiffusion, model: Model, x0: Ints) -> Floats:
    """The exact bound of sequences (n, L): (n,) nats."""
    return _sum_over_blocks(process, model, x0, nelbo_by_count)


def _sum_over_blocks(process: BlockDiffusion, model: Model, x0: Ints, of_block: Any) -> Floats:
    b, length, total = process.block_length, x0.shape[1], np.zeros(len(x0))
    for start in range(0, length, b):
        stop = min(start + b, length)
        told = _up_to(model, length, process.mask_id, b)
        total += of_block(process.inside, told, x0[:, :stop], given=np.arange(stop) < start)
    return total


def _up_to(model: Model, length: int, mask_id: int, block_length: int) -> Model:
    """The model of texts that are cut behind a block: what would follow is masked, which a model of blocks cannot see.

    One that sees everything, as Bayes' rule does, takes it for unknown.
    """

    def told(x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        whole = np.full((len(x), length), mask_id)
        whole[:, : x.shape[1]] = x
        with no_grad():
            logits = model(whole, t, causal=block_length).data[:, : x.shape[1]]
        return Tensor(logits if select is None else logits[select])

    return told
