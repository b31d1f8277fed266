"""Time to quality: who takes part. Recipes and sizes, shared by `quality_ours.py` and `quality_torch.py`.

An entry counts if its held-out bits, averaged over the seeds, are at the level or below after its own fixed number of
steps. Its time is that number times the median milliseconds of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

CORPUS = "python_docs"
Mode = Literal["masked", "autoregressive"]
Board = tuple[Literal["S", "M"], Mode]
SEEDS: dict[Board, tuple[int, ...]] = {
    ("S", "masked"): (0, 1, 2),
    ("S", "autoregressive"): (0, 1, 2),
    ("M", "masked"): (0, 1, 2),
    ("M", "autoregressive"): (0, 1, 2),
}
"""The boards: size (`cases.SIZES`) and process, and the seeds that an entry trains with."""


@dataclass(frozen=True)
class Entry:
    """A row of the leaderboard.

    Attributes
    ----------
    module : whose implementation, `benchmarks.{module}`
    steps : how many for each board it is on; the learning rate is at a tenth of its peak after them
    optimiser, lr : AdamW, or Muon for the matrices of the blocks (at 0.02) and AdamW at this peak rate for the rest
    estimator : how masks are drawn, see `tinydiff.MaskedDiffusion`
    averaged : whether a moving average of the weights (decay 0.995) is what counts
    precision : of matrix products in training, see `tinydiff.Transformer`

    """

    module: Literal["quality_ours", "quality_torch"]
    steps: dict[Board, int]
    optimiser: Literal["adamw", "muon"] = "adamw"
    lr: float = 2e-3
    estimator: Literal["time", "count"] = "time"
    averaged: bool = False
    precision: Literal["full", "bfloat16"] = "full"


PLAIN: dict[Board, int] = {
    ("S", "masked"): 3000, ("S", "autoregressive"): 3000, ("M", "masked"): 400, ("M", "autoregressive"): 400,
}  # fmt: skip
BEST: dict[Board, int] = {
    ("S", "masked"): 1100, ("S", "autoregressive"): 700, ("M", "masked"): 250, ("M", "autoregressive"): 250,
}  # fmt: skip
REFERENCE = "PyTorch, AdamW"
"""Sets the level: what it reaches in the steps of `PLAIN`. At size M that is early in training, which is long there."""
ENTRIES: dict[str, Entry] = {
    REFERENCE: Entry("quality_torch", PLAIN),
    "PyTorch, Muon": Entry("quality_torch", BEST, "muon", 0.02, "count", averaged=True),
    "tinydiff, AdamW": Entry("quality_ours", {("S", "masked"): 2900, ("S", "autoregressive"): 2400}, averaged=True),
    "tinydiff, Muon": Entry("quality_ours", BEST, "muon", 0.02, "count", averaged=True),
    "tinydiff, Muon, bfloat16": Entry("quality_ours", BEST, "muon", 0.02, "count", True, "bfloat16"),
}
