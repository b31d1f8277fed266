"""Ways of corrupting data and learning to undo it, each a `Process` over the one transformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..arrays import Floats, Ints
from ..samplers import Frame
from ..tensor import Tensor
from ..transformer import Model
from .autoregressive import Autoregressive
from .bert import Bert
from .d3pm import D3PM
from .masked import MaskedDiffusion
from .score_entropy import ScoreEntropy

__all__ = [
    "D3PM",
    "PROCESSES",
    "AnyProcess",
    "Autoregressive",
    "Bert",
    "MaskedDiffusion",
    "Process",
    "ScoreEntropy",
    "from_config",
]


class Process(Protocol):
    """What the training loop, the command line and the views need of a process."""

    vocab_size: int

    @property
    def needs_time(self) -> bool:
        """Whether the network must be told the time, `Transformer(..., time=True)`."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again, for checkpoints, and its name under "process"."""
        ...

    def corrupt(self, x0: Ints, t: Floats, rng: np.random.Generator) -> Ints:
        """Draw x_t given x_0: (B, L) ids and (B,) times in [0, 1] to (B, L) ids."""
        ...

    def loss(self, model: Model, x0: Ints, rng: np.random.Generator) -> Tensor:
        """Training loss of a batch: a scalar in nats per token."""
        ...

    def bound(self, model: Model, x0: Ints, rng: np.random.Generator) -> Floats:
        """(B,) nats per sequence: an unbiased estimate of an upper bound of each -log p(x0)."""
        ...

    def sample(
        self,
        model: Model,
        length: int,
        batch: int = 1,
        *,
        rng: np.random.Generator,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
    ) -> Iterator[Frame]:
        """Generate (batch, length) ids, yielding a frame per step. Each process has options of its own besides."""
        ...


AnyProcess: TypeAlias = MaskedDiffusion | Autoregressive | D3PM | ScoreEntropy | Bert

PROCESSES: dict[str, type[AnyProcess]] = {
    "masked": MaskedDiffusion,
    "autoregressive": Autoregressive,
    "d3pm": D3PM,
    "score_entropy": ScoreEntropy,
    "bert": Bert,
}


def from_config(config: dict[str, Any]) -> AnyProcess:
    """Build the process that `config` describes (the inverse of `Process.config`)."""
    arguments = dict(config)
    name = arguments.pop("process", None)
    if name not in PROCESSES:
        raise ValueError(f"process is {name!r}; expected one of {', '.join(PROCESSES)}")
    return PROCESSES[name](**arguments)
