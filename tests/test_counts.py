"""How many there are of something is a whole number, at least 1, wherever it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.conftest import Runs
from tinydiff import (
    CMLM,
    D3PM,
    Autoregressive,
    BlockDiffusion,
    FlowMatching,
    GaussianDiffusion,
    MaskedDiffusion,
    Refinement,
    ScoreEntropy,
    Transformer,
    decoders,
    evaluate,
    exact,
    schedules,
)
from tinydiff.data import toys
from tinydiff.learning.preferences import Objective


def network(**sizes: int) -> Transformer:
    """A network of these sizes, small otherwise."""
    chosen = {"vocab_size": 3, "length": 4, "d_model": 8, "layers": 1, "heads": 2} | sizes
    return Transformer(**chosen, rng=np.random.default_rng(0))


def sampled(**sizes: int) -> object:
    """The first frame."""
    chosen = {"length": 4, "batch": 1} | sizes
    return next(MaskedDiffusion(3).sample(network(), **chosen, rng=np.random.default_rng(0)))


COUNTS: list[tuple[str, Callable[..., object]]] = [
    *(("vocab_size", kind) for kind in (CMLM, D3PM, Autoregressive, BlockDiffusion, MaskedDiffusion, Refinement)),
    *((name, network) for name in ("vocab_size", "length", "d_model", "layers", "heads")),
    ("vocab_size", ScoreEntropy), ("passes", lambda passes: Refinement(3, passes)),
    ("steps", lambda steps: D3PM(3, steps=steps)), ("features", GaussianDiffusion), ("features", FlowMatching),
    ("block_length", lambda block_length: BlockDiffusion(3, block_length)),
    ("mixture", lambda mixture: BlockDiffusion(3, mixture=(2, mixture))),
    ("T", lambda T: GaussianDiffusion(1, T=T)), ("length", sampled), ("batch", sampled),
    ("top_k", lambda top_k: decoders.Draw(1.0, top_k)), ("steps", decoders.LowConfidence),
    ("block_length", lambda block_length: decoders.Threshold(0.5, block_length=block_length)),
    ("drafts", decoders.Speculate), ("width", decoders.Beam), ("times", lambda times: Objective(times=times)),
    ("steps", lambda steps: exact.check_elbo(MaskedDiffusion(3), network(), 2, steps)),
    ("length", lambda length: exact.check_elbo(MaskedDiffusion(3), network(), length)),
    ("steps", lambda steps: schedules.linear().grid(steps)), ("n", lambda n: toys.points("moons", n, None)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "made"), COUNTS)
def test_counts_are_whole_and_positive(name: str, made: Callable[..., object]) -> None:
    """What is half, true or text, taken or found out far from where it was given; 0 steps for the default of None."""
    for wrong in (0, -2, 2.5, True, "3"):
        with pytest.raises(ValueError, match=rf"^{name} is {wrong!r}; (it must be at least 1|expected a whole)"):
            made(**{name: wrong})


def test_windows(runs: Runs) -> None:
    """Of an evaluation."""
    run = runs.new()
    for wrong in (0, 1.5, True):
        with pytest.raises(ValueError, match=f"^windows is {wrong}"):
            evaluate(run.model, run.process, run.corpus, windows=wrong)
