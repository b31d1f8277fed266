"""Is the bound a bound? The exact NELBO of every sequence beside its exact -log p."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..arrays import Floats, Ints
from ..processes.discrete import DiscreteDiffusion
from ..transformer import Model
from . import chain, continuous, masked
from .states import all_sequences


@dataclass(frozen=True)
class ElboCheck:
    """Exact -log p(x0) and its exact bound for every sequence, in nats: (V^L,) each."""

    sequences: Ints
    nll: Floats
    bound: Floats

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
            f"{len(self.nll)} sequences, total probability {np.exp(-self.nll).sum():.12f}, "
            f"smallest gap {self.gap.min():.2e}"
        )
        return "\n".join(rows)


def check_elbo(process: DiscreteDiffusion, model: Model, length: int, steps: int | None = None) -> ElboCheck:
    """Compare the exact bound with the exact likelihood of every sequence; raise AssertionError where it is broken.

    Parameters
    ----------
    steps : of the discrete-time chain; None for the process's own time, which is continuous for all but D3PM

    Returns
    -------
    A table that prints itself

    """
    sequences = all_sequences(process.vocab_size, length)
    steps = steps or process.steps
    if steps is not None:
        nll = _minus_log(chain.ancestral_law(process, model, length, steps))
        bound = chain.chain_nelbo(process, model, sequences, steps)
    elif process.any_order and not getattr(model, "time", False):
        nll = masked.any_order_nll(process, model, sequences)
        bound = masked.nelbo(process, model, sequences)
    else:
        nll = _minus_log(continuous.continuous_law(process, model, length))
        bound = continuous.continuous_nelbo(process, model, sequences)
    check = ElboCheck(sequences, nll, bound)
    slack = 1e-9 * np.maximum(1, nll)
    if not (np.isclose(np.exp(-nll).sum(), 1, atol=1e-9) and (check.gap >= -slack).all()):
        raise AssertionError(f"the bound is broken\n{check}")
    return check


def _minus_log(law: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        return np.asarray(-np.log(law))
