"""Diffusion and non-autoregressive language models from scratch, in NumPy with a C++ hot loop.

To read it, start with `processes/masked.py`: masked diffusion, its loss and its bound, in one page. Then

- `decoders/orders.py`: from masks to text, a few positions at a time, the surest first
- `transformer.py`, on `ops.py` and `tensor.py`: the one network of all processes, and its gradients
- `learning/training.py`: the loop; `exact/masked.py`: what the loss and the decoders should give, by enumeration

The rest are variations: other noise in `processes/`, other orders in `decoders/`.
"""

from . import _start  # noqa: F401, I001  # first: it answers Ctrl-C while all of this is imported
from . import data, decoders, kernels, measures, ops, schedules
from .decoders.guidance import conditioned
from .learning import Options, Run, evaluate, load, train
from .learning.muon import Muon
from .learning.optim import EMA, AdamW
from .processes import (
    CART,
    CMLM,
    D3PM,
    Autoregressive,
    Bert,
    BlockDiffusion,
    FlowMatching,
    GaussianDiffusion,
    MaskedDiffusion,
    OnePass,
    Refinement,
    ScoreEntropy,
)
from .tensor import Tensor, check_grads, no_grad
from .transformer import Transformer

__version__ = "0.1.0"

__all__ = [
    "CART",
    "CMLM",
    "D3PM",
    "EMA",
    "AdamW",
    "Autoregressive",
    "Bert",
    "BlockDiffusion",
    "FlowMatching",
    "GaussianDiffusion",
    "MaskedDiffusion",
    "Muon",
    "OnePass",
    "Options",
    "Refinement",
    "Run",
    "ScoreEntropy",
    "Tensor",
    "Transformer",
    "check_grads",
    "conditioned",
    "data",
    "decoders",
    "evaluate",
    "kernels",
    "load",
    "measures",
    "no_grad",
    "ops",
    "schedules",
    "train",
]
