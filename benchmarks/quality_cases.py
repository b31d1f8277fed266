"""Time to quality: who takes part. Recipes and sizes, shared by `quality_ours.py` and `quality_torch.py`.

An entry counts if its held-out bits, averaged over the seeds, are at the level or below after its own fixed number of
steps. Its time is that number times the median milliseconds of a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.cases import SIZES, Size

SIZE: Size = SIZES["S"]
CORPUS = "python_docs"
SEEDS = (0, 1, 2)
Mode = Literal["masked", "autoregressive"]
MODES: tuple[Mode, ...] = ("masked", "autoregressive")


@dataclass(frozen=True)
class Entry:
    """A row of the leaderboard.

    Attributes
    ----------
    module : whose implementation, `benchmarks.{module}`
    steps : how many for each mode; the learning rate is at a tenth of its peak after them
    optimiser, lr : AdamW, or Muon for the matrices of the blocks (at 0.02) and AdamW at this peak rate for the rest
    estimator : how masks are drawn, see `tinydiff.MaskedDiffusion`
    averaged : whether a moving average of the weights (decay 0.995) is what counts

    """

    module: Literal["quality_ours", "quality_torch"]
    steps: dict[Mode, int]
    optimiser: Literal["adamw", "muon"] = "adamw"
    lr: float = 2e-3
    estimator: Literal["time", "count"] = "time"
    averaged: bool = False


PLAIN: dict[Mode, int] = {"masked": 3000, "autoregressive": 3000}
BEST: dict[Mode, int] = {"masked": 1100, "autoregressive": 700}
REFERENCE = "PyTorch, AdamW"
"""Sets the level: what it reaches in 3,000 steps."""
ENTRIES: dict[str, Entry] = {
    REFERENCE: Entry("quality_torch", PLAIN),
    "PyTorch, Muon": Entry("quality_torch", BEST, "muon", 0.02, "count", averaged=True),
    "tinydiff, AdamW": Entry("quality_ours", {"masked": 2900, "autoregressive": 2400}, averaged=True),
    "tinydiff, Muon": Entry("quality_ours", BEST, "muon", 0.02, "count", averaged=True),
}
