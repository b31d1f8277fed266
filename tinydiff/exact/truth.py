"""Models that know the truth: the best denoisers there are for data of a known law."""

from __future__ import annotations

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..data.laws import Listed
from ..processes.discrete import DiscreteDiffusion
from ..tensor import Tensor
from .states import all_sequences


class BayesDenoiser:
    """What the other positions say about each token, p(x_0^i | x_t^j for all j != i), as a `Model`.

    At a masked position this is p(x_0^i | x_t), because MASK says nothing.

    Parameters
    ----------
    law : (V^L,) probabilities of all sequences, in the order of `all_sequences`
    process : its noise; None for masks, where the time does not matter

    """

    def __init__(self, law: Floats, vocab_size: int, length: int, process: DiscreteDiffusion | None = None) -> None:
        if law.shape != (vocab_size**length,) or not np.isclose(law.sum(), 1):
            raise ValueError(
                f"law has shape {law.shape} and sums to {law.sum()}; expected ({vocab_size**length},) and 1"
            )
        self.law, self.vocab_size, self.process = law, vocab_size, process
        self.sequences = all_sequences(vocab_size, length)

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        """Log-probabilities (B, L, V), or (n, V) for the positions of `select`."""
        likelihood = self._likelihood(x, t)  # (B, V^L, L) of each position of x_t
        with np.errstate(divide="ignore"):
            log_likelihood = np.log(likelihood)
        hits = np.isneginf(log_likelihood)
        finite = np.where(hits, 0, log_likelihood)
        others = np.exp(finite.sum(axis=-1, keepdims=True) - finite)  # without the position itself
        others = np.where(hits.sum(axis=-1, keepdims=True) - hits > 0, 0, others) * self.law[:, None]
        onehot = np.eye(self.vocab_size)[self.sequences]  # (V^L, L, V)
        marginals = np.einsum("bsl,slv->blv", others, onehot)
        total = marginals.sum(axis=-1, keepdims=True)
        # States that no data can lead to have no truth: any answer will do.
        p = np.divide(marginals, total, out=np.full(marginals.shape, 1 / self.vocab_size), where=total > 0)
        with np.errstate(divide="ignore"):
            log_p = np.log(p)
        return Tensor(log_p if select is None else log_p[select])

    def _likelihood(self, x: Ints, t: Floats | None) -> Floats:
        """q(x_t^i | x_0^i) for every sequence x_0: (B, V^L, L)."""
        if self.process is None:
            agrees = (x[:, None] == self.sequences) | (x[:, None] == self.vocab_size)
            return np.asarray(agrees, np.float64)
        if t is None:
            raise ValueError("t is missing; the best denoiser of this process depends on it")
        matrices = np.stack([self.process.forward(0.0, float(time)) for time in t])  # (B, S, S)
        rows = np.arange(len(x))[:, None, None]
        return np.asarray(matrices[rows, self.sequences[None], x[:, None]])


class ListedDenoiser:
    """p(x_0^i | visible tokens) for texts that can be listed, as a `Model` of masked diffusion.

    With it every mistake in a generated text is the decoder's. What is visible may fit no text any more; then every
    token is equally likely.
    """

    def __init__(self, law: Listed) -> None:
        self.law, self.vocab_size = law, law.codec.vocab_size
        self._onehot = np.eye(self.vocab_size)[law.ids].reshape(len(law.ids), -1)  # (N, L V)

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 0, select: Bools | None = None) -> Tensor:
        """Log-probabilities (B, L, V), or (n, V) for the positions of `select`."""
        visible = np.eye(self.vocab_size + 1)[x][..., : self.vocab_size].reshape(len(x), -1)  # (B, L V)
        matches = visible @ self._onehot.T == visible.sum(axis=1, keepdims=True)  # (B, N)
        p = ((matches * self.law.p) @ self._onehot).reshape(*x.shape, self.vocab_size)
        total = p.sum(axis=-1, keepdims=True)
        p = np.divide(p, total, out=np.full(p.shape, 1 / self.vocab_size), where=total > 0)
        with np.errstate(divide="ignore"):
            log_p = np.log(p)
        return Tensor(log_p if select is None else log_p[select])


class ListedNextWord:
    """p(x^i | x^{<i}) for texts that can be listed, as a `Model` of the autoregressive process: a perfect teacher.

    What came before may fit no text any more; then every token is equally likely.
    """

    def __init__(self, law: Listed) -> None:
        self.law, self.vocab_size = law, law.codec.vocab_size

    def __call__(self, x: Ints, t: Floats | None = None, *, causal: int = 1, select: Bools | None = None) -> Tensor:
        """Log-probabilities (B, L, V) of what follows each of (B, L), the special token first, or (n, V) of some."""
        p = np.empty((*x.shape, self.vocab_size))
        fits = np.ones((len(x), len(self.law.ids)), bool)
        for i in range(x.shape[1]):
            if i:
                fits &= x[:, i, None] == self.law.ids[:, i - 1]
            p[:, i] = (fits * self.law.p) @ np.eye(self.vocab_size)[self.law.ids[:, i]]
        total = p.sum(axis=-1, keepdims=True)
        p = np.divide(p, total, out=np.full(p.shape, 1 / self.vocab_size), where=total > 0)
        with np.errstate(divide="ignore"):
            log_p = np.log(p)
        return Tensor(log_p if select is None else log_p[select])
