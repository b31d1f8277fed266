"""Diffusion and non-autoregressive language models from scratch, in NumPy with a C++ hot loop."""

from . import data, decoders, kernels, measures, ops, schedules
from .decoders.guidance import conditioned
from .learning import Options, Run, evaluate, load, train
from .learning.muon import Muon
from .learning.optim import EMA, AdamW
from .processes import (
    D3PM,
    Autoregressive,
    Bert,
    FlowMatching,
    GaussianDiffusion,
    MaskedDiffusion,
    ScoreEntropy,
)
from .tensor import Tensor, check_grads, no_grad
from .transformer import Transformer

__version__ = "0.1.0"

__all__ = [
    "D3PM",
    "EMA",
    "AdamW",
    "Autoregressive",
    "Bert",
    "FlowMatching",
    "GaussianDiffusion",
    "MaskedDiffusion",
    "Muon",
    "Options",
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
