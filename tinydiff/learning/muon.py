"""Muon: momentum whose singular values are all made equal, for the matrices inside a network (Jordan et al. 2024).

A gradient of a matrix is mostly a few large directions; a step along it, even with Adam's scale per element, hardly
moves the others. Muon takes the step with the same singular vectors and every singular value near 1:

    m <- beta m + g,    u = g + beta m    (Nesterov's momentum)
    p <- p - lr max(1, outputs / inputs)^(1/2) U V^T,           u = U S V^T

`kernels.orthogonalise` finds U V^T, nearly, without a decomposition. Embeddings, the output head, biases and norms are
not maps between hidden vectors: they are AdamW's, at a rate of their own.
"""

from __future__ import annotations

import math

import numpy as np

from .. import kernels
from ..arrays import Floats
from ..tensor import Tensor
from .optim import AdamW


def block_matrices(params: dict[str, Tensor]) -> list[str]:
    """Names of the matrices of a transformer's blocks."""
    return [name for name, p in params.items() if name.startswith("block") and p.ndim >= 2]


class Muon(AdamW):
    """Orthogonalised momentum for the matrices of the blocks, AdamW for all else.

    Parameters
    ----------
    params : a transformer's; a matrix that makes queries, keys and values counts as three
    relative_rate : learning rate of the matrices as a multiple of AdamW's, which is the one `step` is told
    momentum : beta above
    betas, eps, weight_decay, clip : as of AdamW; matrices decay at their own rate

    """

    def __init__(
        self,
        params: dict[str, Tensor],
        *,
        relative_rate: float = 1.0,
        momentum: float = 0.9,
        betas: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        clip: float = 1.0,
    ) -> None:
        super().__init__(params, betas=betas, eps=eps, weight_decay=weight_decay, clip=clip)
        self.relative_rate, self.momentum = relative_rate, momentum
        self.matrices = block_matrices(params)
        if not self.matrices:
            raise ValueError("params has no matrix in a block, which is all that Muon works on; use AdamW")
        own = set(self.matrices)
        rest = [part for name, (part, shape) in self.flat.slices.items() if len(shape) >= 2 and name not in own]
        self.parts = [*((part, weight_decay) for part in rest), (slice(self.flat.decayed, None), 0.0)]

    def state(self) -> dict[str, Floats]:
        """What the next step depends on beside the weights: views by name."""
        own, both = set(self.matrices), super().state()
        adam = {key: view for key, view in both.items() if key.split("/")[1] not in own}
        return {f"muon.m/{name}": both[f"adam.m/{name}"] for name in self.matrices} | adam

    def _update(self, lr: float, own: slice) -> None:
        super()._update(lr, own)
        lr = lr * self.relative_rate
        values, grads, means = (self.flat.named(all_) for all_ in (self.flat.values, self.flat.grads, self.m))
        alike: dict[tuple[int, int], list[tuple[Floats, Floats, Floats]]] = {}  # weights, gradients, means, by shape
        for name in self.matrices:
            if not own.start <= self.flat.slices[name][0].start < own.stop:
                continue
            for p, g, m in zip(*(_as_matrices(name, all_[name]) for all_ in (values, grads, means)), strict=True):
                alike.setdefault((p.shape[0], p.shape[1]), []).append((p, g, m))
        for (inputs, outputs), group in alike.items():
            u = np.empty((len(group), inputs, outputs), self.m.dtype)
            for i, (_, g, m) in enumerate(group):
                m *= self.momentum
                m += g
                np.multiply(m, self.momentum, out=u[i])
                u[i] += g
            steps = kernels.orthogonalise(u)
            steps *= lr * math.sqrt(max(1.0, outputs / inputs))
            for (p, _, _), step in zip(group, steps, strict=True):
                p *= 1 - lr * self.weight_decay
                p -= step


def _as_matrices(name: str, p: Floats) -> list[Floats]:
    """Views of a parameter's matrices, each inputs x outputs: one, three of qkv, and one for each of a stack."""
    stack = p.reshape(-1, *p.shape[-2:])
    count = 3 if ".qkv." in name else 1
    return [part for matrix in stack for part in np.split(matrix, count, axis=1)]
