"""Processes by the names of the command line, made for the data that they are to learn."""

from __future__ import annotations

from inspect import signature
from typing import Any

from .. import data
from . import (
    CART,
    CMLM,
    D3PM,
    AnyProcess,
    Autoregressive,
    Bert,
    BlockDiffusion,
    FlowMatching,
    GaussianDiffusion,
    MaskedDiffusion,
    OnePass,
    Process,
    Refinement,
    ScoreEntropy,
)

VARIANTS: dict[str, tuple[type[AnyProcess], dict[str, Any]]] = {
    "autoregressive": (Autoregressive, {}),
    "masked": (MaskedDiffusion, {"estimator": "count"}),
    "block": (BlockDiffusion, {"estimator": "count"}),
    "bert": (Bert, {}),
    "cart": (CART, {}),
    "nat": (OnePass, {}),
    "cmlm": (CMLM, {}),
    "refinement": (Refinement, {}),
    "d3pm_absorbing": (D3PM, {"matrix": "absorbing"}),
    "d3pm_uniform": (D3PM, {"matrix": "uniform"}),
    "d3pm_nearest": (D3PM, {"matrix": "nearest"}),
    "sedd_absorbing": (ScoreEntropy, {"graph": "absorbing"}),
    "sedd_uniform": (ScoreEntropy, {"graph": "uniform"}),
    "ddpm": (GaussianDiffusion, {}),
    "flow": (FlowMatching, {}),
}
"""Processes by the names of the command line."""


def new_process(name: str, corpus: data.Dataset, **options: Any) -> Process:
    """The process of that name for a corpus or vectors.

    Parameters
    ----------
    options : `schedule`, `estimator`, `predict`, `pairing`, `block_length`, for processes that have them; None for the
        default

    """
    if name not in VARIANTS:
        raise ValueError(f"process is {name!r}; expected one of {', '.join(VARIANTS)}")
    kind, fixed = VARIANTS[name]
    chosen = dict(fixed)
    for option, value in options.items():
        if value is not None:
            argument = "noise" if (kind, option) == (ScoreEntropy, "schedule") else option
            if argument not in signature(kind).parameters:
                raise ValueError(f"{option} is {value!r}, but process {name!r} has no such option; leave it out")
            chosen[argument] = value
    of_vectors = [variant for variant, (other, _) in VARIANTS.items() if other in (GaussianDiffusion, FlowMatching)]
    suited = [variant for variant in VARIANTS if (variant in of_vectors) == isinstance(corpus, data.Vectors)]
    if name not in suited:
        raise ValueError(f"process is {name!r}, which does not suit {corpus.name}; choose one of {', '.join(suited)}")
    if isinstance(corpus, data.Vectors):
        if kind is GaussianDiffusion:
            chosen["clip"] = corpus.reach
        return kind(corpus.features, **chosen)
    vocab_size = getattr(corpus, "vocab_size", None)
    if vocab_size is None:
        raise ValueError(f"corpus is a {type(corpus).__name__}, which has no vocab_size; see docs/own_data.md")
    if name == "d3pm_nearest":
        if not isinstance(corpus, data.Corpus | data.Pairs):
            raise ValueError(
                f"process is {name!r}, whose neighbours come from text, which {corpus.name} is not; make it yourself: "
                "D3PM(vocab_size, 'nearest', embeddings=...)"
            )
        chosen["embeddings"] = data.embeddings(corpus.train, vocab_size)
    return kind(vocab_size, **chosen)
