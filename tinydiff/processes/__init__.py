"""Ways of corrupting data and learning to undo it, each a `Process` over the one transformer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, TypeAlias

import numpy as np

from ..arrays import Floats
from ..tensor import Tensor
from ..transformer import Model
from .autoregressive import Autoregressive
from .bert import Bert
from .block import BlockDiffusion
from .cart import CART
from .cmlm import CMLM, OnePass
from .d3pm import D3PM
from .divided import Divided
from .flow import FlowMatching
from .gaussian import GaussianDiffusion
from .masked import MaskedDiffusion
from .refinement import Refinement
from .score_entropy import ScoreEntropy
from .suffix import SuffixMasks

__all__ = [
    "CART",
    "CMLM",
    "D3PM",
    "PROCESSES",
    "AnyProcess",
    "Autoregressive",
    "Bert",
    "BlockDiffusion",
    "Divided",
    "FlowMatching",
    "GaussianDiffusion",
    "MaskedDiffusion",
    "OnePass",
    "Process",
    "Refinement",
    "ScoreEntropy",
    "SuffixMasks",
    "from_config",
]


class Process(Protocol):
    """What the training loop, the command line and the views need of a process.

    x is (B, L) token ids, for a process with a `vocab_size`, or (B, L, F) vectors, for one with a number of `features`.
    """

    @property
    def needs_time(self) -> bool:
        """Whether the network must be told the time, `Transformer(..., time=True)`."""
        ...

    @property
    def config(self) -> dict[str, Any]:
        """The arguments that build this process again, for checkpoints, and its name under "process"."""
        ...

    @property
    def decoded_by(self) -> tuple[type[Any], ...]:
        """The kinds of decoder that `sample` takes; the first is the default."""
        ...

    def corrupt(self, x0: Any, t: Floats, rng: np.random.Generator) -> Any:
        """Draw x_t given x_0 and (B,) times in [0, 1]; on tokens also `given`, positions that stay as they are."""
        ...

    def loss(self, model: Model, batch: Any, rng: np.random.Generator) -> Tensor:
        """Training loss of a batch: a scalar, in nats per free token for tokens, a mean square for vectors."""
        ...

    def bound(self, model: Model, batch: Any, rng: np.random.Generator) -> Floats:
        """(B,) nats per sequence: an unbiased estimate of an upper bound of each -log p(free | given)."""
        ...

    def sample(
        self, model: Model, length: int, batch: int = 1, *, decoder: Any = None, rng: np.random.Generator
    ) -> Iterator[Any]:
        """Generate `batch` sequences of that length, yielding a frame per step.

        `decoder` is one of those made for the process, see `tinydiff.decoders`. Processes on tokens also take `x0` and
        `given`, what is known beforehand and where, and `allowed`, the tokens that each position may hold.
        """
        ...


AnyProcess: TypeAlias = (
    MaskedDiffusion | BlockDiffusion | Autoregressive | D3PM | ScoreEntropy | Bert | CART | CMLM | OnePass | Refinement
    | GaussianDiffusion | FlowMatching
)  # fmt: skip

PROCESSES: dict[str, type[AnyProcess]] = {
    "masked": MaskedDiffusion,
    "block": BlockDiffusion,
    "autoregressive": Autoregressive,
    "d3pm": D3PM,
    "score_entropy": ScoreEntropy,
    "bert": Bert,
    "cart": CART,
    "cmlm": CMLM,
    "nat": OnePass,
    "refinement": Refinement,
    "suffix": SuffixMasks,
    "ddpm": GaussianDiffusion,
    "flow": FlowMatching,
}


def from_config(config: dict[str, Any]) -> AnyProcess:
    """Build the process that `config` describes (the inverse of `Process.config`)."""
    arguments = dict(config)
    name = arguments.pop("process", None)
    if name not in PROCESSES:
        raise ValueError(f"process is {name!r}; expected one of {', '.join(PROCESSES)}")
    return PROCESSES[name](**arguments)
