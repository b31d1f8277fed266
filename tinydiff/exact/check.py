"""Is the bound a bound? The exact NELBO of every sequence beside its exact -log p."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import Bools, Floats, Ints
from ..processes.discrete import DiscreteDiffusion
from ..transformer import Model
from . import chain, continuous, masked
from .states import all_sequences, free_positions, state_index


@dataclass(frozen=True)
class ElboCheck:
    """Exact -log p(x0), or -log p(free | given), and its exact bound for every sequence, in nats: (V^L,) each."""

    sequences: Ints
    nll: Floats
    bound: Floats
    contents: int = 1  # of the given positions: the probabilities sum to 1 for each

    @property
    def gap(self) -> Floats:
        return self.bound - self.nll

    def __str__(self) -> str:
        shown = np.argsort(-self.gap, kind="stable")[:5]
        rows = [f"{'x0':>12}  {'exact NLL':>10}  {'NELBO':>10}  {'gap':>10}   (nats; the five largest gaps)"]
        for i in shown:
            x0 = "".join(map(str, self.sequences[i]))
            rows.append(f"{x0:>12}  {self.nll[i]:10.6f}  {self.bound[i]:10.6f}  {self.gap[i]:10.2e}")
        rows.append(
            f"{len(self.nll)} sequences, total probability {np.exp(-self.nll).sum() / self.contents:.12f}"
            + (f" for each of {self.contents} prompts" if self.contents > 1 else "")
            + f", smallest gap {self.gap.min():.2e}"
        )
        return "\n".join(rows)


def check_elbo(
    process: DiscreteDiffusion,
    model: Model,
    length: int,
    steps: int | None = None,
    given: Bools | None = None,
) -> ElboCheck:
    """Compare the exact bound with the exact likelihood of every sequence; raise AssertionError where it is broken.

    Parameters
    ----------
    steps : of the discrete-time chain; None for the process's own time, which is continuous for all but D3PM
    given : (L,), True where a position is known beforehand; likelihood and bound are then of the others, given those

    Returns
    -------
    A table that prints itself

    """
    sequences, free = all_sequences(process.vocab_size, length), free_positions(length, given)
    steps = process.steps if steps is None else steps
    if steps is not None:
        nll = _minus_log(chain.ancestral_law(process, model, length, steps, given))
        bound = chain.chain_nelbo(process, model, sequences, steps, given)
    elif process.any_order and not getattr(model, "time", False):
        nll = masked.any_order_nll(process, model, sequences, given)
        bound = masked.nelbo(process, model, sequences, given=given)
    else:
        nll = _minus_log(continuous.continuous_law(process, model, length, given=given))
        bound = continuous.continuous_nelbo(process, model, sequences, given)
    check = ElboCheck(sequences, nll, bound, process.vocab_size ** (length - len(free)))
    slack = 1e-9 * np.maximum(1, nll)
    contents = state_index(np.delete(sequences, free, axis=1), process.vocab_size)  # what is given, numbered
    sums = np.bincount(contents, np.exp(-nll))
    if not (np.allclose(sums, 1, rtol=0, atol=1e-9) and (check.gap >= -slack).all()):
        raise AssertionError(f"the bound is broken\n{check}")
    return check


def _minus_log(law: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(law))
